//! The program of a fake worker, for tests of an app's own supervision (feature `testing`). What it
//! does is documented where tests meet it: `ostler::testing::FakeWorker`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Built by this crate's build script for the target of this crate.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fake-worker"));

/// A program file that was just written is busy (ETXTBSY) until a process that another thread
/// forked meanwhile has called exec. Running it is retried this often, after this pause.
const BUSY_TRIES: u32 = 500;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Writes the program to this path, and runs it once: from then on it can be executed, whatever
/// other threads start meanwhile.
///
/// # Errors
/// When the file exists or can't be written, and when it can't be executed, as on a file system
/// that is mounted noexec.
pub fn install(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(path)?;
    file.write_all(PROGRAM)?;
    drop(file);
    for _ in 1..BUSY_TRIES {
        match check(path) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    check(path)
}

fn check(path: &Path) -> io::Result<()> {
    let status = Command::new(path).arg("check").stdin(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("the fake worker ended with {status}")))
}
