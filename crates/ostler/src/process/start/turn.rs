//! What an incarnation waits for before it is reserved: the release of the one before it, the machine, its turn.

use std::sync::Arc;
use std::time::Duration;

use ostler_core::failure::{Failure, Reason};
use ostler_core::lifecycle::Outcome;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::super::protocol::{Message, Progress};
use super::super::slot::Slot;

/// The pause after the first start that failed uncounted; doubled after each that follows, up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Waits until the incarnation may be reserved. An error is how it ended without having been reserved.
pub(in crate::process) async fn wait_turn(
    slot: &Arc<Slot>,
    predecessor: Option<watch::Receiver<Progress>>,
    inbox: &mut mpsc::UnboundedReceiver<Message>,
) -> Result<OwnedSemaphorePermit, Outcome> {
    let turn = async {
        await_predecessor(slot, predecessor).await?;
        let pause = pause_after(slot.memory().uncounted_failures);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        // The semaphore is never closed while its slot lives.
        Arc::clone(&slot.starting)
            .acquire_owned()
            .await
            .map_err(|_| Outcome::Stopped { status: None })
    };
    tokio::select! {
        biased;
        () = stopped(inbox) => Err(Outcome::Stopped { status: None }),
        permit = turn => permit,
    }
}

/// Ends when the incarnation is told to stop. Nothing else can be told before it is reserved.
async fn stopped(inbox: &mut mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Stop { .. } => return,
            Message::Guardian(_) | Message::GuardianLost | Message::SittersEnded => {}
        }
    }
}

async fn await_predecessor(slot: &Slot, predecessor: Option<watch::Receiver<Progress>>) -> Result<(), Outcome> {
    let Some(mut predecessor) = predecessor else {
        return Ok(());
    };
    let limit = slot.spec.worker.release_timeout;
    let released = predecessor.wait_for(|progress| *progress == Progress::Released);
    match tokio::time::timeout(limit, released).await {
        // An error means that its driver is gone, and so is this one soon.
        Ok(_) => Ok(()),
        Err(_) => Err(Outcome::Failed(Failure::new(
            Reason::ReleaseTimeout,
            format!(
                "what its predecessor held is still held after {:.3} s more",
                limit.as_secs_f64()
            ),
        ))),
    }
}

/// Ends an incarnation that never had its turn. It holds nothing itself; what its predecessor holds is still in the way
/// of whoever comes next, and has to be seen by a stop.
pub(in crate::process) async fn stand_for(
    predecessor: Option<watch::Receiver<Progress>>,
    progress: &watch::Sender<Progress>,
) {
    if let Some(mut predecessor) = predecessor {
        loop {
            let seen = *predecessor.borrow_and_update();
            progress.send_replace(seen);
            // An error means that its driver is gone with the runtime.
            if seen == Progress::Released || predecessor.changed().await.is_err() {
                break;
            }
        }
    }
    progress.send_replace(Progress::Released);
}

fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE_FIRST.saturating_mul(1 << doublings.min(16)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_never_had_its_turn_is_released_when_its_predecessor_is() {
        let (before, seen) = watch::channel(Progress::Overdue);
        let (progress, mut shown) = watch::channel(Progress::Held);
        let standing = tokio::spawn(async move { stand_for(Some(seen), &progress).await });
        assert!(shown.wait_for(|shown| *shown == Progress::Overdue).await.is_ok());
        before.send_replace(Progress::Released);
        assert!(shown.wait_for(|shown| *shown == Progress::Released).await.is_ok());
        standing.await.unwrap();
    }

    #[test]
    fn starts_that_came_to_nothing_wait_ever_longer() {
        let pauses: Vec<_> = [0, 1, 2, 3, 30]
            .map(pause_after)
            .into_iter()
            .map(|p| p.as_millis())
            .collect();
        assert_eq!(pauses, [0, 100, 200, 400, 10_000]);
    }
}
