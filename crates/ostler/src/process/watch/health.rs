//! Whether a ready worker stays healthy: probes on an interval, and heartbeats.

use std::time::Duration;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::Health;
use tokio::sync::watch;

use super::notify::{self, Heard};
use super::{Answer, Question};

/// What is watched of a ready worker.
pub(in crate::process) struct HealthPlan {
    /// A probe on an interval.
    pub(in crate::process) probe: Option<HealthProbe>,
    /// The messages of its tree, and the longest time between two `WATCHDOG=1`.
    pub(in crate::process) heartbeat: Option<(watch::Receiver<Heard>, Duration)>,
}

/// A probe on an interval.
pub(in crate::process) struct HealthProbe {
    pub(in crate::process) question: Question,
    /// Interval, time limit and misses.
    pub(in crate::process) rules: Health,
}

/// Waits until the worker is no longer healthy, and returns why. Never returns if nothing is
/// watched.
pub(in crate::process) async fn watch(plan: HealthPlan) -> Failure {
    let HealthPlan { probe, heartbeat } = plan;
    let probes = async {
        match &probe {
            Some(probe) => poll(probe).await,
            None => std::future::pending().await,
        }
    };
    let heartbeats = async {
        match heartbeat {
            Some((heard, longest)) => notify::silence(heard, longest).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        failure = probes => failure,
        failure = heartbeats => failure,
    }
}

/// The first probe starts one interval after ready, each later one an interval after the end of the
/// previous one.
async fn poll(probe: &HealthProbe) -> Failure {
    let Health {
        every, timeout, misses, ..
    } = probe.rules;
    let (mut missed, mut unasked) = (0, false);
    loop {
        tokio::time::sleep(every).await;
        let why = match probe.question.attempt(timeout).await {
            Answer::Yes(_) => {
                (missed, unasked) = (0, false);
                continue;
            }
            // Neither a miss nor a sign of health.
            Answer::Unasked(why) => {
                if !std::mem::replace(&mut unasked, true) {
                    tracing::warn!(target: "ostler", why, "a health probe could not be made, which does not count against the worker");
                }
                continue;
            }
            Answer::NotYet(why) => why,
            Answer::Never(failure) => failure.message,
        };
        missed += 1;
        if missed >= misses {
            return Failure::new(
                Reason::HealthCheckFailed,
                format!("{missed} health probes in a row failed; the last: {why}"),
            );
        }
    }
}
