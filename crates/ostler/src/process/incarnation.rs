//! What one incarnation is: everything about it that does not change.

use std::sync::Arc;

use ostler_core::ids::{self, RunId, WorkerId};
use ostler_core::spec::{PoolSpec, WorkerSpec};
use ostler_registry::Key;

use crate::hub::About;

/// One incarnation of one worker.
#[derive(Debug, Clone)]
pub(super) struct Incarnation {
    pub(super) worker: WorkerId,
    pub(super) number: ids::Incarnation,
    /// Its slot's number at the guardian.
    pub(super) slot: u32,
    pub(super) run: RunId,
    pub(super) pool: Arc<PoolSpec>,
}

impl Incarnation {
    pub(super) fn spec(&self) -> &WorkerSpec {
        &self.pool.worker
    }

    pub(super) fn key(&self) -> Key {
        Key::new(self.worker.clone(), self.number)
    }

    pub(super) fn about(&self) -> About {
        About::worker(&self.worker, Some(self.number))
    }
}

/// The environment variable that carries the port of this name, and by which a worker reports it.
pub(super) fn port_variable(name: &str) -> String {
    if name.is_empty() {
        "PORT".to_owned()
    } else {
        format!("PORT_{}", name.to_ascii_uppercase())
    }
}
