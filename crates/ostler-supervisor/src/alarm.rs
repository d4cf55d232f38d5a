//! One timer for all deadlines of an engine.

use ostler_core::moment::Moment;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::messages::{EngineMessage, Post};

/// Posts a tick at the earliest deadline, or earlier: a deadline that is no longer needed leaves
/// the timer set, and an early tick does nothing. That is cheaper than a timer for each child that
/// stops.
pub(crate) struct Alarm {
    post: Post,
    set_for: Option<Moment>,
    task: Option<AbortHandle>,
}

impl Alarm {
    pub(crate) fn new(post: Post) -> Self {
        Alarm {
            post,
            set_for: None,
            task: None,
        }
    }

    /// Call this when the tick has arrived.
    pub(crate) fn rang(&mut self) {
        self.set_for = None;
    }

    pub(crate) fn set(&mut self, deadline: Option<(Moment, Instant)>, now: Moment) {
        let Some((due, instant)) = deadline else { return };
        if self.set_for.is_some_and(|set_for| set_for <= due) {
            return;
        }
        self.cancel();
        self.set_for = Some(due);
        if due <= now {
            // Through the mailbox, so that the messages already there come first.
            (self.post)(EngineMessage::tick());
        } else {
            let post = self.post.clone();
            let ring = async move {
                tokio::time::sleep_until(instant).await;
                post(EngineMessage::tick());
            };
            self.task = Some(tokio::spawn(ring).abort_handle());
        }
    }

    fn cancel(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.cancel();
    }
}
