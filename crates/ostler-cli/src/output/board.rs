//! The state of a run as its events report it: what the table and the summary show.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use ostler_core::failure::Reason;
use ostler_core::ids::WorkerId;
use ostler_telemetry::{Event, EventKind, Facts};

use super::text::Tone;

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its state, in a word.
    pub(crate) state: &'static str,
    /// Its process, while there is one.
    pub(crate) pid: Option<u32>,
    /// Its ports, as text.
    pub(crate) ports: String,
    /// How often it was restarted.
    pub(crate) restarts: u64,
    /// Since when it is in its state.
    pub(crate) since: Option<SystemTime>,
    /// Why it failed last.
    pub(crate) last_failure: Option<Reason>,
}

impl Row {
    /// Whether it needs no attention.
    pub(crate) fn is_well(&self) -> bool {
        matches!(self.state, "ready" | "finished")
    }

    /// The colour of its line.
    pub(crate) fn tone(&self) -> Tone {
        match self.state {
            "failed" | "gave up" | "unhealthy" => Tone::Bad,
            _ => Tone::Plain,
        }
    }
}

/// The totals of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) restarts: u64,
    pub(crate) spawned: u64,
    pub(crate) reserved: u64,
    pub(crate) released: u64,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) workers_gave_up: u64,
    pub(crate) pools_gave_up: BTreeSet<String>,
    /// The pools that serve with fewer workers than they should.
    pub(crate) degraded: BTreeSet<String>,
    pub(crate) pools_ended: BTreeSet<String>,
    pub(crate) guardians_lost: u64,
    pub(crate) swept: u64,
    pub(crate) orphans: u64,
}

/// The run so far.
#[derive(Debug, Default)]
pub(crate) struct Board {
    rows: BTreeMap<WorkerId, Row>,
    tally: Tally,
}

impl Board {
    /// Every worker, in order of pool and number.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = (&WorkerId, &Row)> {
        self.rows.iter()
    }

    /// The totals so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes in the next event.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.count(event);
        let Some(worker) = &event.worker else { return };
        let row = self.rows.entry(worker.clone()).or_default();
        row.note(&event.facts);
        if let Some(state) = state_after(event.kind) {
            row.state = state;
            row.since = Some(event.time);
        }
        match event.kind {
            EventKind::WorkerReleased => row.pid = None,
            EventKind::WorkerRestarting => row.restarts += 1,
            _ => {}
        }
    }

    fn count(&mut self, event: &Event) {
        let tally = &mut self.tally;
        let count = event.facts.count.unwrap_or(0);
        let pool = || event.pool.clone().unwrap_or_default();
        match event.kind {
            EventKind::WorkerReserved => tally.reserved += 1,
            EventKind::WorkerSpawned => tally.spawned += 1,
            EventKind::WorkerReleased => tally.released += 1,
            EventKind::WorkerRestarting => tally.restarts += 1,
            EventKind::WorkerGaveUp => tally.workers_gave_up += 1,
            EventKind::WorkerFailed => {
                let reason = event.facts.reason.map_or("unknown", Reason::name);
                *tally.failures.entry(reason).or_default() += 1;
            }
            EventKind::PoolGaveUp => {
                tally.pools_gave_up.insert(pool());
                tally.pools_ended.insert(pool());
            }
            EventKind::PoolFinished => {
                tally.pools_ended.insert(pool());
            }
            EventKind::PoolDegraded => {
                tally.degraded.insert(pool());
            }
            EventKind::PoolReady | EventKind::PoolStopped => {
                tally.degraded.remove(&pool());
            }
            EventKind::GuardianLost => tally.guardians_lost += 1,
            EventKind::SweepDone => tally.swept += count,
            EventKind::CleanupOrphansFound => tally.orphans += count,
            _ => {}
        }
    }
}

impl Row {
    fn note(&mut self, facts: &Facts) {
        if facts.pid.is_some() {
            self.pid = facts.pid;
        }
        if facts.reason.is_some() {
            self.last_failure = facts.reason;
        }
        if let Some(ports) = ports(facts) {
            self.ports = ports;
        }
    }
}

/// The ports of an event as text: `8080`, or `http 8080, metrics 9100`.
pub(crate) fn ports(facts: &Facts) -> Option<String> {
    let named = || {
        facts
            .ports
            .iter()
            .map(|(name, port)| format!("{name} {port}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match facts.port {
        Some(port) => Some(port.to_string()),
        None => Some(named()).filter(|text| !text.is_empty()),
    }
}

/// The word for a worker's state after this event; `None` when the event does not change it.
fn state_after(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::WorkerReserved => Some("reserved"),
        EventKind::WorkerSpawned => Some("starting"),
        EventKind::WorkerReady => Some("ready"),
        EventKind::WorkerDraining => Some("draining"),
        EventKind::WorkerUnhealthy => Some("unhealthy"),
        EventKind::WorkerStopping => Some("stopping"),
        EventKind::WorkerExited => Some("exited"),
        EventKind::WorkerFailed => Some("failed"),
        EventKind::WorkerReleased => Some("released"),
        EventKind::WorkerRestarting => Some("restarting"),
        EventKind::WorkerFinished => Some("finished"),
        EventKind::WorkerGaveUp => Some("gave up"),
        _ => None,
    }
}
