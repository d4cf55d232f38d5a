//! The workers that were ready, by index: what asks for a worker by its index finds it here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ostler_core::ids::Incarnation;

use crate::dispatcher::Dispatcher;
use crate::policy::workers::WorkerKey;
use crate::pool::lock;

/// The latest incarnation of each worker that was ready. `W` is what a worker is used by.
#[derive(Debug)]
pub(crate) struct Roster<W: Clone> {
    workers: Mutex<HashMap<u32, (Incarnation, W)>>,
}

impl<W: Clone> Default for Roster<W> {
    fn default() -> Self {
        Self {
            workers: Mutex::default(),
        }
    }
}

impl<W: Clone> Roster<W> {
    /// A worker is ready. It is in the dispatch before it can be found here: what is found may be
    /// replaced, and a worker that enters the dispatch afterwards would get calls while it drains.
    pub(crate) fn arrive(&self, dispatcher: &Arc<Dispatcher<W>>, key: WorkerKey, worker: W) {
        dispatcher.ready(key, worker.clone());
        lock(&self.workers).insert(key.index, (key.incarnation, worker));
    }

    /// The latest process of the worker with this index that was ready.
    pub(crate) fn get(&self, index: u32) -> Option<W> {
        lock(&self.workers).get(&index).map(|(_, worker)| worker.clone())
    }

    /// This incarnation, if it is the latest.
    pub(crate) fn incarnation(&self, key: WorkerKey) -> Option<W> {
        let workers = lock(&self.workers);
        let (latest, worker) = workers.get(&key.index)?;
        (*latest == key.incarnation).then(|| worker.clone())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<W> {
        lock(&self.workers).values().map(|(_, worker)| worker.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use ostler_core::spec::ServeSpec;

    use super::*;

    fn key(incarnation: u64) -> WorkerKey {
        WorkerKey {
            index: 0,
            incarnation: Incarnation(incarnation),
        }
    }

    /// A worker that notes, whenever it is used, whether it could be found already.
    #[derive(Debug)]
    struct Probe(Arc<Roster<Probe>>, Arc<Mutex<Vec<bool>>>);

    impl Clone for Probe {
        fn clone(&self) -> Self {
            // Not while the roster itself makes the clone.
            if let Ok(workers) = self.0.workers.try_lock() {
                lock(&self.1).push(workers.contains_key(&0));
            }
            Self(Arc::clone(&self.0), Arc::clone(&self.1))
        }
    }

    /// A race: a worker that was replaced between its way into the roster and its way into the
    /// dispatch got calls while it drained.
    #[tokio::test]
    async fn a_worker_is_dispatched_before_it_can_be_found() {
        let dispatcher = Dispatcher::new("embed", &ServeSpec::default());
        let mut waits = Box::pin(dispatcher.checkout(None, None));
        assert!(futures_util::poll!(&mut waits).is_pending());
        let (roster, seen) = (Arc::<Roster<Probe>>::default(), Arc::default());
        let worker = Probe(Arc::clone(&roster), Arc::clone(&seen));
        roster.arrive(&dispatcher, key(1), worker);
        assert!(waits.await.is_ok(), "the call that waited has it");
        let seen = lock(&seen).clone();
        assert!(!seen.is_empty() && !seen.contains(&true), "{seen:?}");
        assert!(roster.get(0).is_some() && roster.incarnation(key(2)).is_none());
    }
}
