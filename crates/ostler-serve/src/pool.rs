//! A pool as its clients see it: which workers there are, and the state that calls share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ostler::{EventKind, Facts, Follower, Incarnation, Pool, WorkerChange, WorkerId};
use ostler_core::spec::ServeSpec;
#[cfg(all(feature = "grpc", feature = "stdio"))]
use ostler_core::spec::Stdin;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::adapter::Adapter;
use crate::client::Client;
use crate::connect::deadline_after;
use crate::dispatcher::Dispatcher;
use crate::lease::Lease;
use crate::outcome::Refused;
use crate::policy::breaker::{Breaker, BreakerState, Change, Permit, Verdict};
use crate::policy::budget::Budget;
use crate::policy::poison::Poison;
use crate::policy::recycle::Limits;
use crate::policy::workers::WorkerKey;
use crate::renew;
use crate::roster::Roster;
use crate::session::Session;
use crate::warm::Warm;
use crate::worker::{Life, Worker};

/// A pool of workers that calls are made to. Clones are handles of the same pool.
#[derive(Debug, Clone)]
pub struct ServingPool {
    serving: Arc<Serving>,
}

/// What a pool's clients see of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServingState {
    /// Workers that get calls.
    pub usable: usize,
    /// Calls in flight on them.
    pub in_flight: u64,
    /// Calls that wait for one.
    pub queued: usize,
    /// Sessions that are bound to one.
    pub sessions: usize,
    /// The circuit breaker.
    pub breaker: BreakerState,
}

impl ServingPool {
    /// Serves calls with the workers of this pool, as its own specification says
    /// ([`PoolSpec::serve`](ostler_core::spec::PoolSpec::serve)). See [`ServingPool::new`].
    pub fn of(pool: Pool) -> Self {
        let spec = pool.spec().serve.clone();
        Self::new(pool, spec)
    }

    /// Serves calls with the workers of this pool. Two serving pools of one pool do not know of
    /// each other's calls.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(pool: Pool, spec: ServeSpec) -> Self {
        let serving = Arc::new(Serving {
            dispatcher: Dispatcher::new(pool.name(), &spec),
            breaker: Mutex::new(Breaker::new(spec.breaker)),
            budget: Mutex::new(Budget::new(spec.retry_budget)),
            poison: Mutex::new(Poison::new(spec.poison)),
            roster: Roster::default(),
            arrivals: watch::Sender::new(()),
            sizing: tokio::sync::Mutex::default(),
            runtime: Handle::current(),
            warm: Warm::default(),
            #[cfg(feature = "stdio")]
            functions: crate::stdio::Functions::default(),
            spec,
            pool,
        });
        serving.pool.follow(&serving);
        if let Some(observer) = serving.pool.observer() {
            let clients: Weak<Serving> = Arc::downgrade(&serving);
            observer.watch_clients(clients);
        }
        tokio::spawn(close_when_over(serving.pool.clone(), Arc::clone(&serving.dispatcher)));
        tokio::spawn(renew::recycle(Arc::downgrade(&serving), serving.spec.recycle));
        Self { serving }
    }

    /// The pool of processes below.
    pub fn pool(&self) -> &Pool {
        &self.serving.pool
    }

    /// How calls are served.
    pub fn spec(&self) -> &ServeSpec {
        &self.serving.spec
    }

    /// The pool at this moment.
    pub fn state(&self) -> ServingState {
        self.serving.state()
    }

    pub(crate) fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// A client that uses this adapter. Clients are cheap; connections belong to the workers.
    pub fn client<A: Adapter>(&self, adapter: A) -> Client<A> {
        Client::new(Arc::clone(&self.serving), adapter)
    }

    /// The session of this name: calls that go to the same worker (`sessions`).
    pub fn session(&self, name: impl Into<Arc<str>>) -> Session {
        Session::new(Arc::clone(&self.serving), name.into())
    }

    /// Takes room on a worker for a conversation of several calls. With a `concurrency` of 1, the
    /// worker serves no other caller until the lease ends. Waits in the queue for at most the
    /// pool's `timeout`. Cancel safe.
    ///
    /// # Errors
    /// The pool is over, its queue is full, or no worker was free in time.
    pub async fn checkout(&self) -> Result<Lease, Refused> {
        Lease::take(&self.serving, None).await
    }
}

/// What the calls of one pool share.
#[derive(Debug)]
pub(crate) struct Serving {
    pool: Pool,
    spec: ServeSpec,
    dispatcher: Arc<Dispatcher<Arc<Worker>>>,
    breaker: Mutex<Breaker>,
    budget: Mutex<Budget>,
    poison: Mutex<Poison>,
    /// The workers that are ready or ending.
    roster: Roster<Arc<Worker>>,
    /// Changes with each worker that becomes ready.
    arrivals: watch::Sender<()>,
    /// Held while the number of workers changes, and while one stands in for another.
    pub(crate) sizing: tokio::sync::Mutex<()>,
    runtime: Handle,
    warm: Warm,
    /// What handlers can call in this process.
    #[cfg(feature = "stdio")]
    pub(crate) functions: crate::stdio::Functions,
}

impl Serving {
    pub(crate) fn spec(&self) -> &ServeSpec {
        &self.spec
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Whether methods are called over the workers' stdin and stdout, and not over gRPC.
    #[cfg(all(feature = "grpc", feature = "stdio"))]
    pub(crate) fn is_piped(&self) -> bool {
        self.pool.spec().worker.stdin == Stdin::Pipe
    }

    /// Connects this adapter to the workers that are ready, and to each that becomes so.
    pub(crate) fn keep_warm<A: Adapter>(&self, adapter: &Arc<A>) {
        let Some(connect) = self.warm.add(adapter) else { return };
        for worker in self.workers() {
            connect(&self.runtime, worker, self.connect_deadline());
        }
    }

    /// A connection that is made ahead of calls has as much time as a start.
    fn connect_deadline(&self) -> Option<Instant> {
        deadline_after(self.pool.spec().worker.start_timeout)
    }

    pub(crate) fn state(&self) -> ServingState {
        let breaker = lock(&self.breaker).state();
        self.dispatcher.with(|dispatch, now| ServingState {
            usable: dispatch.usable(),
            in_flight: dispatch.in_flight(),
            queued: dispatch.queued(),
            sessions: dispatch.sessions(now),
            breaker,
        })
    }

    /// The latest process of the worker with this index that was ready.
    pub(crate) fn worker(&self, index: u32) -> Option<Arc<Worker>> {
        self.roster.get(index)
    }

    /// All of them.
    pub(crate) fn workers(&self) -> Vec<Arc<Worker>> {
        self.roster.all()
    }

    /// Changes with each worker that becomes ready.
    pub(crate) fn arrivals(&self) -> watch::Receiver<()> {
        self.arrivals.subscribe()
    }

    pub(crate) fn dispatcher(&self) -> &Arc<Dispatcher<Arc<Worker>>> {
        &self.dispatcher
    }

    /// A call was made: its share of the retry budget.
    pub(crate) fn called(&self) {
        lock(&self.budget).called();
    }

    pub(crate) fn may_retry(&self) -> bool {
        lock(&self.budget).spend()
    }

    pub(crate) fn crashes_on(&self, key: Option<&str>) -> u32 {
        key.map_or(0, |key| lock(&self.poison).crashes(key))
    }

    pub(crate) fn crashed_on(&self, key: Option<&str>) {
        if let Some(key) = key {
            lock(&self.poison).crashed(key);
        }
    }

    pub(crate) fn answered(&self, key: Option<&str>) {
        if let Some(key) = key {
            lock(&self.poison).answered(key);
        }
    }

    pub(crate) fn is_poison(&self, crashes: u32) -> bool {
        lock(&self.poison).is_too_many(crashes)
    }

    /// A worker has served a call, after which it may be due for recycling.
    pub(crate) fn note_served(self: &Arc<Self>, worker: &Arc<Worker>) {
        let due = worker.limits.exceeded(Duration::ZERO, worker.served(), None);
        if let Some(reason) = due {
            self.recycle(worker, reason);
        }
    }
}

impl Follower for Serving {
    fn changed(&self, id: &WorkerId, incarnation: Incarnation, change: WorkerChange) {
        let key = WorkerKey {
            index: id.index,
            incarnation,
        };
        let life = match change {
            WorkerChange::Ready(ready) => {
                let worker = Worker::new(ready, Limits::draw(&self.spec.recycle, fastrand::f64));
                self.warm.worker(&self.runtime, &worker, self.connect_deadline());
                self.roster.arrive(&self.dispatcher, key, worker);
                self.arrivals.send_replace(());
                return;
            }
            WorkerChange::Stopping => Life::Stopping,
            WorkerChange::Exited => Life::Exited,
            WorkerChange::Failed(failure) => Life::Failed(failure),
            WorkerChange::Released => Life::Released,
            _ => return,
        };
        let Some(worker) = self.roster.incarnation(key) else {
            return;
        };
        if let Life::Failed(failure) = &life {
            let failure = Arc::clone(failure);
            self.dispatcher
                .with(|dispatch, _| dispatch.failed(worker.key(), failure));
        }
        self.dispatcher.unready(worker.key());
        worker.set_life(life);
    }
}

/// The circuit breaker's permission for one attempt. Dropped without an end, it says nothing about
/// the worker.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    serving: &'a Arc<Serving>,
    permit: Option<Permit>,
}

impl<'a> Trial<'a> {
    /// # Errors
    /// The breaker is open.
    pub(crate) fn begin(serving: &'a Arc<Serving>) -> Result<Self, Refused> {
        let now = serving.dispatcher.now();
        match lock(&serving.breaker).permit(now) {
            Ok(permit) => Ok(Self {
                serving,
                permit: Some(permit),
            }),
            Err(until) => Err(Refused::BreakerOpen {
                retry_after: until.since(now),
            }),
        }
    }

    pub(crate) fn end(mut self, verdict: Verdict) {
        self.report(verdict);
    }

    /// The answer has begun. How it ends is reported with the permit that is returned; `None`: its
    /// beginning is enough to close the breaker, which must not wait for a stream without an end.
    pub(crate) fn begun(mut self) -> Option<Permit> {
        if self.permit.is_some_and(|permit| permit.is_trial()) {
            self.report(Verdict::Answered);
        }
        self.permit.take()
    }

    fn report(&mut self, verdict: Verdict) {
        if let Some(permit) = self.permit.take() {
            self.serving.report(permit, verdict);
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.report(Verdict::Neutral);
    }
}

impl Serving {
    /// A call that the circuit breaker has let through has ended.
    pub(crate) fn report(&self, permit: Permit, verdict: Verdict) {
        let now = self.dispatcher.now();
        let change = lock(&self.breaker).report(permit, verdict, now);
        let (pool, rules) = (&self.pool, &self.spec.breaker);
        match change {
            None => {}
            Some(Change::Opened) => {
                let why = "calls are refused, because too many were sent and had no answer";
                let facts = Facts::default().with_message(why.to_owned()).with_delay(rules.open);
                pool.publish(EventKind::BreakerOpened, None, facts);
            }
            Some(Change::Closed) => pool.publish(EventKind::BreakerClosed, None, Facts::default()),
        }
    }
}

async fn close_when_over(pool: Pool, dispatcher: Arc<Dispatcher<Arc<Worker>>>) {
    let end = pool.wait_over().await;
    dispatcher.close(end);
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
