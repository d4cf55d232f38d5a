//! A run with a table for tests.

use std::path::Path;

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::process::ProcessIdentity;
use ostler_registry::{Engine, Key, OnTableEvent, Owner, Record, RunDir, RunInfo, Table, TableOptions, UnixNanos};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// The engines of this build.
pub(crate) fn engines() -> impl Iterator<Item = Engine> {
    Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in())
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("runtime")
}

pub(crate) fn owner() -> Owner {
    Owner {
        app: "demo".to_owned(),
        instance: "main".to_owned(),
        run: RunId::from_parts(1, [3; 10]),
    }
}

pub(crate) fn process(pid: i32) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: Uuid::from_u128(7),
        pid_namespace: 4_026_531_836,
        pid,
        start_time: 99,
        pidfd_inode: 2_025_430,
    }
}

pub(crate) fn make_run(app_dir: &Path, engine: Engine) -> RunDir {
    RunDir::create(app_dir, RunInfo::new(&owner(), process(1), engine, UnixNanos(1))).expect("run directory")
}

pub(crate) async fn open(run: &RunDir, engine: Engine, on_event: OnTableEvent) -> Table {
    let options = TableOptions {
        engine,
        retry_first: std::time::Duration::from_millis(5),
        ..TableOptions::default()
    };
    Table::open(run, options, on_event).await.expect("table")
}

pub(crate) fn key(index: u32, incarnation: u64) -> Key {
    Key::new(WorkerId::new("embed", index), Incarnation(incarnation))
}

pub(crate) fn reservation(index: u32, incarnation: u64) -> Record {
    Record::reservation(&owner(), key(index, incarnation), 5, UnixNanos(2))
}
