//! Connections that are made as soon as a worker is ready, so that its first call need not wait for
//! one.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::adapter::Adapter;
use crate::connect::connection;
use crate::pool::lock;
use crate::worker::Worker;

/// Begins to connect one adapter to a worker, until the deadline.
type Connect = Arc<dyn Fn(&Handle, Arc<Worker>, Option<Instant>) + Send + Sync>;

/// The adapters of a pool's clients whose connections are kept warm, by type and connection name.
#[derive(Default)]
pub(crate) struct Warm(Mutex<HashMap<(TypeId, Box<str>), Connect>>);

impl fmt::Debug for Warm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Warm").field(&lock(&self.0).len()).finish()
    }
}

impl Warm {
    /// From now on, workers that become ready are connected to. Returns what connects to those that
    /// are ready already, if the adapter is new.
    pub(crate) fn add<A: Adapter>(&self, adapter: &Arc<A>) -> Option<Connect> {
        let key = (TypeId::of::<A>(), adapter.connection_name().into());
        let mut adapters = lock(&self.0);
        if adapters.contains_key(&key) {
            return None;
        }
        let adapter = Arc::clone(adapter);
        let connect: Connect = Arc::new(move |runtime, worker, deadline| {
            let adapter = Arc::clone(&adapter);
            // Without success, the worker's first call tries again, and has the error.
            runtime.spawn(async move { drop(connection(&*adapter, &worker, deadline).await) });
        });
        adapters.insert(key, Arc::clone(&connect));
        Some(connect)
    }

    /// Connects every adapter to a worker that is ready.
    pub(crate) fn worker(&self, runtime: &Handle, worker: &Arc<Worker>, deadline: Option<Instant>) {
        let adapters: Vec<Connect> = lock(&self.0).values().cloned().collect();
        for connect in adapters {
            connect(runtime, Arc::clone(worker), deadline);
        }
    }
}
