//! The worker that both Ostler and the floor start: a tiny static program, and the FIFO that it
//! writes its timestamps to.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// A point in time on CLOCK_MONOTONIC, in nanoseconds, comparable between processes.
pub(crate) type Nanos = u64;

/// The current time, on the same clock as the worker's timestamps.
pub(crate) fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC is always available");
    u64::try_from(time.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap()
}

/// The size of the FIFO for timestamps: 1 MiB.
const STAMPS_ROOM: i32 = 1 << 20;

/// One start of the worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) pid: Pid,
    /// When `main` was reached.
    pub(crate) at: Nanos,
}

/// The program, and the reading end of its timestamps.
pub(crate) struct Worker {
    pub(crate) program: PathBuf,
    pub(crate) fifo: PathBuf,
    /// The FIFO that every live worker holds open.
    pub(crate) alive: PathBuf,
    stamps: File,
    /// Reaches end of file once the last worker has exited.
    lives: File,
    /// Owned by the process that built the worker.
    _directory: Option<TempDir>,
}

impl Worker {
    pub(crate) fn build() -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let fifo = directory.path().join("stamps");
        let program = compile("worker", directory.path());
        for path in [&fifo, &alive_beside(&fifo)] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("creating a FIFO");
        }
        let _directory = Some(directory);
        Self {
            _directory,
            ..Self::open(program, fifo)
        }
    }

    /// Opens a worker built by another process.
    pub(crate) fn open(program: PathBuf, fifo: PathBuf) -> Self {
        // Open for reading and writing, so that opening does not block and reading does not end
        // without a writer.
        let stamps = File::options()
            .read(true)
            .write(true)
            .open(&fifo)
            .expect("opening the FIFO");
        // Room for 65,536 timestamps, so that no worker waits for them to be read. Refused above
        // fs.pipe-max-size, and then the usual 4,096 have to do.
        let _ = fcntl(&stamps, FcntlArg::F_SETPIPE_SZ(STAMPS_ROOM));
        let alive = alive_beside(&fifo);
        // Open for reading only, so that it reaches end of file when the last writer is gone.
        let lives = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&alive)
            .expect("opening the FIFO");
        Self {
            program,
            fifo,
            alive,
            stamps,
            lives,
            _directory: None,
        }
    }

    /// Waits for the next start.
    pub(crate) fn next_stamp(&self) -> Stamp {
        let (pid, at) = self.next_report();
        Stamp {
            pid: Pid::from_raw(i32::try_from(pid).expect("a pid")),
            at,
        }
    }

    /// Waits for the next two numbers that a process writes to the FIFO.
    pub(crate) fn next_report(&self) -> (u64, Nanos) {
        let mut bytes = [0; 16];
        (&self.stamps).read_exact(&mut bytes).expect("reading a timestamp");
        let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        (number(0), number(8))
    }

    /// The arguments of the worker's command.
    pub(crate) fn command(&self) -> [String; 3] {
        [&self.program, &self.fifo, &self.alive].map(|path| path.to_str().expect("UTF-8 path").to_owned())
    }

    /// Waits for the last worker to exit. Returns when that was.
    pub(crate) fn last_end(&self) -> Nanos {
        let mut entry = [PollFd::new(self.lives.as_fd(), PollFlags::empty())];
        while poll(&mut entry, PollTimeout::NONE) != Ok(1) {}
        now()
    }

    /// Waits for this many starts. Returns when the last one was.
    pub(crate) fn last_of(&self, count: u32) -> Nanos {
        (0..count).map(|_| self.next_stamp().at).max().unwrap_or_default()
    }
}

/// Compiles `NAME.c` into `directory`, with `cc`, which linking Rust programs needs anyway, or the
/// compiler in `$CC`.
pub(crate) fn compile(name: &str, directory: &Path) -> PathBuf {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let program = directory.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/supervision/{name}.c"));
    let status = Command::new(&compiler)
        .args(["-O2", "-static", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .unwrap_or_else(|error| panic!("{compiler} cannot be run: {error}; set CC to a C compiler"));
    assert!(status.success(), "{compiler} failed to compile {}", source.display());
    program
}

fn alive_beside(fifo: &Path) -> PathBuf {
    fifo.with_extension("alive")
}
