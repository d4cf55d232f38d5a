//! Work that goes on when its caller stops waiting for it.

use std::future::Future;
use std::task::Poll;

/// Completes `work` in a task of its own and waits for it. Once polled, the work is completed even
/// if the caller stops waiting. `None` if the runtime is shutting down. A panic of the work is
/// passed on to the caller.
///
/// The work begins in the caller: whatever it queues for first, a lock for example, is queued for
/// in the order of the calls. Tasks alone have no such order, because a runtime with several
/// threads may begin the later one first.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let mut work = Box::pin(work);
    let begun = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context)));
    if let Poll::Ready(result) = begun.await {
        return Some(result);
    }
    match tokio::spawn(work).await {
        Ok(result) => Some(result),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Mutex, watch};

    use super::*;

    /// Two calls that wait for the same lock get it in the order of the calls. One thread makes the
    /// order of tasks certain: the runtime begins the latest first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_queues_in_the_order_of_the_calls() {
        let (order, begun) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::new(0));
        let held = Arc::clone(&order).lock_owned().await;
        let call = |number: u32| {
            let (order, begun) = (Arc::clone(&order), begun.clone());
            detached(async move {
                begun.send_modify(|count| *count += 1);
                order.lock().await.push(number);
            })
        };
        let calls = tokio::spawn(futures_util::future::join(call(1), call(2)));
        let both = begun.subscribe().wait_for(|count| *count == 2).await.is_ok();
        drop(held);
        calls.await.expect("no panic");
        assert!(both);
        assert_eq!(*order.lock().await, [1, 2]);
    }
}
