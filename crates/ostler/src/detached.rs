//! Work that goes on when its caller stops waiting for it.

use std::future::Future;

/// Runs `work` in a task of its own and waits for it. Once polled, the work is completed even if
/// the caller stops waiting. `None` if the runtime is shutting down. A panic of the work is passed
/// on to the caller.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match tokio::spawn(work).await {
        Ok(result) => Some(result),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}
