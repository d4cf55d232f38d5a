//! Compares the table of a dead host with what the observer saw of it.

use std::collections::HashMap;
use std::path::Path;

use ostler::RunId;
use ostler_core::ids::WorkerId;
use ostler_registry::{FoundRun, Identity, Record, RecordState, runs};

use crate::census::Id;
use crate::settle::Worker;

/// The records of the dead run, by `pool/0#3`. The reader holds the run's lock.
pub(crate) fn of_dead_run(app_dir: &Path, run: &str) -> Result<HashMap<String, Record>, String> {
    let run: RunId = run.parse().map_err(|_| format!("{run} is not a run id"))?;
    for found in runs(app_dir).map_err(|error| error.to_string())? {
        match found {
            FoundRun::Dead(dead) if dead.run() == run => {
                let store = dead
                    .records()
                    .map_err(|error| format!("reading the dead run's table: {error}"))?;
                if !store.unreadable.is_empty() {
                    return Err(format!(
                        "the dead run's table has unreadable rows: {:?}",
                        store.unreadable
                    ));
                }
                let named = |record: Record| (record.worker.marker_value(record.incarnation), record);
                return Ok(store.records.into_iter().map(named).collect());
            }
            FoundRun::Live(live) if live.run == run => {
                return Err(format!("run {run} counts as live, but its host is dead"));
            }
            _ => {}
        }
    }
    Err(format!("run {run} has no directory"))
}

/// Checks that no worker has two records.
pub(crate) fn none_twice(records: &HashMap<String, Record>) -> Result<(), String> {
    let mut workers: HashMap<&WorkerId, &String> = HashMap::new();
    for (name, record) in records {
        if let Some(other) = workers.insert(&record.worker, name) {
            return Err(format!("the dead run's table has {name} and {other}"));
        }
    }
    Ok(())
}

/// Checks that every worker at full strength has a record with its identity. Returns how many are
/// only reserved: the identity is written after the process has started, and until then its marker
/// identifies it.
pub(crate) fn name_all(records: &HashMap<String, Record>, workers: &[Worker]) -> Result<u64, String> {
    let mut reserved = 0;
    for worker in workers {
        let name = worker.name();
        let record = records.get(&name).ok_or_else(|| format!("{name} has no record"))?;
        let recorded = record.identity.as_ref().map(|Identity::LocalProcess(process)| Id {
            pid: process.pid,
            start: process.start_time,
        });
        if recorded.is_none() && record.state == RecordState::Reserved {
            reserved += 1;
        } else if recorded != Some(worker.leader) {
            return Err(format!(
                "{name} is {:?}, but its record has {recorded:?}",
                worker.leader
            ));
        }
    }
    Ok(reserved)
}
