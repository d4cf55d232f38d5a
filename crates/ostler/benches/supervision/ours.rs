//! The same work by Ostler, through its public API with default settings; exceptions are explained.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use ostler::{EventItem, EventKind, EventStream, Ostler, OstlerBuilder, Pool, Ready, Restart};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::memory;
use crate::worker::{Nanos, Stamp, Worker, now};

/// The limit after which a step fails, so that the benchmark cannot hang.
const LIMIT: Duration = Duration::from_secs(60);

/// A running instance.
pub(crate) struct Ours<'a> {
    worker: &'a Worker,
    runtime: Runtime,
    ostler: Ostler,
    _state: TempDir,
}

/// The times of a pool.
pub(crate) struct PoolTimes {
    /// From the call to the last worker's timestamp.
    pub(crate) start: Nanos,
    /// From killing one worker to the start of its replacement, while the others idle.
    pub(crate) restarts: Vec<Nanos>,
    pub(crate) stop: Stop,
}

/// The times of a pool's stop, from the call on.
pub(crate) struct Stop {
    /// To the exit of the last worker, as seen from outside: the same as the floor measures.
    pub(crate) workers_gone: Nanos,
    /// To the call's return: all trees are gone, all ports are free, all records are removed.
    pub(crate) released: Nanos,
    /// To the exit of the last sitter.
    pub(crate) sitters_gone: Nanos,
}

impl<'a> Ours<'a> {
    pub(crate) fn start(worker: &'a Worker) -> Self {
        Self::start_with(worker, |builder| builder)
    }

    /// Starts an instance; `change` may change the builder.
    pub(crate) fn start_with(worker: &'a Worker, change: impl FnOnce(OstlerBuilder) -> OstlerBuilder) -> Self {
        let runtime = Runtime::new().expect("tokio runtime");
        let state = TempDir::new().expect("state directory");
        let starting = change(Ostler::builder("bench").state_dir(state.path())).start();
        let ostler = runtime.block_on(starting).expect("starting the instance");
        Self {
            worker,
            runtime,
            ostler,
            _state: state,
        }
    }

    /// Starts a pool of this many workers.
    pub(crate) fn pool(&self, workers: u32) -> Pool {
        self.pool_of(workers, self.worker.command().to_vec())
    }

    /// The same with another program.
    pub(crate) fn pool_of(&self, workers: u32, command: Vec<String>) -> Pool {
        let starting = self
            .ostler
            .pool("bench")
            .command(command)
            .workers(workers)
            .restart(Restart::Permanent)
            // With its spawn: what is measured is Ostler's own time.
            .ready(Ready::After(Duration::ZERO))
            // Far more restarts than a service should have.
            .intensity(1_000_000, Duration::from_secs(1))
            .start();
        self.runtime.block_on(starting).expect("starting the pool")
    }

    /// Starts a pool of this many workers, kills one of them this often, and stops the pool.
    pub(crate) fn measure(&self, workers: u32, restarts: u32) -> PoolTimes {
        let begun = now();
        let pool = self.pool(workers);
        let mut pid = self.worker.next_stamp();
        let start = self.worker.last_of(workers - 1).max(pid.at) - begun;
        self.runtime.block_on(pool.wait_ready()).expect("the pool is ready");
        let mut events = self.ostler.subscribe();
        PoolTimes {
            start,
            restarts: (0..restarts).map(|_| self.restart(&mut pid, &mut events)).collect(),
            stop: self.stop(&pool),
        }
    }

    /// The time from killing a worker to the start of its replacement. Asserts that the events show
    /// a confirmed release and a new record in between.
    fn restart(&self, worker: &mut Stamp, events: &mut EventStream) -> Nanos {
        let begun = now();
        kill(worker.pid, Signal::SIGKILL).expect("killing the worker");
        *worker = self.worker.next_stamp();
        let kinds = self.ready(events);
        let steps = kinds.iter().filter(|kind| is_step_of_restart(**kind));
        let expected = [
            EventKind::WorkerReleased,
            EventKind::WorkerReserved,
            EventKind::WorkerSpawned,
        ];
        assert!(expected.iter().eq(steps), "unexpected events of a restart: {kinds:?}");
        worker.at - begun
    }

    /// The kinds of all events up to the next `worker.ready`.
    fn ready(&self, events: &mut EventStream) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        while kinds.last() != Some(&EventKind::WorkerReady) {
            let event = async { tokio::time::timeout(LIMIT, events.recv()).await };
            let event = self.runtime.block_on(event).expect("no event in time");
            let event = event.and_then(EventItem::event);
            kinds.push(event.expect("instance is running").kind);
        }
        kinds
    }

    /// Stops the pool, and waits until its sitters have exited, because they would disturb the next
    /// measurement.
    fn stop(&self, pool: &Pool) -> Stop {
        let begun = now();
        let (workers_gone, released) = std::thread::scope(|scope| {
            let last_end = scope.spawn(|| self.worker.last_end());
            self.runtime.block_on(pool.stop());
            let released = now() - begun;
            (last_end.join().expect("waiting for the last worker") - begun, released)
        });
        assert_eq!(self.ostler.table_len(), 0, "records left in the table");
        let deadline = Instant::now() + LIMIT;
        while !memory::children(self.guardian(), self.guardian()).is_empty() {
            assert!(Instant::now() < deadline, "sitters still running");
            std::thread::sleep(Duration::from_millis(1));
        }
        Stop {
            workers_gone,
            released,
            sitters_gone: now() - begun,
        }
    }

    /// The bytes per this many workers in host, guardian and sitters. Only the first pool of a
    /// process gives a correct figure, because later ones reuse its freed memory.
    pub(crate) fn memory(&self, workers: u32) -> memory::Cost {
        let before = memory::Footprint::of(self.guardian());
        let pool = self.pool(workers);
        self.worker.last_of(workers);
        self.runtime.block_on(pool.wait_ready()).expect("the pool is ready");
        let with_workers = memory::Footprint::of(self.guardian());
        self.stop(&pool);
        with_workers.since(&before)
    }

    /// The instance, and the runtime it runs on.
    pub(crate) fn instance(&self) -> (&Ostler, &Runtime) {
        (&self.ostler, &self.runtime)
    }

    fn guardian(&self) -> u32 {
        self.ostler.guardian_pid().expect("guardian is running")
    }

    /// Stops the instance and asserts that nothing is left.
    pub(crate) fn end(self) {
        let report = self.runtime.block_on(self.ostler.stop());
        report.expect("clean stop without workers that gave up");
    }
}

fn is_step_of_restart(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::WorkerReleased | EventKind::WorkerReserved | EventKind::WorkerSpawned
    )
}
