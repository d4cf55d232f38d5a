//! A file on a disk that stalls, for the tests of this crate and of the product.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

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
pub(crate) struct Stalled(Child);

impl Stalled {
    /// `None` where leases are not allowed.
    pub(crate) fn new(file: &Path) -> Option<Self> {
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
