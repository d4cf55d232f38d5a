//! One incarnation of a worker, as its clients see it.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler::{Endpoint, ReadyWorker, Stdio};
use ostler_core::failure::Failure;
use ostler_core::spec::unnamed_or_only;
use ostler_os::patience;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::connect::final_read;
use crate::outcome::WorkerRef;
use crate::policy::recycle::Limits;
use crate::policy::workers::WorkerKey;

type Named = HashMap<Box<str>, Arc<dyn Any + Send + Sync>>;

/// How far a worker is.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    /// It serves.
    Serving,
    /// It is being ended, and may still finish what it has.
    Stopping,
    /// Its process has ended.
    Exited,
    /// It has failed.
    Failed(Arc<Failure>),
    /// All it held is released; no failure follows.
    Released,
}

/// What happens to the leases of a worker that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leases {
    /// Their conversations go on to their end.
    Awaited,
    /// They end with the calls in flight: the worker can't be used on.
    CutOff,
}

/// A worker of a pool that was ready: an [`Adapter`](crate::Adapter) connects to it.
#[derive(Debug)]
pub struct Worker {
    who: WorkerRef,
    pid: Option<u32>,
    endpoints: BTreeMap<String, Endpoint>,
    stdio: Option<Stdio>,
    life: watch::Sender<Life>,
    pub(crate) ready_at: Instant,
    pub(crate) limits: Limits,
    served: AtomicU64,
    in_flight: AtomicU32,
    /// Leases: each may be between two calls.
    leases: AtomicU32,
    idle: Notify,
    /// It is being replaced, which happens once.
    leaving: AtomicBool,
    /// It is due for recycling, and serves until a stand-in is ready.
    due: AtomicBool,
    /// It was asked to end before it ended.
    stopped: AtomicBool,
    /// The connections of adapters, by the adapter's type and the connection's name.
    connections: Mutex<HashMap<TypeId, Named>>,
}

impl Worker {
    pub(crate) fn new(ready: ReadyWorker, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            who: WorkerRef {
                id: ready.id,
                incarnation: ready.incarnation,
            },
            pid: ready.pid,
            endpoints: ready.endpoints,
            stdio: ready.stdio,
            life: watch::Sender::new(Life::Serving),
            ready_at: Instant::now(),
            limits,
            served: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            leases: AtomicU32::new(0),
            idle: Notify::new(),
            leaving: AtomicBool::new(false),
            due: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        })
    }

    /// Which worker this is, and which of its processes.
    pub fn who(&self) -> &WorkerRef {
        &self.who
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Where it listens: the port of this name, or its one port.
    pub fn endpoint(&self, name: Option<&str>) -> Option<&Endpoint> {
        match name {
            Some(name) => self.endpoints.get(name),
            None => unnamed_or_only(&self.endpoints),
        }
    }

    /// Its stdin and stdout, with `stdin = "pipe"`.
    pub fn stdio(&self) -> Option<&Stdio> {
        self.stdio.as_ref()
    }

    /// How many of the calls that it was sent have ended.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn key(&self) -> WorkerKey {
        WorkerKey {
            index: self.who.id.index,
            incarnation: self.who.incarnation,
        }
    }

    /// A failure is the last state: its release adds nothing.
    pub(crate) fn set_life(&self, life: Life) {
        if matches!(life, Life::Stopping) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.life.send_if_modified(|current| {
            let news = !matches!(current, Life::Failed(_));
            if news {
                *current = life;
            }
            news
        });
    }

    /// Whether it serves: it has neither ended nor been asked to.
    pub(crate) fn is_serving(&self) -> bool {
        matches!(*self.life.borrow(), Life::Serving)
    }

    /// Whether it was asked to end before it ended.
    pub(crate) fn was_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// True the first time: it must be replaced, and the caller does so.
    pub(crate) fn leave(&self) -> bool {
        !self.leaving.swap(true, Ordering::Relaxed)
    }

    /// True the first time: it is due for recycling.
    pub(crate) fn becomes_due(&self) -> bool {
        !self.due.swap(true, Ordering::Relaxed)
    }

    /// It was not replaced, and may become due once more.
    pub(crate) fn is_due_again(&self) {
        self.due.store(false, Ordering::Relaxed);
    }

    /// Waits until its process has ended.
    pub(crate) async fn exited(&self) {
        let mut life = self.life.subscribe();
        let over = |life: &Life| matches!(life, Life::Exited | Life::Failed(_) | Life::Released);
        // The sender lives in `self`.
        let _ = life.wait_for(over).await;
    }

    /// Waits until its process has ended, and for what it sent before to be read
    /// ([`FINAL_READ`](crate::connect::FINAL_READ)).
    pub(crate) async fn gone(&self) {
        self.exited().await;
        final_read().await;
    }

    /// Waits until it is known why the worker ended, at most so long: `Some(None)`, if it has not
    /// failed; `None`, if it has not ended.
    pub(crate) async fn ended(&self, notice: Duration, verdict: Duration) -> Option<Option<Arc<Failure>>> {
        let mut life = self.life.subscribe();
        let begun = life.wait_for(|life| !matches!(life, Life::Serving));
        drop(patience::within(notice, begun).await?.ok()?);
        let over = life.wait_for(|life| matches!(life, Life::Failed(_) | Life::Released));
        match &*patience::within(verdict, over).await?.ok()? {
            Life::Failed(failure) => Some(Some(Arc::clone(failure))),
            _ => Some(None),
        }
    }

    /// A call begins. Each is followed by [`Worker::call_ended`].
    pub(crate) fn call_began(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// How many calls it has in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A call is over; `sent`: it may have reached the worker.
    pub(crate) fn call_ended(&self, sent: bool) {
        self.served.fetch_add(u64::from(sent), Ordering::Relaxed);
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// A lease begins. Each is followed by [`Worker::lease_ended`].
    pub(crate) fn lease_began(&self) {
        self.leases.fetch_add(1, Ordering::AcqRel);
    }

    /// A lease is over.
    pub(crate) fn lease_ended(&self) {
        if self.leases.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Waits until it has no call in flight, and is not leased unless `leases` are cut off. It must
    /// not be given new calls meanwhile.
    pub(crate) async fn drained(&self, leases: Leases) {
        loop {
            let idle = self.idle.notified();
            let leased = leases == Leases::Awaited && self.leases.load(Ordering::Acquire) > 0;
            if !leased && self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// What is kept by this name for adapters of type `K`; created at its first use.
    pub(crate) fn kept<K: 'static, T: Any + Send + Sync + Default>(&self, name: &str) -> Arc<T> {
        let mut connections = self.connections();
        let named = connections.entry(TypeId::of::<K>()).or_default();
        let kept = match named.get(name) {
            Some(kept) => Arc::clone(kept),
            None => Arc::clone(named.entry(name.into()).or_insert_with(|| Arc::new(T::default()))),
        };
        // `K` belongs to one `T` alone.
        kept.downcast().unwrap_or_default()
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<TypeId, Named>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
