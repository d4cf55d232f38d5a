//! Who serves a call: workers, queue and sessions together.
//!
//! One rule holds between any two calls of these functions: while a worker has room, no call waits
//! that it may serve.

use std::collections::HashMap;
use std::sync::Arc;

use ostler::PoolEnd;
use ostler_core::failure::Failure;
use ostler_core::ids::{Incarnation, WorkerId};
use ostler_core::moment::Moment;
use ostler_core::spec::{Affinity, ServeSpec};

use super::codel::Codel;
use super::queue::{Next, Queue, SessionId, Ticket, Waiting};
use super::sessions::{Sessions, rendezvous};
use super::workers::{WorkerKey, Workers};
use crate::outcome::{Refused, SessionLost, WorkerRef};

/// What a call that asks for a worker gets.
#[derive(Debug)]
pub(crate) enum Asked<W> {
    /// This worker, which has one more call in flight now.
    Granted(WorkerKey, W),
    /// It has to wait, for this worker alone if one is named: [`Dispatch::wait`], before anything
    /// else is done.
    MustWait(Option<u32>),
    /// No worker, for this reason.
    Refused(Refused),
}

/// Waiting calls that get a worker, and those that are refused. They are woken after the lock is
/// released.
#[derive(Debug)]
pub(crate) struct Handed<T, W> {
    pub(crate) granted: Vec<(T, WorkerKey, W)>,
    pub(crate) refused: Vec<(T, Refused)>,
}

impl<T, W> Default for Handed<T, W> {
    fn default() -> Self {
        Self {
            granted: Vec::new(),
            refused: Vec::new(),
        }
    }
}

/// The dispatch of one pool. `T` identifies a waiting call; `W` is the handle of a worker.
#[derive(Debug)]
pub(crate) struct Dispatch<T, W> {
    pool: String,
    workers: Workers<W>,
    queue: Queue<T>,
    max: usize,
    codel: Option<Codel>,
    sessions: Sessions,
    affinity: Affinity,
    max_sessions: usize,
    /// The failure of each worker's last incarnation, for sessions that ask for it.
    failures: HashMap<u32, (Incarnation, Arc<Failure>)>,
    over: Option<Arc<PoolEnd>>,
}

impl<T, W: Clone> Dispatch<T, W> {
    pub(crate) fn new(pool: &str, spec: &ServeSpec) -> Self {
        Self {
            pool: pool.to_owned(),
            workers: Workers::new(spec.concurrency),
            queue: Queue::new(spec.queue.order),
            max: spec.queue.max,
            codel: spec.queue.codel.map(Codel::new),
            sessions: Sessions::new(&spec.sessions),
            affinity: spec.sessions.affinity,
            max_sessions: spec.sessions.max,
            failures: HashMap::new(),
            over: None,
        }
    }

    /// A call without a session asks for a worker: the fast path needs no time.
    pub(crate) fn ask(&mut self) -> Asked<W> {
        match self.workers.take() {
            Some((key, handle)) => Asked::Granted(key, handle),
            None => self.must_wait(None),
        }
    }

    /// A call of a session asks for a worker.
    pub(crate) fn ask_for(&mut self, session: &SessionId, now: Moment) -> Asked<W> {
        let bound = match self.sessions.worker(session, now) {
            Some(worker) if self.is_current(worker) => Some(worker),
            Some(lost) => {
                self.sessions.unbind(session);
                if self.is_strict() {
                    return Asked::Refused(self.session_lost(session, lost));
                }
                None
            }
            None => None,
        };
        let chosen = bound.or_else(|| rendezvous(session, self.workers.keys()));
        // No worker is ready: the call is bound to the one that serves it.
        let Some(worker) = chosen else {
            return self.must_wait(None);
        };
        if bound.is_none() && !self.sessions.bind(session, worker, now) && self.is_strict() {
            return Asked::Refused(self.too_many_sessions());
        }
        if let Some((key, handle)) = self.workers.take_this(worker.index) {
            return Asked::Granted(key, handle);
        }
        match self.affinity {
            Affinity::Hint => self.ask(),
            Affinity::StrictQueue => self.must_wait(Some(worker.index)),
            Affinity::StrictFailFast => Asked::Refused(Refused::SessionBusy {
                session: session.to_string(),
                worker: self.name(worker),
            }),
        }
    }

    fn must_wait(&self, worker: Option<u32>) -> Asked<W> {
        if let Some(end) = &self.over {
            return Asked::Refused(self.pool_over(Arc::clone(end)));
        }
        let queued = self.queue.len();
        if queued >= self.max {
            return Asked::Refused(Refused::Saturated {
                queued,
                limit: self.max,
            });
        }
        Asked::MustWait(worker)
    }

    /// Adds a call to the queue.
    pub(crate) fn wait(&mut self, waiting: Waiting<T>, worker: Option<u32>) -> Ticket {
        self.queue.push(waiting, worker)
    }

    /// A waiting call leaves the queue. `None`: it has got a worker, or was refused, already.
    pub(crate) fn give_up(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        self.queue.remove(ticket)
    }

    /// A call is over, and its worker has room for the next.
    pub(crate) fn give_back(&mut self, key: WorkerKey, now: impl FnOnce() -> Moment) -> Handed<T, W> {
        let mut handed = Handed::default();
        if self.workers.give_back(key) && self.queue.len() > 0 {
            self.serve(key.index, now(), &mut handed);
        }
        handed
    }

    /// An incarnation can be used.
    pub(crate) fn ready(&mut self, key: WorkerKey, handle: W, now: Moment) -> Handed<T, W> {
        let mut handed = self.unready(key.index);
        self.workers.insert(key, handle);
        self.serve(key.index, now, &mut handed);
        handed
    }

    /// A worker gets no further calls. Those that wait for it alone have lost their sessions.
    pub(crate) fn unready(&mut self, index: u32) -> Handed<T, W> {
        let mut handed = Handed::default();
        let Some(incarnation) = self.workers.remove(index) else {
            return handed;
        };
        let lost = WorkerKey { index, incarnation };
        for waiting in self.queue.take_pinned(index) {
            // Only calls of sessions are pinned.
            let Some(session) = waiting.session else { continue };
            self.sessions.unbind(&session);
            handed.refused.push((waiting.item, self.session_lost(&session, lost)));
        }
        handed
    }

    /// The failure of an incarnation.
    pub(crate) fn failed(&mut self, key: WorkerKey, failure: Arc<Failure>) {
        self.failures.insert(key.index, (key.incarnation, failure));
    }

    /// The pool is over: nothing that waits will be served.
    pub(crate) fn close(&mut self, end: PoolEnd) -> Handed<T, W> {
        let end = Arc::new(end);
        let waited = self.queue.drain().into_iter();
        let handed = Handed {
            refused: waited
                .map(|waiting| (waiting.item, self.pool_over(Arc::clone(&end))))
                .collect(),
            granted: Vec::new(),
        };
        let indices: Vec<u32> = self.workers.keys().map(|key| key.index).collect();
        for index in indices {
            self.workers.remove(index);
        }
        self.over = Some(end);
        handed
    }

    /// What a call is refused with when the pool has ended so.
    pub(crate) fn pool_over(&self, end: impl Into<Arc<PoolEnd>>) -> Refused {
        Refused::PoolOver {
            pool: self.pool.clone(),
            end: end.into(),
        }
    }

    /// Gives waiting calls to this worker until it has no room or none waits.
    fn serve(&mut self, index: u32, now: Moment, handed: &mut Handed<T, W>) {
        while self.workers.has_room(index)
            && let Some(next) = self.queue.pop_for(index)
        {
            if let Some(refused) = self.too_late(&next.waiting, now) {
                handed.refused.push((next.waiting.item, refused));
                continue;
            }
            let Some(next) = self.keep_to_session(next, index, now, handed) else {
                continue;
            };
            if let Some((key, handle)) = self.workers.take_this(index) {
                handed.granted.push((next.waiting.item, key, handle));
            }
        }
    }

    fn too_late(&mut self, waiting: &Waiting<T>, now: Moment) -> Option<Refused> {
        let waited = now.since(waiting.since);
        if waiting.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Refused::Expired { waited });
        }
        let last = self.queue.len() == 0;
        let refuses = |codel: &mut Codel| codel.refuses(now, waited, last);
        let refused = self.codel.as_mut().is_some_and(refuses);
        refused.then_some(Refused::Overloaded { waited })
    }

    /// A session that waited while no worker was ready is bound to the one that serves its first
    /// call; its other calls then wait for that one. `None`: the call was put back, or refused.
    fn keep_to_session(
        &mut self,
        next: Next<T>,
        index: u32,
        now: Moment,
        handed: &mut Handed<T, W>,
    ) -> Option<Next<T>> {
        let Some(session) = next.waiting.session.clone() else {
            return Some(next);
        };
        let here = WorkerKey {
            index,
            incarnation: self.workers.incarnation(index)?,
        };
        match self.sessions.worker(&session, now) {
            Some(bound) if self.is_strict() && bound != here && self.is_current(bound) => {
                self.queue.pin(next, bound.index);
                None
            }
            Some(bound) if self.is_current(bound) => Some(next),
            Some(_) | None => {
                if !self.sessions.bind(&session, here, now) && self.is_strict() {
                    handed.refused.push((next.waiting.item, self.too_many_sessions()));
                    return None;
                }
                Some(next)
            }
        }
    }

    fn too_many_sessions(&self) -> Refused {
        Refused::TooManySessions {
            limit: self.max_sessions,
        }
    }

    fn is_strict(&self) -> bool {
        self.affinity != Affinity::Hint
    }

    fn is_current(&self, key: WorkerKey) -> bool {
        self.workers.incarnation(key.index) == Some(key.incarnation)
    }

    fn session_lost(&self, session: &SessionId, lost: WorkerKey) -> Refused {
        let failure = self.failures.get(&lost.index);
        let failure = failure.filter(|(incarnation, _)| *incarnation == lost.incarnation);
        Refused::SessionLost(SessionLost {
            session: session.to_string(),
            worker: self.name(lost),
            failure: failure.map(|(_, failure)| Arc::clone(failure)),
        })
    }

    fn name(&self, key: WorkerKey) -> WorkerRef {
        WorkerRef {
            id: WorkerId::new(self.pool.clone(), key.index),
            incarnation: key.incarnation,
        }
    }

    /// Whether this incarnation gets calls.
    pub(crate) fn is_usable(&self, key: WorkerKey) -> bool {
        self.is_current(key)
    }

    /// How many calls wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many calls are in flight on workers that can be used.
    pub(crate) fn in_flight(&self) -> u64 {
        self.workers.in_flight()
    }

    /// How many workers can be used.
    pub(crate) fn usable(&self) -> usize {
        self.workers.len()
    }

    /// How many sessions are bound.
    pub(crate) fn sessions(&mut self, now: Moment) -> usize {
        self.sessions.len(now)
    }
}

#[cfg(test)]
mod tests;
