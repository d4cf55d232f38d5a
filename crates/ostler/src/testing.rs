//! Tests of an app's own supervision (feature `testing`), with real processes.
//!
//! A [`TestBed`] gives each test an instance in a temporary directory with a name of its own,
//! records everything that happens in it, waits for events with a deadline, and fails the test,
//! with that history, when something is left over or unexpected. A [`FakeWorker`] is a program
//! whose behaviour the test chooses, so that no Python or other program is needed.
//!
//! ```
//! use ostler::testing::TestBed;
//! use ostler::{EventKind, Restart};
//!
//! # #[tokio::main]
//! # async fn main() {
//! let mut bed = TestBed::new();
//! let ostler = bed.builder().start().await.unwrap();
//! let worker = bed.fake_worker().stderr("no model").exit_with(7);
//! // Failures that belong to the test are named; any other fails it.
//! bed.allow_failures("web");
//! let spec = worker.pool("web").restart(Restart::Transient).intensity(2, bed.deadline());
//! let pool = ostler.add_pool(spec).await.unwrap();
//! let gave_up = bed.event("web/0", EventKind::WorkerGaveUp).await;
//! assert_eq!(gave_up.facts.stderr_tail, ["no model"]);
//! bed.within("the end of the pool", pool.wait_stopped()).await;
//! ostler.stop().await.unwrap();
//! bed.finish().await;
//! # }
//! ```
//!
//! # tokio's paused clock
//!
//! The processes of an instance run in real time, which a paused clock (`start_paused = true`,
//! `tokio::time::pause`) knows nothing of:
//!
//! | | under a paused clock |
//! |---|---|
//! | [`TestBed::event`], [`TestBed::event_where`], [`TestBed::within`] | work: their deadline is real time, and the clock stands still while they wait |
//! | start, stop and restart of an instance, a pool or a worker, awaited in one of these | work |
//! | Ostler's own timers: backoff, `start_timeout`, `Ready::After`, grace, the interval of probes, `watchdog` | stand still with the clock while one of these waits; `tokio::time::advance` moves them |
//! | an instance that is started without a test bed | refused with [`StartError::PausedClock`](crate::StartError::PausedClock) |
//! | an operation that is awaited outside of these | tokio advances the clock whenever no task is ready to run, which is so while a process starts: the next of Ostler's deadlines passes at once |
//!
//! To shorten a time in a test, set it in the specification rather than pausing the clock.

mod bed;
mod fake_worker;
mod history;
mod real_time;

pub use bed::{DEADLINE, TestBed};
pub use fake_worker::FakeWorker;
