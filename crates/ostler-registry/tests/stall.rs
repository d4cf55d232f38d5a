//! Real engines on a disk that stalls while the table is opened.

mod common;
#[path = "common/stalled.rs"]
mod stalled;

use std::sync::Arc;
use std::time::Duration;

use common::{engines, make_run, open, reservation, runtime};
use ostler_registry::{Engine, Table, TableEvent, TableOptions};
use stalled::Stalled;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

/// Much longer than anything here takes; the kernel itself ends a stall after 45 s.
const LIMIT: Duration = Duration::from_secs(20);

/// A file of the store that its engine opens first.
fn first_file(engine: Engine) -> &'static str {
    match engine {
        Engine::RocksDb => "table.rocksdb/LOCK",
        Engine::Redb => "table.redb",
    }
}

#[test]
fn table_waits_for_a_store_that_stalls_while_it_is_opened() {
    for engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let run = make_run(dir.path(), engine);
        let (sender, mut events) = unbounded_channel();
        let options = TableOptions {
            engine,
            call_timeout: Duration::from_millis(50),
            ..TableOptions::default()
        };
        runtime().block_on(async {
            let table = open(&run, engine, Arc::new(drop)).await;
            table.close().await.expect("closed");
            let file = run.path().join(first_file(engine));
            let Some(stalled) = Stalled::new(&file) else { return };
            let opening = Table::open(&run, options, Arc::new(move |event| _ = sender.send(event)));
            let reports = async {
                for _ in 0..3 {
                    let event = timeout(LIMIT, events.recv()).await.expect("timeout");
                    let Some(TableEvent::OpensSlowly { path, waited }) = event else {
                        panic!("{engine}: {event:?}")
                    };
                    assert!(file.starts_with(&path), "{}", path.display());
                    assert!(waited >= Duration::from_millis(50), "{waited:?}");
                }
                drop(stalled);
            };
            let (table, ()) = tokio::join!(timeout(LIMIT, opening), reports);
            let table = table.expect("timeout").expect("the stall only delays");
            table.reserve(reservation(0, 1)).await.expect("reserved");
            table.close().await.expect("closed");
        });
    }
}
