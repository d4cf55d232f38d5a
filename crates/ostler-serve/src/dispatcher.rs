//! Checkout: [`Dispatch`] behind a lock, and the futures that wait for a worker.
//!
//! Deliberately not an actor: a checkout is a short critical section instead of a message, and the
//! lock is never held across an await or while a waiting task is woken.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ostler::PoolEnd;
use ostler_core::moment::Moment;
use ostler_core::spec::ServeSpec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::outcome::Refused;
use crate::policy::dispatch::{Asked, Dispatch, Handed};
use crate::policy::queue::{SessionId, Ticket, Waiting};
use crate::policy::workers::WorkerKey;

/// What a waiting call gets.
type Answer<W> = Result<Slot<W>, Refused>;

/// The checkout of one pool. `W` is what a worker is used by.
#[derive(Debug)]
pub(crate) struct Dispatcher<W: Clone> {
    dispatch: Mutex<Dispatch<oneshot::Sender<Answer<W>>, W>>,
    origin: Instant,
}

impl<W: Clone> Dispatcher<W> {
    /// A pool without workers.
    pub(crate) fn new(pool: &str, spec: &ServeSpec) -> Arc<Self> {
        Arc::new(Self {
            dispatch: Mutex::new(Dispatch::new(pool, spec)),
            origin: Instant::now(),
        })
    }

    /// Takes room on a worker, waiting for it until `deadline`. Dropped, it leaves the queue; a
    /// worker that it was given at that moment goes to the next in the queue.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        session: Option<&SessionId>,
        deadline: Option<Instant>,
    ) -> Result<Slot<W>, Refused> {
        let (place, since) = {
            let mut dispatch = self.lock();
            let asked = match session {
                None => dispatch.ask(),
                Some(session) => dispatch.ask_for(session, self.now()),
            };
            match asked {
                Asked::Granted(key, handle) => return Ok(self.slot(key, handle)),
                Asked::Refused(refused) => return Err(refused),
                Asked::MustWait(worker) => {
                    let (sender, receiver) = oneshot::channel();
                    let since = self.now();
                    let waiting = Waiting {
                        item: sender,
                        since,
                        deadline: deadline.map(|deadline| self.moment(deadline)),
                        session: session.cloned(),
                    };
                    let ticket = dispatch.wait(waiting, worker);
                    let dispatcher = Arc::clone(self);
                    let place = Place {
                        dispatcher,
                        ticket,
                        receiver,
                    };
                    (place, since)
                }
            }
        };
        let answer = match deadline {
            None => Some(place.await),
            Some(deadline) => tokio::time::timeout_at(deadline, place).await.ok(),
        };
        answer.unwrap_or_else(|| {
            Err(Refused::Expired {
                waited: self.now().since(since),
            })
        })
    }

    /// An incarnation can be used.
    pub(crate) fn ready(self: &Arc<Self>, key: WorkerKey, handle: W) {
        let handed = self.lock().ready(key, handle, self.now());
        self.hand_over(handed);
    }

    /// This incarnation gets no further calls. Nothing happens when another one has taken its
    /// place.
    pub(crate) fn unready(self: &Arc<Self>, key: WorkerKey) {
        let handed = {
            let mut dispatch = self.lock();
            if !dispatch.is_usable(key) {
                return;
            }
            dispatch.unready(key.index)
        };
        self.hand_over(handed);
    }

    /// The pool has ended.
    pub(crate) fn close(self: &Arc<Self>, end: PoolEnd) {
        let handed = self.lock().close(end);
        self.hand_over(handed);
    }

    /// Looks at, or notes something in, the dispatch: nothing that lets a waiting call go on.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut Dispatch<oneshot::Sender<Answer<W>>, W>, Moment) -> R) -> R {
        look(&mut self.lock(), self.now())
    }

    fn give_back(self: &Arc<Self>, key: WorkerKey) {
        let handed = self.lock().give_back(key, || self.now());
        self.hand_over(handed);
    }

    fn hand_over(self: &Arc<Self>, handed: Handed<oneshot::Sender<Answer<W>>, W>) {
        for (sender, key, handle) in handed.granted {
            // A call that has just given up drops the slot, and so gives it back.
            drop(sender.send(Ok(self.slot(key, handle))));
        }
        for (sender, refused) in handed.refused {
            drop(sender.send(Err(refused)));
        }
    }

    fn slot(self: &Arc<Self>, key: WorkerKey, worker: W) -> Slot<W> {
        Slot {
            dispatcher: Arc::clone(self),
            key,
            worker,
        }
    }

    /// Now, in the terms of the dispatch.
    pub(crate) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    fn moment(&self, instant: Instant) -> Moment {
        Moment::after_origin(instant.saturating_duration_since(self.origin))
    }

    fn lock(&self) -> MutexGuard<'_, Dispatch<oneshot::Sender<Answer<W>>, W>> {
        // Nothing under the lock runs foreign code.
        self.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one call on a worker. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot<W: Clone> {
    dispatcher: Arc<Dispatcher<W>>,
    key: WorkerKey,
    worker: W,
}

impl<W: Clone> Slot<W> {
    /// What the worker is used by.
    pub(crate) fn worker(&self) -> &W {
        &self.worker
    }
}

impl<W: Clone> Drop for Slot<W> {
    fn drop(&mut self) {
        self.dispatcher.give_back(self.key);
    }
}

/// A place in the queue. It is left when this is dropped.
struct Place<W: Clone> {
    dispatcher: Arc<Dispatcher<W>>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Answer<W>>,
}

impl<W: Clone> Future for Place<W> {
    type Output = Answer<W>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.receiver).poll(cx);
        // Every item that leaves the dispatch is sent an answer.
        answer.map(|answer| answer.unwrap_or_else(|_| Err(self.dispatcher.lock().pool_over(PoolEnd::Stopped))))
    }
}

impl<W: Clone> Drop for Place<W> {
    fn drop(&mut self) {
        // The sender goes when the lock is free; a slot that was sent meanwhile goes with the
        // receiver.
        let waiting = self.dispatcher.lock().give_up(self.ticket);
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ostler_core::ids::Incarnation;
    use ostler_core::spec::QueueSpec;

    use super::*;

    fn key(index: u32) -> WorkerKey {
        WorkerKey {
            index,
            incarnation: Incarnation(1),
        }
    }

    fn dispatcher(workers: u32) -> Arc<Dispatcher<u32>> {
        let dispatcher = Dispatcher::new("embed", &ServeSpec::default());
        (0..workers).for_each(|index| dispatcher.ready(key(index), index));
        dispatcher
    }

    fn queued(dispatcher: &Dispatcher<u32>) -> usize {
        dispatcher.with(|dispatch, _| dispatch.queued())
    }

    fn in_flight(dispatcher: &Dispatcher<u32>) -> u64 {
        dispatcher.with(|dispatch, _| dispatch.in_flight())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_expires_in_the_queue_is_refused_at_its_deadline_and_leaves_it() {
        let dispatcher = dispatcher(1);
        let held = dispatcher.checkout(None, None).await.expect("a worker");
        let start = Instant::now();
        let deadline = start + Duration::from_secs(3);
        let refused = dispatcher
            .checkout(None, Some(deadline))
            .await
            .expect_err("none is free");
        assert!(
            matches!(refused, Refused::Expired { waited } if waited >= Duration::from_secs(3)),
            "{refused}"
        );
        assert_eq!((start.elapsed().as_secs(), queued(&dispatcher)), (3, 0));
        drop(held);
        assert_eq!(in_flight(&dispatcher), 0);
    }

    #[tokio::test]
    async fn a_call_that_was_dropped_in_the_queue_leaves_it() {
        let dispatcher = dispatcher(1);
        let held = dispatcher.checkout(None, None).await.expect("a worker");
        let waits = tokio::spawn({
            let dispatcher = Arc::clone(&dispatcher);
            async move { dispatcher.checkout(None, None).await.map(drop) }
        });
        while queued(&dispatcher) == 0 {
            tokio::task::yield_now().await;
        }
        waits.abort();
        assert!(waits.await.expect_err("aborted").is_cancelled());
        assert_eq!(queued(&dispatcher), 0);
        drop(held);
        assert_eq!(in_flight(&dispatcher), 0);
    }

    #[tokio::test]
    async fn a_worker_given_to_a_call_that_is_dropped_before_it_looks_goes_to_the_next() {
        let dispatcher = dispatcher(1);
        let held = dispatcher.checkout(None, None).await.expect("a worker");
        let mut first = Box::pin(dispatcher.checkout(None, None));
        let mut second = Box::pin(dispatcher.checkout(None, None));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        drop(held);
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!((queued(&dispatcher), in_flight(&dispatcher)), (0, 0));
    }

    #[tokio::test]
    async fn the_end_of_the_pool_refuses_those_that_wait() {
        let dispatcher = dispatcher(0);
        let mut waits = Box::pin(dispatcher.checkout(None, None));
        assert!(futures_util::poll!(&mut waits).is_pending());
        dispatcher.close(PoolEnd::Stopped);
        assert!(matches!(waits.await, Err(Refused::PoolOver { .. })));
        assert!(matches!(
            dispatcher.checkout(None, None).await,
            Err(Refused::PoolOver { .. })
        ));
    }

    /// Callers that give up at random, on several threads: never two on one worker, and everything
    /// is free at the end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_worker_is_shared_or_lost_among_callers_that_give_up() {
        let spec = ServeSpec::default().queue(QueueSpec::default().max(1_000));
        let dispatcher = Dispatcher::new("embed", &spec);
        let in_use: Arc<[std::sync::atomic::AtomicU32]> = (0..3).map(|_| Default::default()).collect();
        (0..3).for_each(|index| dispatcher.ready(key(index), index));
        let callers = (0..16).map(|seed| {
            let (dispatcher, in_use) = (Arc::clone(&dispatcher), Arc::clone(&in_use));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..400 {
                    let patience = Duration::from_micros(random.u64(0..300));
                    let checkout = dispatcher.checkout(None, None);
                    let Ok(Ok(slot)) = tokio::time::timeout(patience, checkout).await else {
                        continue;
                    };
                    let used = &in_use[*slot.worker() as usize];
                    assert_eq!(used.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    if random.bool() {
                        tokio::task::yield_now().await;
                    }
                    used.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.expect("no caller panics");
        }
        assert_eq!((queued(&dispatcher), in_flight(&dispatcher)), (0, 0));
    }
}
