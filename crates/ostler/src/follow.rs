//! Followers of a pool: code beside the tree that has to know, at once and without a gap, which
//! workers can be used and what became of each. `ostler-serve` is one.
//!
//! Events are for people and may be lost by a slow subscriber; a follower is called in place and
//! misses nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ostler_core::failure::Failure;
use ostler_core::ids::{Incarnation, WorkerId};

/// Where a worker can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket of its own, in a directory that only this user can enter.
    Unix(PathBuf),
}

/// A worker that can be used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReadyWorker {
    /// The worker.
    pub id: WorkerId,
    /// Which of its processes.
    pub incarnation: Incarnation,
    /// Its process.
    pub pid: Option<u32>,
    /// Where it listens, by the port's name; the one without a name has the empty name.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Its stdin and stdout, with [`Stdin::Pipe`](ostler_core::spec::Stdin::Pipe).
    pub stdio: Option<Stdio>,
}

/// The host's ends of a worker's stdin and stdout. They belong to one client; clones are the same
/// pair.
#[derive(Debug, Clone)]
pub struct Stdio(Arc<Pipes>);

#[derive(Debug)]
struct Pipes {
    stdin: OwnedFd,
    stdout: OwnedFd,
    taken: AtomicBool,
}

impl Stdio {
    pub(crate) fn new(stdin: OwnedFd, stdout: OwnedFd) -> Self {
        Self(Arc::new(Pipes {
            stdin,
            stdout,
            taken: AtomicBool::new(false),
        }))
    }

    /// The end to write to and the end to read from, once; `None`: a client has them already.
    /// Dropping them does not end the worker's stdin: that stays open until the worker has ended.
    ///
    /// # Errors
    /// No descriptor is left for the copies; they can be taken later then.
    pub fn take(&self) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        if self.0.taken.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        let copies = self
            .0
            .stdin
            .try_clone()
            .and_then(|stdin| Ok((stdin, self.0.stdout.try_clone()?)));
        if copies.is_err() {
            self.0.taken.store(false, Ordering::Release);
        }
        copies.map(Some)
    }
}

/// What happened to a worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WorkerChange {
    /// It can be used.
    Ready(ReadyWorker),
    /// It is being ended, or is not well: it gets no new work. It may finish what it has within its
    /// grace.
    Stopping,
    /// Its process has ended.
    Exited,
    /// It has failed; the failure has the last lines of its stderr. A worker that was stopped has
    /// none.
    Failed(Arc<Failure>),
    /// All it held is released: the last change of the incarnation.
    Released,
}

/// Hears what happens to the workers of a pool.
pub trait Follower: Send + Sync + 'static {
    /// Called in place, in the order of events for each worker: it must not block, and must not
    /// call the pool.
    fn changed(&self, id: &WorkerId, incarnation: Incarnation, change: WorkerChange);
}

/// The followers of one pool, and what a new one learns first.
#[derive(Default)]
pub(crate) struct Followers(Mutex<Following>);

#[derive(Default)]
struct Following {
    followers: Vec<Weak<dyn Follower>>,
    ready: BTreeMap<u32, ReadyWorker>,
}

impl Followers {
    /// Tells this follower of each worker that is ready now, and of all that happens from now on,
    /// until it is dropped.
    pub(crate) fn add<F: Follower>(&self, follower: &Arc<F>) {
        let mut following = self.lock();
        for worker in following.ready.values() {
            follower.changed(&worker.id, worker.incarnation, WorkerChange::Ready(worker.clone()));
        }
        let follower: Weak<F> = Arc::downgrade(follower);
        following.followers.push(follower);
    }

    pub(crate) fn tell(&self, id: &WorkerId, incarnation: Incarnation, change: WorkerChange) {
        // Under the lock, so that a follower hears things in their order, and a new one misses
        // nothing.
        let mut following = self.lock();
        match &change {
            WorkerChange::Ready(worker) => drop(following.ready.insert(id.index, worker.clone())),
            _ => {
                let ready = following.ready.get(&id.index);
                if ready.is_some_and(|ready| ready.incarnation == incarnation) {
                    following.ready.remove(&id.index);
                }
            }
        }
        following.followers.retain(|follower| {
            let Some(follower) = follower.upgrade() else {
                return false;
            };
            follower.changed(id, incarnation, change.clone());
            true
        });
    }

    fn lock(&self) -> MutexGuard<'_, Following> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followers").finish_non_exhaustive()
    }
}
