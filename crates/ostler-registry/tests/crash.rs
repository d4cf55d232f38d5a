//! A host that is SIGKILLed at any moment leaves every acknowledged record behind.

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/healthy.rs"]
mod healthy;

use std::collections::BTreeMap;
use std::path::Path;

use child::{Running, child_task, report};
use common::{engines, key, make_run, open, reservation, runtime};
use healthy::{activation, no_events};
use ostler_registry::{Engine, FoundRun, RecordState, runs};

const SLOTS: u32 = 4;

/// The expected content of the table: incarnation and state by slot.
type Model = BTreeMap<u32, (u64, RecordState)>;

/// The endless sequence of the child's operations: each slot is reserved, activated, removed and
/// reserved again.
fn step(number: u64) -> (u32, u64, u64) {
    let slot = (number % u64::from(SLOTS)) as u32;
    let round = number / u64::from(SLOTS);
    (slot, round / 3 + 1, round % 3)
}

fn apply(model: &mut Model, number: u64) {
    match step(number) {
        (slot, incarnation, 0) => drop(model.insert(slot, (incarnation, RecordState::Reserved))),
        (slot, incarnation, 1) => drop(model.insert(slot, (incarnation, RecordState::Active))),
        (slot, _, _) => drop(model.remove(&slot)),
    }
}

fn after(steps: u64) -> Model {
    let mut model = Model::new();
    (0..steps).for_each(|number| apply(&mut model, number));
    model
}

fn work_until_killed(dir: &Path, engine: Engine) {
    runtime().block_on(async {
        let run = make_run(dir, engine);
        let table = open(&run, engine, no_events()).await;
        report("open");
        for number in 0.. {
            match step(number) {
                (slot, incarnation, 0) => table.reserve(reservation(slot, incarnation)).await.expect("reserved"),
                (slot, incarnation, 1) => {
                    table
                        .activate(key(slot, incarnation), activation(100))
                        .await
                        .expect("activated");
                }
                (slot, incarnation, _) => assert!(table.remove(key(slot, incarnation)).await.expect("removed")),
            }
            report(&number.to_string());
        }
    });
}

fn found(dir: &Path) -> Model {
    let mut all = runs(dir).expect("listed");
    let Some(FoundRun::Dead(dead)) = all.pop() else {
        panic!("the lock of a dead host must be free")
    };
    let stored = dead.records().expect("readable");
    assert!(stored.unreadable.is_empty(), "{:?}", stored.unreadable);
    let model = stored
        .records
        .iter()
        .map(|record| (record.worker.index, (record.incarnation.0, record.state)));
    let model = model.collect();
    dead.remove().expect("removed");
    assert_eq!(std::fs::read_dir(dir).expect("listed").count(), 0);
    model
}

#[test]
fn acknowledged_records_survive_a_kill_at_any_moment() {
    if let Some((dir, engine)) = child_task() {
        return work_until_killed(&dir, engine);
    }
    for engine in engines() {
        for killed_after in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let name = "acknowledged_records_survive_a_kill_at_any_moment";
            let mut child = Running::start(name, dir.path(), engine);
            assert_eq!(child.next().as_deref(), Some("open"));
            assert!(
                matches!(runs(dir.path()).expect("listed").as_slice(), [FoundRun::Live(_)]),
                "the child is running"
            );
            for _ in 0..killed_after {
                child.next().expect("step of the child");
            }
            child.kill();
            // Steps reported before the kill count as well.
            let reported = killed_after + child.by_ref().count() as u64;
            assert!(!child.ended_well());

            let found = found(dir.path());
            // One step more than reported may have been done, and removals without a following
            // change may not be written.
            let removals = (0..reported).rev().take_while(|&number| step(number).2 == 2).count() as u64;
            let mut possible = (reported - removals..=reported + 1).map(after);
            assert!(
                possible.any(|model| model == found),
                "{engine}: {found:?} found after {reported} steps"
            );
        }
    }
}

/// A host that returns from `main` with a table that it dropped but did not close.
#[test]
fn host_that_does_not_close_its_table_exits_cleanly() {
    if let Some((dir, engine)) = child_task() {
        return runtime().block_on(async {
            let run = make_run(&dir, engine);
            let table = open(&run, engine, no_events()).await;
            table.reserve(reservation(0, 1)).await.expect("reserved");
        });
    }
    for engine in engines() {
        for _ in 0..10 {
            let dir = tempfile::tempdir().expect("temporary directory");
            let mut child = Running::start("host_that_does_not_close_its_table_exits_cleanly", dir.path(), engine);
            assert_eq!(child.next(), None);
            assert!(child.ended_well(), "{engine}");
            assert_eq!(found(dir.path()), Model::from([(0, (1, RecordState::Reserved))]));
        }
    }
}
