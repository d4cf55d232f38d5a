//! Ostler: an OTP-like supervision tree in which every worker actor owns one operating-system process.
//!
//! An [`Ostler`] is one instance: a root supervisor with its process table, its guardian and its pools. A [`Pool`] keeps
//! so many workers of one kind running; each is started, watched, restarted and stopped by Erlang/OTP's rules, and what
//! it held is proven to be released before anything takes its place. Whatever dies first, nothing is left behind.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ostler::{Ostler, Port, Ready, Restart};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ostler = Ostler::builder("demo").start().await?;
//! let pool = ostler
//!     .pool("web")
//!     .command(["python3", "-m", "http.server", "{port}"])
//!     .port(Port::Any)
//!     .ready(Ready::http("/"))
//!     .workers(4)
//!     .restart(Restart::Transient)
//!     .start()
//!     .await?;
//! pool.wait_ready().await?;
//! let worker = pool.worker(0)?;
//! worker.restart().await?;
//! worker.ready().await?;
//! println!("{} serves at {:?}", worker.id(), worker.addr());
//! let report = ostler.stop().await?;
//! assert!(report.is_success(), "{report}");
//! # Ok(())
//! # }
//! ```
//!
//! Supervision of ordinary ractor actors, no process in sight, is in [`supervisor`].

mod detached;
mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod hub;
mod instance;
mod observers;
mod patience;
mod pool;
mod process;
mod remains;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod usage;

pub use follow::{Endpoint, Follower, ReadyWorker, Stdio, WorkerChange};
pub use hub::{EVENT_BUFFER, EventStream};
pub use instance::audit::AUDIT_INTERVAL;
pub use instance::builder::{OstlerBuilder, PARENT_GRACE, ROOT_INTENSITY, ROOT_PERIOD, StartError};
pub use instance::cleaner::CleanupReport;
pub use instance::handle::{Killer, Ostler};
pub use instance::pool_builder::PoolBuilder;
pub use instance::report::{RunGaveUp, StopError, StopReport};
pub use instance::sweep;
pub use pool::{NotRestartable, Pool, PoolEnd, PoolError, PoolPhase, Worker};
pub use process::{RECORDS_A_SECOND, RECORDS_AT_ONCE};
pub use status::WorkerState;
pub use supervisor::{Backoff, Restart};

#[doc(inline)]
pub use ostler_supervisor as supervisor;

pub use ostler_core::failure::{ExitStatus, Failure, Reason};
pub use ostler_core::ids::{Incarnation, RunId, WorkerId};
pub use ostler_core::lifecycle::{Cause, State};
pub use ostler_core::signal::Signal;
pub use ostler_core::spec::{
    Health, Mode, OnGiveUp, OutputSpec, PoolSpec, Port, PortOwner, Ports, Probe, ProbeKind, Ready, SpecProblem, Stdin,
    StopSpec, WorkerSpec,
};
pub use ostler_os::limits;
pub use ostler_registry::{AppDirError, DirEnv, Engine, RunDirError, TableError, app_dir, check_app_name};
#[cfg(feature = "otlp")]
pub use ostler_telemetry::otlp;
pub use ostler_telemetry::{
    Event, EventKind, Facts, Instance, Observer, Output, Part, PoolSnapshot, Snapshot, SpanLink, Usage,
};

#[cfg(test)]
mod tests;
