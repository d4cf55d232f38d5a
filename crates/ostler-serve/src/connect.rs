//! The connection of an adapter to one worker: made within the deadline, kept, and made again when
//! it is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ostler_core::lifecycle::LATE;
use ostler_os::patience;
use tokio::time::Instant;

use crate::adapter::Adapter;
use crate::error::BoxError;
use crate::worker::Worker;

/// The pause after the first failed attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long a connection is read on for what the worker sent before its end, or before a deadline
/// that was noticed late.
pub(crate) const FINAL_READ: Duration = Duration::from_millis(100);

/// Where the connection of an adapter is kept in its [`Worker`].
struct Kept<C> {
    current: Mutex<Option<Arc<C>>>,
    /// One call connects; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

impl<C> Default for Kept<C> {
    fn default() -> Self {
        Self {
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
        }
    }
}

impl<C> Kept<C> {
    fn open<A: Adapter<Connection = C>>(&self, adapter: &A) -> Option<Arc<C>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|connection| adapter.is_open(connection))
    }
}

/// The open connection to this worker. Every error counts as transient, as long as there is time
/// and the worker serves.
///
/// # Errors
/// The last error, when the deadline has come or the worker has ended.
pub(crate) async fn connection<A: Adapter>(
    adapter: &A,
    worker: &Arc<Worker>,
    deadline: Option<Instant>,
) -> Result<Arc<A::Connection>, BoxError> {
    let kept = worker.kept::<A, Kept<A::Connection>>(adapter.connection_name());
    if let Some(open) = kept.open(adapter) {
        return Ok(open);
    }
    let mut last = BoxError::from("there was no time to connect");
    let connecting = async {
        let _connecting = kept.connecting.lock().await;
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(open) = kept.open(adapter) {
                return Some(open);
            }
            match adapter.connect(worker).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    *kept.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&connection));
                    return Some(connection);
                }
                Err(error) => last = error,
            }
            if !A::RECONNECTS || !worker.is_serving() {
                return None;
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    let connected = tokio::select! {
        connected = connecting => connected,
        () = worker.exited() => None,
        () = sleep_until(deadline) => None,
    };
    connected.ok_or(last)
}

/// The end of a limit that begins now; `None`: the limit is zero, which means none, or its end is
/// beyond the clock.
pub(crate) fn deadline_after(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit).filter(|_| !limit.is_zero())
}

/// Until the deadline; forever, if there is none.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Until the deadline of a call that was sent. It is a promise to the caller, and not extended for
/// a host that could not run; but then the answer may have arrived in time and is unread, so the
/// connection is read on for [`FINAL_READ`].
pub(crate) async fn due(deadline: Option<Instant>) {
    sleep_until(deadline).await;
    if deadline.is_some_and(|deadline| deadline.elapsed() > LATE) {
        final_read().await;
    }
}

/// Passes [`FINAL_READ`], while the caller reads on.
pub(crate) async fn final_read() {
    patience::within(FINAL_READ, std::future::pending::<()>()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_kept_to_the_moment() {
        let begun = Instant::now();
        due(deadline_after(LIMIT)).await;
        assert!(begun.elapsed() < LIMIT + FINAL_READ, "{:?}", begun.elapsed());
    }

    /// The host was suspended: an answer that came in time is read before the deadline counts.
    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_noticed_late_leaves_time_to_read() {
        let deadline = deadline_after(LIMIT);
        tokio::time::advance(LIMIT * 3).await;
        let resumed = Instant::now();
        due(deadline).await;
        assert!(resumed.elapsed() >= FINAL_READ, "{:?}", resumed.elapsed());
    }
}
