//! What an incarnation waits for before it is reserved: the release of the one before it, a pause,
//! its turn.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc;
use ostler_core::failure::{Failure, Reason};
use ostler_core::lifecycle::Outcome;
use ostler_os::patience;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::host::Setup;
use super::super::protocol::{Order, Progress};
use crate::small_watch;

/// Waits until the incarnation may be reserved. An error is how it ended without having been
/// reserved.
pub(in crate::process) async fn wait_turn(
    setup: &Setup,
    not_before: Option<Instant>,
    predecessor: Option<small_watch::Receiver<Progress>>,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) -> Result<OwnedSemaphorePermit, Outcome> {
    let turn = async {
        await_predecessor(setup.pool.worker.release_timeout, predecessor).await?;
        if let Some(moment) = not_before {
            tokio::time::sleep_until(moment).await;
        }
        // The semaphore is never closed while its pool lives.
        Arc::clone(&setup.starting)
            .acquire_owned()
            .await
            .map_err(|_| Outcome::Stopped { status: None })
    };
    tokio::select! {
        biased;
        // Every order ends it.
        Ok(_) = orders.recv() => Err(Outcome::Stopped { status: None }),
        permit = turn => permit,
    }
}

async fn await_predecessor(
    limit: Duration,
    predecessor: Option<small_watch::Receiver<Progress>>,
) -> Result<(), Outcome> {
    let Some(predecessor) = predecessor else {
        return Ok(());
    };
    // An error means that its driver is gone, and so is this one soon.
    let released = predecessor.wait_for(|progress| progress == Progress::Released);
    if patience::within(limit, released).await.is_some() {
        return Ok(());
    }
    let reason = match predecessor.get() {
        Progress::Overdue(reason) => reason,
        Progress::Held | Progress::Released => Reason::ReleaseTimeout,
    };
    let message = format!(
        "what its predecessor held is still held after {:.3} s more",
        limit.as_secs_f64()
    );
    Err(Outcome::Failed(Failure::new(reason, message)))
}

/// Represents the predecessor of an incarnation that never had its turn. It holds nothing itself;
/// what its predecessor holds is still in the way of the next one, and a stop must see it.
pub(in crate::process) async fn follow_predecessor(
    predecessor: Option<small_watch::Receiver<Progress>>,
    progress: &small_watch::Sender<Progress>,
) {
    if let Some(predecessor) = predecessor {
        let mut seen = predecessor.get();
        while seen != Progress::Released {
            progress.set(seen);
            // An error means that its driver is gone with the runtime.
            let Ok(next) = predecessor.wait_for(|progress| progress != seen).await else {
                break;
            };
            seen = next;
        }
    }
    progress.set(Progress::Released);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_never_had_its_turn_is_released_when_its_predecessor_is() {
        let (before, seen) = small_watch::channel(Progress::Overdue(Reason::ReleaseTimeout));
        let (progress, shown) = small_watch::channel(Progress::Held);
        let following = tokio::spawn(async move { follow_predecessor(Some(seen), &progress).await });
        assert!(
            shown
                .wait_for(|shown| matches!(shown, Progress::Overdue(_)))
                .await
                .is_ok()
        );
        before.set(Progress::Released);
        assert!(shown.wait_for(|shown| shown == Progress::Released).await.is_ok());
        following.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_predecessor_that_stays_is_waited_for_and_its_reason_is_kept() {
        let limit = Duration::from_secs(10);
        let (before, seen) = small_watch::channel(Progress::Held);
        assert_eq!(await_predecessor(limit, None).await, Ok(()));
        let held = await_predecessor(limit, Some(seen.clone())).await;
        assert!(matches!(held, Err(Outcome::Failed(failure)) if failure.reason == Reason::ReleaseTimeout));
        before.set(Progress::Overdue(Reason::StoreFailed));
        let stalled = await_predecessor(limit, Some(seen.clone())).await;
        assert!(
            matches!(stalled, Err(Outcome::Failed(failure)) if !failure.reason.is_counted()),
            "a store that stalls is never counted"
        );
        before.set(Progress::Released);
        assert_eq!(await_predecessor(limit, Some(seen)).await, Ok(()));
    }
}
