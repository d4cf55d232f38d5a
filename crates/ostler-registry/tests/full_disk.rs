//! Real engines on a disk that is full and then has space again: no call fails, nothing is lost.
//! Also on a disk that is not writable.

#[path = "common/child.rs"]
mod child;
mod common;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use child::{Running, child_task, report};
use common::{engines, make_run, open, owner, process, reservation, runtime};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use ostler_core::chain::chain;
use ostler_registry::{
    Engine, FoundRun, Record, RunDir, RunInfo, StoreError, Table, TableError, TableEvent, TableOptions, TableStatus,
    UnixNanos, runs,
};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

/// Enough records of 1 KiB to exceed the space that engines preallocate: RocksDB's log has half a
/// MiB.
const RECORDS: u32 = 1_500;

fn bulky(index: u32) -> Record {
    Record {
        marker: "m".repeat(1024),
        ..reservation(index, 1)
    }
}

/// Fills the table while the disk is full, frees space, and checks that every record is in the
/// store of the run, which then counts as dead.
async fn endure(dir: &Path, engine: Engine, fill: impl FnOnce(), make_room: impl FnOnce()) {
    let run = make_run(dir, engine);
    let (sender, mut events) = unbounded_channel();
    let table = open(&run, engine, Arc::new(move |event| _ = sender.send(event))).await;
    table.reserve(bulky(0)).await.expect("reserved");
    fill();
    for index in 1..RECORDS {
        table.reserve(bulky(index)).await.expect("reserving on a full disk");
    }
    let next = timeout(Duration::from_secs(20), events.recv()).await.expect("timeout");
    assert!(
        matches!(
            next,
            Some(TableEvent::Degraded {
                error: StoreError::Full { .. }
            })
        ),
        "{next:?}"
    );
    assert!(matches!(table.status(), TableStatus::Degraded { .. }));
    make_room();
    let next = timeout(Duration::from_secs(20), events.recv()).await.expect("timeout");
    assert!(matches!(next, Some(TableEvent::Recovered { .. })), "{next:?}");
    table.close().await.expect("closed");
    drop(run);

    let Some(FoundRun::Dead(dead)) = runs(dir).expect("listed").pop() else {
        panic!("dead")
    };
    assert_eq!(
        dead.records().expect("readable").records.len(),
        RECORDS as usize,
        "{engine}"
    );
    dead.remove().expect("removed");
}

fn run_in_a_child_for_each_engine(name: &str) {
    for engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut child = Running::start(name, dir.path(), engine);
        let lines: Vec<String> = child.by_ref().collect();
        assert!(child.ended_well(), "{engine}: {lines:?}");
        match lines.as_slice() {
            [done] if done == "done" => {}
            other => eprintln!("SKIPPED for {engine}: {other:?}"),
        }
    }
}

/// EFBIG from a limit on the file size, which needs no privileges: each write fails, as on a full
/// disk.
#[test]
fn file_size_limit_acts_like_a_full_disk() {
    let Some((dir, engine)) = child_task() else {
        return run_in_a_child_for_each_engine("file_size_limit_acts_like_a_full_disk");
    };
    // The signal that comes with EFBIG would end the process. Threads inherit the blocked signal
    // mask.
    SigSet::from(Signal::SIGXFSZ).thread_block().expect("blocking SIGXFSZ");
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("limit");
    let limit = |soft| setrlimit(Resource::RLIMIT_FSIZE, soft, hard).expect("limited");
    runtime().block_on(endure(&dir, engine, || limit(1), || limit(soft)));
    report("done");
}

/// ENOSPC from a small file system that the child mounts, which needs privileges.
#[test]
fn full_file_system_is_a_full_disk() {
    let Some((dir, engine)) = child_task() else {
        return run_in_a_child_for_each_engine("full_file_system_is_a_full_disk");
    };
    if let Err(error) = mount_small_tmpfs(&dir) {
        return report(&format!("a file system can't be mounted here: {error}"));
    }
    let (filler, app_dir) = (dir.join("filler"), dir.join("demo"));
    let make_room = || fs::remove_file(&filler).expect("removed");
    runtime().block_on(endure(&app_dir, engine, || fill(&filler), make_room));
    report("done");
}

/// EROFS: nothing can be created there, and the error has the path and a suggestion.
#[test]
fn read_only_file_system_is_refused_with_its_path() {
    let Some((dir, engine)) = child_task() else {
        return run_in_a_child_for_each_engine("read_only_file_system_is_refused_with_its_path");
    };
    if let Err(error) = mount_small_tmpfs(&dir) {
        return report(&format!("a file system can't be mounted here: {error}"));
    }
    let (run, later) = (
        make_run(&dir, engine),
        RunInfo::new(&owner(), process(2), engine, UnixNanos(2)),
    );
    let other = dir.join("other");
    fs::create_dir(&other).expect("made");
    // In the run's directory, which is open: a mount on it would hide nothing from the run.
    let table = run.path().join(format!("table.{}", engine.name()));
    match engine {
        Engine::Redb => drop(fs::File::create(&table).expect("made")),
        Engine::RocksDb => fs::create_dir(&table).expect("made"),
    }
    bind_read_only(&table);
    bind_read_only(&other);

    let options = TableOptions {
        engine,
        ..TableOptions::default()
    };
    let refused = runtime()
        .block_on(Table::open(&run, options, Arc::new(drop)))
        .expect_err("refused");
    assert!(
        matches!(refused, TableError::Store(StoreError::NotWritable { .. })),
        "{refused:?}"
    );
    let refused = [
        (chain(&refused), refused.suggestion()),
        RunDir::create(&other, later)
            .map_err(|e| (chain(&e), e.suggestion()))
            .expect_err("refused"),
    ];
    for (message, suggestion) in refused {
        assert!(
            message.contains(&dir.display().to_string()) && message.contains("Read-only"),
            "{message}"
        );
        assert!(suggestion.contains("writable"), "{suggestion}");
    }
    report("done");
}

/// A separate mount, because the lock's descriptor is open for writing on the other one.
fn bind_read_only(path: &Path) {
    let nothing = None::<&str>;
    mount(Some(path), path, nothing, MsFlags::MS_BIND, nothing).expect("bound");
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(nothing, path, nothing, read_only, nothing).expect("read-only");
}

fn mount_small_tmpfs(dir: &Path) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(nothing, dir, Some("tmpfs"), MsFlags::empty(), Some("size=32m,mode=700"))
}

fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("made");
    let mut full = Ok(());
    while full.is_ok() {
        full = file.write_all(&[7; 4096]);
    }
    assert_eq!(full.expect_err("full").kind(), io::ErrorKind::StorageFull);
}
