//! Time limits that a suspended host does not use up.
//!
//! A host that was stopped, frozen or starved finds its time limits passed when it runs again,
//! while answers that arrived in time are still unread. So a limit that is noticed late is extended
//! once.

use std::time::Duration;

use ostler_core::lifecycle::extension;
use tokio::time::Instant;

/// Far enough to never come.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// `limit` after `from`, or a time far in the future if that overflows.
pub fn after(from: Instant, limit: Duration) -> Instant {
    from + limit.min(FAR)
}

/// A deadline, and whether it was extended.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    length: Duration,
    extended: bool,
}

impl Deadline {
    /// The end of a limit that begins now.
    pub fn new(length: Duration) -> Self {
        Self {
            at: after(Instant::now(), length),
            length,
            extended: false,
        }
    }

    /// When it is over, as far as it is known now.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Whether it has passed for good. Noticed late for the first time, it gets its [`extension`].
    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        let more = extension(self.length, now.saturating_duration_since(self.at));
        match more.filter(|_| !self.extended) {
            Some(more) => {
                self.extended = true;
                self.at = after(now, more);
                false
            }
            None => now >= self.at,
        }
    }
}

/// The result of `work` within `limit`; `None` if it takes longer. Zero: only what is there at
/// once. Dropping it drops `work`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut deadline = Deadline::new(limit);
    loop {
        match tokio::time::timeout_at(deadline.at(), &mut work).await {
            Ok(result) => return Some(result),
            Err(_) if deadline.is_over() => return None,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_noticed_in_time_is_over() {
        assert_eq!(within(LIMIT, std::future::pending::<()>()).await, None);
        assert_eq!(within(LIMIT, async { 7 }).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_noticed_late_is_set_once_more() {
        let mut deadline = Deadline::new(LIMIT);
        tokio::time::advance(LIMIT + Duration::from_secs(1)).await;
        assert!(!deadline.is_over());
        assert_eq!(deadline.at(), Instant::now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(deadline.is_over(), "only once");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_duration_is_a_limit_too() {
        assert!(!Deadline::new(Duration::MAX).is_over());
    }
}
