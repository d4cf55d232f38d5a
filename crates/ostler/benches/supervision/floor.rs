//! The floor: what the kernel takes for the same work, with `posix_spawn` and `waitpid` alone.
//!
//! Measured in a small process with a single thread. Spawning from the benchmark's own process,
//! with Ostler's threads and memory, would make the floor look higher than it is.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::worker::{Nanos, Worker, now};

/// The first argument of a process that measures the floor. It is followed by what to measure, how
/// often, and the worker.
pub(crate) const ARGUMENT: &str = "floor";

/// The times from killing a worker to the start of its replacement.
pub(crate) fn restarts(worker: &Worker, count: u32) -> Vec<Nanos> {
    measure(worker, "restarts", count)
}

/// The times to start this many workers, and to end them.
pub(crate) fn start_and_stop(worker: &Worker, count: u32) -> (Nanos, Nanos) {
    match measure(worker, "pool", count)[..] {
        [started, stopped] => (started, stopped),
        ref other => panic!("expected two times, got {other:?}"),
    }
}

fn measure(worker: &Worker, what: &str, count: u32) -> Vec<Nanos> {
    let output = Command::new(std::env::current_exe().expect("path of this program"))
        .args([ARGUMENT, what, &count.to_string()])
        .args([&worker.program, &worker.fifo])
        .output()
        .expect("running this program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("numbers");
    text.lines().map(|line| line.parse().expect("nanoseconds")).collect()
}

/// The measuring process: prints the times in nanoseconds.
pub(crate) fn run(arguments: &[String]) {
    let [what, count, program, fifo] = arguments else {
        panic!("floor restarts|pool COUNT PROGRAM FIFO");
    };
    let worker = Worker::open(program.into(), fifo.into());
    let (floor, count) = (Floor::new(&worker), count.parse().expect("a count"));
    let times = match what.as_str() {
        "restarts" => floor.restarts(count),
        _ => floor.start_and_stop(count).into(),
    };
    for time in times {
        println!("{time}");
    }
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

    fn restarts(&self, count: u32) -> Vec<Nanos> {
        let mut pid = self.spawn();
        self.worker.next_stamp();
        let cycle = |_| {
            let begun = now();
            kill(pid, Signal::SIGKILL).expect("child of this process");
            waitpid(pid, None).expect("child of this process");
            pid = self.spawn();
            self.worker.next_stamp().at - begun
        };
        let times = (0..count).map(cycle).collect();
        end(&[pid]);
        times
    }

    fn start_and_stop(&self, count: u32) -> [Nanos; 2] {
        let begun = now();
        let pids: Vec<Pid> = (0..count).map(|_| self.spawn()).collect();
        let started = self.worker.last_of(count) - begun;
        [started, end(&pids)]
    }
}

fn end(pids: &[Pid]) -> Nanos {
    let begun = now();
    for pid in pids {
        kill(*pid, Signal::SIGTERM).expect("child of this process");
    }
    for pid in pids {
        waitpid(*pid, None).expect("child of this process");
    }
    now() - begun
}
