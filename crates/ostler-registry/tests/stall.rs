//! Real engines on a disk that stalls while the table is opened.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{engines, make_run, open, reservation, runtime};
use ostler_registry::{Engine, Table, TableEvent, TableOptions};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

/// Much longer than anything here takes; the kernel itself ends a stall after 45 s.
const LIMIT: Duration = Duration::from_secs(20);

/// Holds a write lease on a file, so that another process waits in open(2) until it ends
/// (fcntl(2), F_SETLEASE). It gets SIGIO for each that waits.
const HOLDER: &str = "
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], 'r+b')
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

/// A file whose opening stalls until this value is dropped.
struct Stalled(Child);

impl Stalled {
    /// `None` where leases are not allowed.
    fn new(file: &Path) -> Option<Self> {
        let mut holder = Command::new("python3");
        holder.args(["-c", HOLDER]).arg(file);
        holder
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut stalled = Self(holder.spawn().expect("python3"));
        let mut line = String::new();
        let stdout = stalled.0.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        if line == "held\n" {
            return Some(stalled);
        }
        let mut why = String::new();
        let mut stderr = stalled.0.stderr.take().expect("piped");
        stderr.read_to_string(&mut why).expect("read");
        eprintln!("skipped: {} can't be leased: {why}", file.display());
        None
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("waiting for the holder");
    }
}

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
