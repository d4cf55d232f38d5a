//! The floor: what the kernel takes for the same work, with `posix_spawn` and `waitpid` alone.
//!
//! Measured in a small process with a single thread. Spawning from the benchmark's own process,
//! with Ostler's threads and memory, would make the floor look higher than it is.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::children;
use crate::worker::{Nanos, Worker, now};

/// The process that measures the floor.
pub(crate) const ROLE: &str = "--floor";

/// The times of a number of processes.
#[derive(Debug)]
pub(crate) struct Times {
    /// From the first spawn to the last worker's timestamp.
    pub(crate) start: Nanos,
    /// From the first signal to the last process that was waited for.
    pub(crate) stop: Nanos,
    /// From killing one of them to the start of its replacement.
    pub(crate) restarts: Vec<Nanos>,
}

/// Starts this many workers, kills and replaces one of them this often, and ends all of them by
/// `signal`.
pub(crate) fn measure(role: &str, worker: &Worker, workers: u32, restarts: u32, signal: Signal) -> Times {
    let [program, fifo] = [&worker.program, &worker.fifo].map(|path| path.to_str().expect("UTF-8 path"));
    let (workers, restarts) = (workers.to_string(), restarts.to_string());
    let times = children::numbers(role, &[&workers, &restarts, signal.as_str(), program, fifo]);
    match times[..] {
        [start, stop, ref restarts @ ..] => Times {
            start,
            stop,
            restarts: restarts.to_vec(),
        },
        ref other => panic!("expected two times, got {other:?}"),
    }
}

/// What both floors are asked to do.
pub(crate) struct Task {
    pub(crate) workers: u32,
    pub(crate) restarts: u32,
    pub(crate) signal: Signal,
    pub(crate) worker: Worker,
}

impl Task {
    pub(crate) fn parse(arguments: &[String]) -> Self {
        let [workers, restarts, signal, program, fifo] = arguments else {
            panic!("WORKERS RESTARTS SIGNAL PROGRAM FIFO");
        };
        ostler::limits::raise_descriptors().expect("raising the soft limit on descriptors");
        Self {
            workers: workers.parse().expect("a count"),
            restarts: restarts.parse().expect("a count"),
            signal: signal.parse().expect("a signal"),
            worker: Worker::open(program.into(), fifo.into()),
        }
    }
}

/// The measuring process: prints the times in nanoseconds.
pub(crate) fn role(arguments: &[String]) {
    let task = Task::parse(arguments);
    let floor = Floor::new(&task.worker);
    let begun = now();
    let mut pids: Vec<Pid> = (0..task.workers).map(|_| floor.spawn()).collect();
    let start = task.worker.last_of(task.workers) - begun;
    let restarts: Vec<Nanos> = (0..task.restarts).map(|_| floor.restart(&mut pids[0])).collect();
    children::print([start, end(&pids, task.signal)].into_iter().chain(restarts));
}

/// Starts the worker in the simplest way.
struct Floor<'a> {
    worker: &'a Worker,
    actions: PosixSpawnFileActions,
    attributes: PosixSpawnAttr,
    argv: [CString; 3],
    environment: Vec<CString>,
}

impl<'a> Floor<'a> {
    fn new(worker: &'a Worker) -> Self {
        let text = |bytes: &[u8]| CString::new(bytes).expect("no NUL byte");
        let variable = |(name, value): (OsString, OsString)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat());
        Self {
            worker,
            actions: PosixSpawnFileActions::init().expect("file actions"),
            attributes: PosixSpawnAttr::init().expect("attributes"),
            argv: [&worker.program, &worker.fifo, &worker.alive].map(|path| text(path.as_os_str().as_bytes())),
            environment: std::env::vars_os().map(variable).collect(),
        }
    }

    fn spawn(&self) -> Pid {
        let (program, argv) = (&self.worker.program, &self.argv);
        posix_spawn(program, &self.actions, &self.attributes, argv, &self.environment).expect("spawning the worker")
    }

    fn restart(&self, pid: &mut Pid) -> Nanos {
        let begun = now();
        end(&[*pid], Signal::SIGKILL);
        *pid = self.spawn();
        self.worker.next_stamp().at - begun
    }
}

fn end(pids: &[Pid], signal: Signal) -> Nanos {
    let begun = now();
    for pid in pids {
        kill(*pid, signal).expect("child of this process");
    }
    for pid in pids {
        waitpid(*pid, None).expect("child of this process");
    }
    now() - begun
}
