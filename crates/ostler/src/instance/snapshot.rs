//! An instance as telemetry sees it, read from telemetry's own thread.

use std::time::Instant;

use ostler_telemetry::{Instance, PoolSnapshot, Snapshot, WorkerStanding};

use super::tree::Tree;
use crate::pool::PoolPhase;
use crate::pool::shared::PoolShared;
use crate::status::WorkerState;
use crate::usage::usage;

impl Instance for Tree {
    fn snapshot(&self, deadline: Instant) -> Snapshot {
        let services = self.services();
        let pools = self.pools_in_order();
        let living = pools.iter().filter(|pool| !pool.is_ended());
        let mut snapshot = Snapshot::new(&services.owner.app, services.table.len() as u64);
        snapshot.pools = living.map(|pool| of_pool(pool, deadline)).collect();
        snapshot
    }
}

fn of_pool(pool: &PoolShared, deadline: Instant) -> PoolSnapshot {
    let now = Instant::now();
    let mut snapshot = PoolSnapshot::new(&pool.spec.name);
    snapshot.missing = missing(&pool.phase());
    snapshot.states = WorkerStanding::all().map(|standing| (standing, 0)).collect();
    for slot in &pool.slots.present() {
        let counted_as = counted_as(&slot.state());
        if let Some((_, count)) = snapshot.states.iter_mut().find(|(state, _)| *state == counted_as) {
            *count += 1;
        }
        snapshot.waiting += u64::from(slot.is_waiting());
        snapshot.intensity_used = snapshot.intensity_used.max(slot.intensity_used(now));
        if Instant::now() < deadline {
            snapshot.usage.extend(usage(slot));
        }
    }
    snapshot
}

fn missing(phase: &PoolPhase) -> u64 {
    match phase {
        PoolPhase::Degraded { ready, expected } => expected.saturating_sub(*ready) as u64,
        _ => 0,
    }
}

fn counted_as(state: &WorkerState) -> WorkerStanding {
    match state {
        WorkerState { gave_up: true, .. } => WorkerStanding::GaveUp,
        WorkerState { finished: true, .. } => WorkerStanding::Finished,
        WorkerState { state: None, .. } => WorkerStanding::Waiting,
        WorkerState { state: Some(state), .. } => WorkerStanding::Lives(*state),
    }
}
