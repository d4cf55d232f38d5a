//! The table with stores that fail on demand, and with real ones.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ostler_core::lifecycle::LATE;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::codec::decode_record;
use crate::samples::{activation, active, key, owner, process, reserved};
use crate::store::{Change, Opened, Row, Store};

/// A disk in memory that can be made full, hang or panic.
#[derive(Clone, Default)]
struct FakeDisk {
    rows: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    full: Arc<AtomicBool>,
    hung: Arc<tokio::sync::Mutex<()>>,
    broken: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl FakeDisk {
    fn check(&self) -> Result<(), StoreError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(StoreError::from_io(
                &PathBuf::from("/fake"),
                io::Error::from_raw_os_error(28),
            )),
            false => Ok(()),
        }
    }

    fn opener(&self) -> Opener {
        let disk = self.clone();
        Box::new(move || {
            disk.opened.fetch_add(1, Ordering::SeqCst);
            disk.check()?;
            let rows: Vec<Row> = disk.rows.lock().unwrap().clone().into_iter().collect();
            let records = rows
                .iter()
                .map(|(_, value)| decode_record(value).expect("decodes"))
                .collect();
            Ok(Opened {
                store: Box::new(disk.clone()),
                rows,
                records,
                set_aside: None,
            })
        })
    }

    fn records(&self) -> Vec<Record> {
        self.rows
            .lock()
            .unwrap()
            .values()
            .map(|value| decode_record(value).expect("decodes"))
            .collect()
    }
}

impl Store for FakeDisk {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let _hangs = self.hung.blocking_lock();
        assert!(!self.broken.load(Ordering::SeqCst), "panic on demand");
        self.check()?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let mut rows = self.rows.lock().unwrap();
        for change in changes {
            match change {
                Change::Put { key, value } => drop(rows.insert(key.clone(), value.clone())),
                Change::Remove { key } => drop(rows.remove(key)),
            }
        }
        Ok(())
    }

    fn scan(&mut self) -> Result<Vec<Row>, StoreError> {
        Ok(self.rows.lock().unwrap().clone().into_iter().collect())
    }
}

fn events() -> (OnTableEvent, UnboundedReceiver<TableEvent>) {
    let (sender, receiver) = unbounded_channel();
    (Arc::new(move |event| _ = sender.send(event)), receiver)
}

async fn next(events: &mut UnboundedReceiver<TableEvent>) -> TableEvent {
    tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .expect("timeout waiting for an event")
        .expect("event")
}

fn quick() -> TableOptions {
    TableOptions {
        retry_first: Duration::from_millis(1),
        retry_max: Duration::from_millis(4),
        ..TableOptions::default()
    }
}

async fn over(disk: &FakeDisk, options: TableOptions) -> (Table, UnboundedReceiver<TableEvent>) {
    let (on_event, events) = events();
    (
        Table::open_with(disk.opener(), PathBuf::from("/fake"), options, on_event)
            .await
            .expect("opens"),
        events,
    )
}

#[tokio::test]
async fn acknowledged_changes_are_in_the_store() {
    let disk = FakeDisk::default();
    let (table, _) = over(&disk, quick()).await;
    table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
    assert_eq!(disk.records(), vec![reserved("embed", 0, 1)]);
    table
        .activate(key("embed", 0, 1), activation(4242))
        .await
        .expect("activated");
    assert_eq!(disk.records(), vec![active("embed", 0, 1)]);
    assert_eq!(table.records(), disk.records());
    assert!(table.remove(key("embed", 0, 1)).await.expect("removed"));
    assert!(!table.remove(key("embed", 0, 1)).await.expect("nothing to remove"));
    assert!(table.is_empty());
    table.close().await.expect("closed");
    assert_eq!(disk.records(), vec![]);
}

#[tokio::test]
async fn removal_is_written_with_the_next_reservation() {
    let disk = FakeDisk::default();
    let (table, _) = over(&disk, quick()).await;
    for incarnation in 1..=50 {
        table
            .reserve(reserved("embed", 0, incarnation))
            .await
            .expect("reserved");
        assert_eq!(
            disk.records(),
            vec![reserved("embed", 0, incarnation)],
            "no write before it"
        );
        table.remove(key("embed", 0, incarnation)).await.expect("removed");
    }
    // One write each, except for a removal that reached its maximum wait.
    assert!(
        disk.writes.load(Ordering::SeqCst) < 75,
        "{} writes",
        disk.writes.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn removal_without_a_following_change_is_written() {
    let disk = FakeDisk::default();
    let (table, _) = over(&disk, quick()).await;
    table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
    table.remove(key("embed", 0, 1)).await.expect("removed");
    let written = async {
        while !disk.records().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written)
        .await
        .expect("timeout");
}

#[tokio::test]
async fn refusal_has_a_reason_and_writes_nothing() {
    let disk = FakeDisk::default();
    let (table, _) = over(&disk, quick()).await;
    table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
    let writes = disk.writes.load(Ordering::SeqCst);
    let refused = table.reserve(reserved("embed", 0, 2)).await;
    assert!(
        matches!(refused, Err(TableError::Refused(Refusal::StillHeld { .. }))),
        "{refused:?}"
    );
    assert_eq!(disk.writes.load(Ordering::SeqCst), writes);
}

#[tokio::test]
async fn waiting_calls_are_written_together() {
    let disk = FakeDisk::default();
    let (table, _) = over(&disk, quick()).await;
    let hung = disk.hung.lock().await;
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..100 {
        let table = table.clone();
        calls.spawn(async move { table.reserve(reserved("embed", index, 1)).await });
    }
    // All calls are queued once 100 places are taken; the first batch hangs in the store meanwhile.
    while table.handle.places.available_permits() > 1024 - 100 {
        tokio::task::yield_now().await;
    }
    drop(hung);
    while let Some(result) = calls.join_next().await {
        result.expect("ran").expect("reserved");
    }
    assert_eq!(disk.records().len(), 100);
    assert!(
        disk.writes.load(Ordering::SeqCst) <= 4,
        "{} writes",
        disk.writes.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn full_disk_prevents_no_restart_and_loses_nothing() {
    let disk = FakeDisk::default();
    let (table, mut events) = over(&disk, quick()).await;
    table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
    table.reserve(reserved("embed", 1, 1)).await.expect("reserved");

    disk.full.store(true, Ordering::SeqCst);
    table.remove(key("embed", 0, 1)).await.expect("removing on a full disk");
    assert!(matches!(
        next(&mut events).await,
        TableEvent::Degraded {
            error: StoreError::Full { .. }
        }
    ));
    table
        .reserve(reserved("embed", 0, 2))
        .await
        .expect("reserving on a full disk");
    assert!(matches!(
        table.status(),
        TableStatus::Degraded {
            error: StoreError::Full { .. },
            ..
        }
    ));
    assert_eq!(table.records(), vec![reserved("embed", 0, 2), reserved("embed", 1, 1)]);

    // A few attempts fail before there is space again; only one event is sent.
    let attempts = disk.opened.load(Ordering::SeqCst) + 3;
    while disk.opened.load(Ordering::SeqCst) < attempts {
        tokio::task::yield_now().await;
    }
    disk.full.store(false, Ordering::SeqCst);
    assert!(matches!(
        next(&mut events).await,
        TableEvent::Recovered { records: 2, .. }
    ));
    assert_eq!(disk.records(), table.records());
    assert!(matches!(table.status(), TableStatus::Healthy));
}

#[tokio::test]
async fn closing_table_tries_once_more_to_save_its_records() {
    let disk = FakeDisk::default();
    let (table, mut events) = over(
        &disk,
        TableOptions {
            retry_first: Duration::MAX,
            retry_max: Duration::MAX,
            ..quick()
        },
    )
    .await;
    disk.full.store(true, Ordering::SeqCst);
    table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
    assert!(matches!(next(&mut events).await, TableEvent::Degraded { .. }));
    disk.full.store(false, Ordering::SeqCst);
    table.close().await.expect("closed");
    assert_eq!(disk.records(), vec![reserved("embed", 0, 1)]);
}

#[tokio::test]
async fn calls_time_out_on_a_hanging_disk() {
    let disk = FakeDisk::default();
    let options = TableOptions {
        call_timeout: Duration::from_millis(30),
        ..quick()
    };
    let (table, _) = over(&disk, options).await;
    let hung = disk.hung.lock().await;
    let slow = table.reserve(reserved("embed", 0, 1)).await;
    assert!(matches!(slow, Err(TableError::Slow { .. })), "{slow:?}");
    // The first call is in the ledger. This one waits in the queue, with its removal behind it.
    let slow = table.reserve(reserved("embed", 1, 1)).await;
    assert!(matches!(slow, Err(TableError::Slow { .. })), "{slow:?}");
    let slow = table.remove(key("embed", 1, 1)).await;
    assert!(matches!(slow, Err(TableError::Slow { .. })), "{slow:?}");
    assert!(table.remove(key("embed", 0, 1)).await.expect("removing immediately"));
    drop(hung);
    // All were carried out in order.
    while !disk.records().is_empty() || table.next_incarnation(&key("embed", 1, 1).worker) == Incarnation::FIRST {
        tokio::task::yield_now().await;
    }
    assert!(table.is_empty());
    table.reserve(reserved("embed", 1, 2)).await.expect("reserved");
    assert_eq!(disk.records(), vec![reserved("embed", 1, 2)]);
}

#[tokio::test]
async fn calls_after_close_are_refused() {
    let disk = FakeDisk::default();
    let (table, _) = over(&disk, quick()).await;
    table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
    table.clone().close().await.expect("closed");
    assert!(matches!(
        table.remove(key("embed", 0, 1)).await,
        Err(TableError::Closed)
    ));
    assert!(matches!(
        table.reserve(reserved("embed", 0, 2)).await,
        Err(TableError::Closed)
    ));
    assert!(matches!(table.close().await, Err(TableError::Closed)));
}

#[tokio::test]
async fn panicked_keeper_confirms_no_removal() {
    let disk = FakeDisk::default();
    let (table, mut events) = over(&disk, quick()).await;
    for index in 0..2 {
        table.reserve(reserved("embed", index, 1)).await.expect("reserved");
    }
    disk.broken.store(true, Ordering::SeqCst);
    let lost = table.reserve(reserved("embed", 2, 1)).await;
    assert!(matches!(lost, Err(TableError::Closed)), "{lost:?}");
    // The keeper owns the events' sender, so the events end with it.
    let ended = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    for index in 0..2 {
        let removed = table.remove(key("embed", index, 1)).await;
        assert!(matches!(removed, Err(TableError::Closed)), "{removed:?}");
    }
    assert_eq!(disk.records().len(), 2);
}

#[tokio::test]
async fn last_handle_closes_the_store() {
    let disk = FakeDisk::default();
    let (table, mut events) = over(&disk, quick()).await;
    drop(table);
    // The keeper owns the events' sender, so the events end with it.
    let ended = tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .expect("timeout");
    assert!(ended.is_none(), "{ended:?}");
}

fn run_in(app_dir: &std::path::Path, engine: Engine) -> RunDir {
    let info = crate::run::RunInfo::new(&owner(), process(1), engine, UnixNanos(1));
    RunDir::create(app_dir, info).expect("made")
}

fn engines() -> impl Iterator<Item = Engine> {
    Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in())
}

#[tokio::test]
async fn unreadable_store_is_set_aside_and_replaced() {
    for engine in engines() {
        for (damage, reason) in [(0_usize, "corrupt"), (1, "too-new")] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let run = run_in(dir.path(), engine);
            let value = match damage {
                0 => vec![1, 0, 7, 7, 7, 7, 7],
                _ => std::fs::read(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/fixtures/record-too-new.bin"
                ))
                .expect("fixture"),
            };
            let mut store = engine.open(&run.path().join(engine.file_name())).expect("opens");
            store
                .apply(&[Change::Put {
                    key: b"k".to_vec(),
                    value,
                }])
                .expect("written");
            drop(store);

            let (on_event, mut events) = events();
            let options = TableOptions { engine, ..quick() };
            let table = Table::open(&run, options, on_event)
                .await
                .expect("opening with a damaged store");
            let TableEvent::SetAside(SetAside { path, why }) = next(&mut events).await else {
                panic!("expected a SetAside event")
            };
            assert!(
                path.exists() && path.starts_with(run.set_aside_dir()),
                "{}",
                path.display()
            );
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(name.contains(&format!("{}-{reason}-20", engine.file_name())), "{name}");
            assert!(why.to_string().contains(engine.file_name()), "{why}");
            table.reserve(reserved("embed", 0, 1)).await.expect("reserved");
            table.close().await.expect("closed");
            run.remove().expect("removed");
            assert!(path.exists(), "the copy must outlive the run");
        }
    }
}

#[tokio::test]
async fn reopened_table_has_its_records() {
    for engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let run = run_in(dir.path(), engine);
        let open = || Table::open(&run, TableOptions { engine, ..quick() }, events().0);
        let table = open().await.expect("opens");
        table.reserve(reserved("embed", 0, 7)).await.expect("reserved");
        table.close().await.expect("closed");
        let table = open().await.expect("reopening the table");
        assert_eq!(table.records(), vec![reserved("embed", 0, 7)], "{engine}");
        assert!(table.reserve(reserved("embed", 0, 7)).await.is_err());
    }
}

/// The host was suspended with its table's thread, which answers soon after it runs again.
#[tokio::test]
async fn a_host_that_could_not_run_waits_for_its_table_once_more() {
    let disk = FakeDisk::default();
    let options = TableOptions {
        call_timeout: Duration::from_secs(2),
        ..quick()
    };
    let limit = options.call_timeout;
    let (table, _) = over(&disk, options).await;
    let hung = disk.hung.lock().await;
    let asked = tokio::spawn({
        let table = table.clone();
        async move { table.reserve(reserved("embed", 0, 1)).await }
    });
    tokio::task::yield_now().await;
    // The runtime stands still: this is what is tested.
    std::thread::sleep(limit * 2);
    tokio::time::sleep(LATE).await;
    assert!(!asked.is_finished());
    drop(hung);
    asked.await.expect("no panic").expect("reserved");
}
