//! tokio's `watch` for a small value that changes a few times and that few tasks wait for.
//!
//! A `watch` has eight lists of waiting tasks, so that many receivers don't contend for one, and
//! takes 400 bytes. This one has one list and takes 80. A pool has several per worker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Sets the value. Dropping it closes the channel.
#[derive(Debug, Default)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// Sees the value.
#[derive(Debug, Clone)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// The sender is gone, and the value will not change any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Debug, Default)]
struct Shared<T> {
    now: Mutex<Now<T>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Now<T> {
    value: T,
    closed: bool,
}

/// Creates a channel with this value.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let now = Mutex::new(Now { value, closed: false });
    let shared = Arc::new(Shared {
        now,
        changed: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T: Copy> Sender<T> {
    /// Sets the value and wakes everyone who waits.
    pub(crate) fn set(&self, value: T) {
        self.0.now().value = value;
        self.0.changed.notify_waiters();
    }

    /// The value.
    pub(crate) fn get(&self) -> T {
        self.0.now().value
    }

    /// Another receiver.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        Receiver(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.now().closed = true;
        self.0.changed.notify_waiters();
    }
}

impl<T: Copy> Receiver<T> {
    /// The value.
    pub(crate) fn get(&self) -> T {
        self.0.now().value
    }

    /// Waits for a value that fits, which may be the present one. Values that were replaced
    /// meanwhile are not seen. Cancel safe.
    ///
    /// # Errors
    /// If the sender is gone and its last value does not fit.
    pub(crate) async fn wait_for(&self, fits: impl Fn(T) -> bool) -> Result<T, Closed> {
        loop {
            // Before the value is read: it is woken by every change from now on.
            let changed = self.0.changed.notified();
            let (value, closed) = {
                let now = self.0.now();
                (now.value, now.closed)
            };
            if fits(value) {
                return Ok(value);
            }
            if closed {
                return Err(Closed);
            }
            changed.await;
        }
    }
}

impl<T> Shared<T> {
    fn now(&self) -> MutexGuard<'_, Now<T>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_waited_for_until_its_sender_is_gone() {
        let (sender, seen) = channel(0);
        assert_eq!(seen.wait_for(|value| value == 0).await, Ok(0));
        let waiting = |expected| {
            let seen = seen.clone();
            tokio::spawn(async move { seen.wait_for(|value| value == expected).await })
        };
        let (one, two, never) = (waiting(1), waiting(2), waiting(3));
        tokio::task::yield_now().await;
        sender.set(1);
        assert_eq!(one.await.unwrap(), Ok(1));
        sender.set(2);
        assert_eq!(two.await.unwrap(), Ok(2));
        assert_eq!((sender.get(), sender.subscribe().get()), (2, 2));
        drop(sender);
        assert_eq!(never.await.unwrap(), Err(Closed));
        assert_eq!(seen.wait_for(|value| value == 2).await, Ok(2), "its last value stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_between_the_look_and_the_wait_is_not_missed() {
        let (sender, seen) = channel(false);
        let look = |set| {
            sender.set(true);
            set
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(1), seen.wait_for(look));
        assert_eq!(waited.await, Ok(Ok(true)));
    }
}
