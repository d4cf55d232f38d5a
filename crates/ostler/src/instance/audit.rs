//! The audit compares, at an interval, what supervision, the process table, the guardian and
//! `/proc` say about the same processes. It reports what disagrees and touches nothing. In a
//! healthy run it reports nothing.
//!
//! It is a task of its own: no actor waits for it, and blocking work runs on a thread. Processes
//! change while they are read, so only what disagrees in the same way twice, [`PAUSE`] apart, is
//! reported.

mod compare;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ostler_core::ids::{RunId, WorkerId};
use ostler_core::lifecycle::State;
use ostler_os::identity::{self, Verified};
use ostler_os::{marker, tree};
use ostler_registry::{Identity, Record};

use super::services::{Services, StopLevel};
use super::tree::Tree;
use crate::guard::NoCensus;
use crate::hub::Hub;
use crate::remains;
use compare::{Disagreement, GuardianView, Marked, Recorded, Up, View};

/// How often an instance is audited by default: every 60 s.
pub const AUDIT_INTERVAL: Duration = Duration::from_secs(60);

/// The time between the two comparisons: 1 s. An exit is noticed, and its release begun, within
/// milliseconds.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the guardian may take to report its processes: 1 s, so that a silent guardian is
/// reported before the host kills it (`guard/overdue.rs`).
const CENSUS_LIMIT: Duration = Duration::from_secs(1);

/// Audits an instance until it stops. Never, if the interval is zero.
pub(crate) fn start(tree: &Arc<Tree>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let mut stop_level = tree.services().stop_level.subscribe();
    // The audit does not keep the instance alive.
    let tree = Arc::downgrade(tree);
    tokio::spawn(async move {
        tokio::select! {
            _ = stop_level.wait_for(|level| *level != StopLevel::None) => {}
            () = audit_for_ever(&tree, interval) => {}
        }
    });
}

async fn audit_for_ever(tree: &Weak<Tree>, interval: Duration) {
    let mut unseen = Unseen::default();
    loop {
        tokio::time::sleep(interval).await;
        let first = unseen.report(look(tree).await);
        if first.is_empty() {
            continue;
        }
        tokio::time::sleep(PAUSE).await;
        let second = unseen.report(look(tree).await);
        let Some(tree) = tree.upgrade() else { return };
        for disagreement in first.intersection(&second) {
            report(&tree.services().hub, disagreement);
        }
    }
}

/// What a comparison came to.
#[derive(Default)]
struct Look {
    found: BTreeSet<Disagreement>,
    /// What could not be read, in words.
    unseen: Vec<String>,
}

/// What could not be read at the last look. It is reported when it changes: at each look, it would
/// fill the log for as long as the machine is as it is.
#[derive(Default)]
struct Unseen(Vec<String>);

impl Unseen {
    fn report(&mut self, look: Look) -> BTreeSet<Disagreement> {
        for unseen in look.unseen.iter().filter(|unseen| !self.0.contains(*unseen)) {
            tracing::warn!(target: "ostler", what = unseen, "the audit could not look at everything");
        }
        self.0 = look.unseen;
        look.found
    }
}

/// Reports a finding.
fn report(hub: &Hub, found: &Disagreement) {
    tracing::warn!(target: "ostler", kind = found.kind(), %found, "the audit found a disagreement; nothing was touched");
    if let Some(observer) = hub.observer() {
        observer.disagreement(hub.app(), found.kind());
    }
}

/// One comparison. What can't be read is not compared, and is reported as such: an audit that sees
/// nothing proves nothing about the tree.
async fn look(tree: &Weak<Tree>) -> Look {
    let Some(tree) = tree.upgrade() else {
        return Look::default();
    };
    let services = Arc::clone(tree.services());
    let (up, probes) = (workers_up(&tree), probe_slots(&tree));
    drop(tree);
    let guardian = ask_guardian(&services).await;
    let records = services.table.records();
    let run = services.run;
    drop(services);
    let look = tokio::task::spawn_blocking(move || {
        let (marked, unseen) = marked(run);
        let sitters = guardian.sitter_pids();
        let view = || {
            Ok::<_, io::Error>(View {
                up,
                probes,
                records: records.iter().map(recorded).collect::<io::Result<_>>()?,
                guardian,
                marked,
                owners: tree::owners(&sitters)?,
            })
        };
        match view() {
            Ok(view) => Look {
                found: compare::compare(&view),
                unseen: unseen.into_iter().collect(),
            },
            Err(error) => Look {
                found: BTreeSet::new(),
                unseen: vec![format!("/proc can't be read: {error}")],
            },
        }
    });
    // An error: the runtime is shutting down.
    look.await.unwrap_or_default()
}

/// The workers whose process is alive, according to supervision.
fn workers_up(tree: &Tree) -> Vec<Up> {
    let pools = tree.pools_in_order();
    let slots = pools.iter().flat_map(|pool| pool.slots.held());
    let up = slots.filter_map(|slot| {
        let state = slot.state();
        let is_up = matches!(state.state, Some(State::Spawned | State::Ready));
        Some(Up {
            worker: slot.worker.marker_value(state.incarnation.filter(|_| is_up)?),
            pid: i32::try_from(state.pid?).ok()?,
        })
    });
    up.collect()
}

/// The slots of `exec` probes at the guardian. Their processes have no record.
fn probe_slots(tree: &Tree) -> HashSet<u32> {
    let pools = tree.pools_in_order();
    let slots = pools.iter().flat_map(|pool| pool.slots.held());
    slots.filter_map(|slot| Some(slot.probe.as_ref()?.number)).collect()
}

async fn ask_guardian(services: &Services) -> GuardianView {
    match services.link.census(CENSUS_LIMIT).await {
        Ok(census) => GuardianView::Has {
            sitters: census.sitters,
            strays: census.strays.into_iter().map(|stray| stray.pid).collect(),
        },
        Err(NoCensus::Lost) => GuardianView::None,
        Err(NoCensus::Unanswered) => GuardianView::Silent,
    }
}

fn recorded(record: &Record) -> io::Result<Recorded> {
    let identity = record.identity.as_ref().map(|Identity::LocalProcess(process)| *process);
    let lives = match identity.as_ref().map(identity::verify).transpose()? {
        None | Some(Verified::Unknown(_)) => None,
        Some(Verified::Same(_)) => Some(true),
        Some(Verified::Gone | Verified::Reused) => Some(false),
    };
    Ok(Recorded {
        worker: record.worker.marker_value(record.incarnation),
        pid: identity.map(|identity| identity.pid),
        lives,
        sitter: record.sitter.map(|sitter| sitter.pid),
    })
}

fn marked(run: RunId) -> (Vec<Marked>, Option<String>) {
    let (found, unseen) = remains::marked(run, remains::own_host().as_ref());
    let of_run = |found: marker::Marked| {
        let value = found.markers.into_iter().find(|(of, _)| *of == run);
        value.map(|(_, value)| Marked {
            pid: found.identity.pid,
            worker: WorkerId::examined(&value).to_owned(),
        })
    };
    (found.into_iter().filter_map(of_run).collect(), unseen)
}
