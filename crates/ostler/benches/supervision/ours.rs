//! The same by Ostler, as its users call it: everything at its default, except where it says why.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use ostler::{EventKind, EventStream, Ostler, OstlerBuilder, Pool, Restart};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::memory;
use crate::worker::{Nanos, Worker, now};

/// How long anything may take before the benchmark fails rather than hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A running instance.
pub(crate) struct Ours<'a> {
    worker: &'a Worker,
    runtime: Runtime,
    ostler: Ostler,
    _state: TempDir,
}

/// How long the start and the stop of a pool took.
pub(crate) struct StartAndStop {
    /// From the call to the last worker's stamp.
    pub(crate) started: Nanos,
    pub(crate) stop: Stop,
}

/// How long the stop of a pool took, from the call on.
pub(crate) struct Stop {
    /// To the end of the last worker, as a bystander sees it: what the floor measures.
    pub(crate) workers_gone: Nanos,
    /// To the call's return: every worker's tree is gone, its ports are free, its record is removed.
    pub(crate) released: Nanos,
    /// To the end of the last sitter.
    pub(crate) sitters_gone: Nanos,
}

impl<'a> Ours<'a> {
    pub(crate) fn start(worker: &'a Worker) -> Self {
        Self::start_with(worker, |builder| builder)
    }

    /// The same, with a last word on the builder.
    pub(crate) fn start_with(worker: &'a Worker, change: impl FnOnce(OstlerBuilder) -> OstlerBuilder) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let state = TempDir::new().expect("a state directory");
        let starting = change(Ostler::builder("bench").state_dir(state.path())).start();
        let ostler = runtime.block_on(starting).expect("an instance");
        Self {
            worker,
            runtime,
            ostler,
            _state: state,
        }
    }

    fn pool(&self, workers: u32) -> Pool {
        let paths = [&self.worker.program, &self.worker.fifo, &self.worker.alive];
        let command = paths.map(|path| path.to_str().expect("a path in UTF-8").to_owned());
        let starting = self
            .ostler
            .pool("bench")
            .command(command)
            .workers(workers)
            .restart(Restart::Permanent)
            // Far more restarts than a service may have.
            .intensity(1_000_000, Duration::from_secs(1))
            .start();
        self.runtime.block_on(starting).expect("the pool starts")
    }

    /// From the kill of a worker to the start of its replacement, so many times in a row; the events must tell of a
    /// confirmed release and of a new record in between.
    pub(crate) fn restarts(&self, count: u32) -> Vec<Nanos> {
        let mut events = self.ostler.subscribe();
        let pool = self.pool(1);
        let mut pid = self.worker.next_stamp().pid;
        self.ready(&mut events);
        let cycle = |_| {
            let begun = now();
            kill(pid, Signal::SIGKILL).expect("our worker");
            let replacement = self.worker.next_stamp();
            pid = replacement.pid;
            let told = self.ready(&mut events);
            let mut steps = told.iter().filter(|kind| is_step_of_restart(**kind));
            let expected = [
                EventKind::WorkerReleased,
                EventKind::WorkerReserved,
                EventKind::WorkerSpawned,
            ];
            assert!(expected.iter().eq(steps.by_ref()), "a restart went otherwise: {told:?}");
            replacement.at - begun
        };
        let times = (0..count).map(cycle).collect();
        self.stop(&pool);
        times
    }

    /// The kinds of all events up to the next `worker.ready`.
    fn ready(&self, events: &mut EventStream) -> Vec<EventKind> {
        let mut told = Vec::new();
        while told.last() != Some(&EventKind::WorkerReady) {
            let event = async { tokio::time::timeout(LIMIT, events.recv()).await };
            let event = self.runtime.block_on(event).expect("an event in time");
            told.push(event.expect("the instance runs").kind);
        }
        told
    }

    /// Starts a pool of so many workers, and stops it.
    pub(crate) fn start_and_stop(&self, workers: u32) -> StartAndStop {
        let begun = now();
        let pool = self.pool(workers);
        let started = self.worker.last_of(workers) - begun;
        self.runtime.block_on(pool.wait_ready());
        StartAndStop {
            started,
            stop: self.stop(&pool),
        }
    }

    /// Stops the pool, and waits until its sitters have ended too: they would disturb what is measured next.
    fn stop(&self, pool: &Pool) -> Stop {
        let begun = now();
        let (workers_gone, released) = std::thread::scope(|scope| {
            let last_end = scope.spawn(|| self.worker.last_end());
            self.runtime.block_on(pool.stop());
            let released = now() - begun;
            (last_end.join().expect("the last worker ends") - begun, released)
        });
        assert_eq!(self.ostler.table_len(), 0, "every record is gone");
        let deadline = Instant::now() + LIMIT;
        while !memory::children(self.guardian()).is_empty() {
            assert!(Instant::now() < deadline, "the sitters end");
            std::thread::sleep(Duration::from_millis(1));
        }
        Stop {
            workers_gone,
            released,
            sitters_gone: now() - begun,
        }
    }

    /// Bytes that so many workers cost host, guardian and sitters. Only the first pool of a process tells: what it has
    /// freed is used again by the next one.
    pub(crate) fn memory(&self, workers: u32) -> memory::Cost {
        let before = memory::Footprint::of(self.guardian());
        let pool = self.pool(workers);
        self.worker.last_of(workers);
        self.runtime.block_on(pool.wait_ready());
        let with_workers = memory::Footprint::of(self.guardian());
        self.stop(&pool);
        with_workers.since(&before)
    }

    fn guardian(&self) -> u32 {
        self.ostler.guardian_pid().expect("a guardian")
    }

    /// Ends the instance; nothing may be left.
    pub(crate) fn end(self) {
        let report = self.runtime.block_on(self.ostler.stop());
        report.expect("nothing is left, and nobody gave up");
    }
}

fn is_step_of_restart(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::WorkerReleased | EventKind::WorkerReserved | EventKind::WorkerSpawned
    )
}
