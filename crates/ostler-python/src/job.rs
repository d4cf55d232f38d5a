//! What a preparation, which can take minutes, reports to, and what ends it early.

use tokio::sync::watch;

/// Passed to everything that a preparation does.
pub(crate) struct Job<'a> {
    /// Receives what is being done, a line at a time.
    pub(crate) progress: &'a mut dyn FnMut(&str),
    /// Ends it early.
    pub(crate) cancel: Cancel,
}

impl Job<'_> {
    /// One that nothing ends early.
    pub(crate) fn to_its_end<'a>(progress: &'a mut dyn FnMut(&str)) -> Job<'a> {
        let cancel = Cancel::never();
        Job { progress, cancel }
    }

    pub(crate) fn say(&mut self, line: &str) {
        (self.progress)(line);
    }
}

/// Whether a preparation goes on.
#[derive(Debug, Clone)]
pub(crate) struct Cancel(Option<watch::Receiver<()>>);

/// Cancels its preparation when it is dropped.
#[cfg(feature = "pool")]
#[derive(Debug)]
pub(crate) struct CancelOnDrop {
    _sender: watch::Sender<()>,
}

impl Cancel {
    /// Never cancelled.
    pub(crate) const fn never() -> Self {
        Self(None)
    }

    /// Cancelled when the other value is dropped.
    #[cfg(feature = "pool")]
    pub(crate) fn on_drop() -> (CancelOnDrop, Self) {
        let (sender, receiver) = watch::channel(());
        (CancelOnDrop { _sender: sender }, Self(Some(receiver)))
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|receiver| receiver.has_changed().is_err())
    }

    /// Waits for it. Cancel safe.
    pub(crate) async fn cancelled(&self) {
        match self.0.clone() {
            // Nothing is ever sent: this returns when the sender is dropped.
            Some(mut receiver) => drop(receiver.changed().await),
            None => std::future::pending().await,
        }
    }
}
