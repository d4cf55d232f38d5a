//! Whether a ready worker stays well: probes on an interval, and heartbeats.

use std::time::Duration;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::Health;

use super::notify::{Notifications, unreadable};
use super::{Answer, ProbePlan};

/// What is watched of a ready worker.
pub(crate) struct HealthPlan {
    /// A probe on an interval.
    pub(crate) probe: Option<HealthProbe>,
    /// Its notify socket. It is read also where no heartbeat is wanted: a worker that sends its status must never find
    /// the socket full.
    pub(crate) messages: Option<Notifications>,
    /// The longest silence between two `WATCHDOG=1`; `None`: any.
    pub(crate) watchdog: Option<Duration>,
}

/// A probe on an interval.
pub(crate) struct HealthProbe {
    pub(crate) plan: ProbePlan,
    /// Interval, time limit and misses.
    pub(crate) rules: Health,
}

/// Waits until the worker is no longer well, and says why. Never returns when nothing is watched.
pub(crate) async fn watch(plan: HealthPlan) -> Failure {
    let HealthPlan {
        probe,
        messages,
        watchdog,
    } = plan;
    let probes = async {
        match &probe {
            Some(probe) => probe_again_and_again(probe).await,
            None => std::future::pending().await,
        }
    };
    let heartbeats = async {
        match (&messages, watchdog) {
            (Some(messages), Some(longest)) => heartbeats(messages, longest).await,
            (Some(messages), None) => read_and_ignore(messages).await,
            (None, _) => std::future::pending().await,
        }
    };
    tokio::select! {
        failure = probes => failure,
        failure = heartbeats => failure,
    }
}

/// The first probe comes one interval after ready; each later one an interval after the end of the one before.
async fn probe_again_and_again(probe: &HealthProbe) -> Failure {
    let Health {
        every, timeout, misses, ..
    } = probe.rules;
    let mut missed = 0;
    loop {
        tokio::time::sleep(every).await;
        let why = match probe.plan.attempt(timeout).await {
            Answer::Yes(_) => {
                missed = 0;
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

/// The silence is counted from ready, and then from each `WATCHDOG=1` of the tree.
async fn heartbeats(messages: &Notifications, longest: Duration) -> Failure {
    let mut heard = tokio::time::Instant::now();
    loop {
        match tokio::time::timeout_at(heard + longest, messages.next()).await {
            Ok(Ok(message)) if message.watchdog => heard = tokio::time::Instant::now(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return unreadable(Reason::HeartbeatLost, &error),
            Err(_) => {
                return Failure::new(
                    Reason::HeartbeatLost,
                    format!("no WATCHDOG=1 came for longer than watchdog ({longest:?})"),
                );
            }
        }
    }
}

/// Ends only when the socket can't be read: that alone makes no worker unwell.
async fn read_and_ignore(messages: &Notifications) -> Failure {
    while messages.next().await.is_ok() {}
    std::future::pending().await
}
