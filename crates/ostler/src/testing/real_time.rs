//! Deadlines in real time, also where tokio's clock is paused.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// What `work` comes to within this much real time; `None` when it takes longer.
///
/// A thread of the runtime waits meanwhile, which keeps a paused clock from advancing by itself.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (_cancel, over) = alarm(limit);
    tokio::select! {
        biased;
        result = work => Some(result),
        () = over => None,
    }
}

/// A future that ends after this time, or when the sender is dropped.
fn alarm(after: Duration) -> (Sender<()>, impl Future<Output = ()>) {
    let (cancel, cancelled) = channel();
    // Begun here and not when the future is polled: the clock must not advance before that.
    let waiting = tokio::task::spawn_blocking(move || cancelled.recv_timeout(after).is_err());
    let over = async move {
        let _ = waiting.await;
    };
    (cancel, over)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_does_not_advance_while_the_work_takes_real_time() {
        let before = tokio::time::Instant::now();
        let work = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(20)));
        let timer = tokio::time::sleep(Duration::from_secs(60));
        assert!(within(Duration::from_secs(20), work).await.is_some());
        drop(timer);
        assert_eq!(tokio::time::Instant::now(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_real_time() {
        let (limit, before) = (Duration::from_millis(30), Instant::now());
        assert!(within(limit, std::future::pending::<()>()).await.is_none());
        assert!(before.elapsed() >= limit);
    }
}
