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
        let (why, never) = match probe.question.attempt(timeout).await {
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
            Answer::NotYet(why) => (why, None),
            Answer::Never(failure) => (failure.message.clone(), Some(failure)),
        };
        missed += 1;
        if missed >= misses {
            let message = format!("{missed} health probes in a row failed; the last: {why}");
            return unhealthy(message, never);
        }
    }
}

/// What is known about a probe that could never succeed says more than the reason does.
fn unhealthy(message: String, never: Option<Failure>) -> Failure {
    let mut failure = Failure::new(Reason::HealthCheckFailed, message);
    if let Some(never) = never {
        failure.holder = never.holder;
        failure.suggestion = never.suggestion;
    }
    failure
}
