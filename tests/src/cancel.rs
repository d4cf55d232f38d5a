//! Futures that are dropped: at each of their awaits, or when something has happened.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::SOON;

/// Drops a future after so many polls, if it is not ready before. Returns what it came to, if it
/// was.
///
/// # Panics
///
/// If the next poll is not due soon.
pub async fn drop_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    // Tokio's budget would make a future that is ready pend.
    let mut future = pin!(tokio::task::unconstrained(future));
    let mut polled = 0;
    let polling = poll_fn(|context| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if polled == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    tokio::time::timeout(SOON, polling).await.expect("timeout")
}

/// Drops a future that is not ready once this has happened, and returns what that was.
///
/// # Panics
///
/// If the future is ready before, or nothing happens soon.
pub async fn drop_once<T>(happened: impl Future<Output = T>, future: impl Future) -> T {
    let dropped = async {
        tokio::select! {
            biased;
            happened = happened => happened,
            _ = future => panic!("it was ready before"),
        }
    };
    tokio::time::timeout(SOON, dropped).await.expect("timeout")
}
