//! An instance as telemetry sees it, read from telemetry's own thread.

use std::time::Instant;

use ostler_core::lifecycle::State;
use ostler_telemetry::{Instance, PoolSnapshot, Snapshot};

use super::tree::Tree;
use crate::pool::PoolPhase;
use crate::pool::shared::PoolShared;
use crate::status::WorkerState;
use crate::usage::usage;

/// How a worker is counted while it has no lifecycle state.
const GAVE_UP: &str = "gave_up";
const FINISHED: &str = "finished";
const WAITING: &str = "waiting";

impl Instance for Tree {
    fn snapshot(&self, deadline: Instant) -> Snapshot {
        let services = self.services();
        let pools = self.pools_in_order();
        let living = pools.iter().filter(|pool| !pool.is_ended());
        Snapshot {
            app: services.owner.app.clone(),
            records: services.table.len() as u64,
            pools: living.map(|pool| of_pool(pool, deadline)).collect(),
        }
    }
}

fn of_pool(pool: &PoolShared, deadline: Instant) -> PoolSnapshot {
    let mut states: Vec<(&'static str, u64)> = State::ALL.map(|state| (state.name(), 0)).to_vec();
    states.extend([GAVE_UP, FINISHED, WAITING].map(|state| (state, 0)));
    let now = Instant::now();
    let mut snapshot = PoolSnapshot {
        pool: pool.spec.name.clone(),
        missing: missing(&pool.phase()),
        ..PoolSnapshot::default()
    };
    for slot in &pool.slots.present() {
        let counted_as = counted_as(&slot.state());
        if let Some((_, count)) = states.iter_mut().find(|(state, _)| *state == counted_as) {
            *count += 1;
        }
        snapshot.waiting += u64::from(slot.is_waiting());
        snapshot.intensity_used = snapshot.intensity_used.max(slot.intensity_used(now));
        if Instant::now() < deadline {
            snapshot.usage.extend(usage(slot));
        }
    }
    snapshot.states = states;
    snapshot
}

fn missing(phase: &PoolPhase) -> u64 {
    match phase {
        PoolPhase::Degraded { ready, expected } => expected.saturating_sub(*ready) as u64,
        _ => 0,
    }
}

fn counted_as(state: &WorkerState) -> &'static str {
    match state {
        WorkerState { gave_up: true, .. } => GAVE_UP,
        WorkerState { finished: true, .. } => FINISHED,
        WorkerState { state: None, .. } => WAITING,
        WorkerState { state: Some(state), .. } => state.name(),
    }
}
