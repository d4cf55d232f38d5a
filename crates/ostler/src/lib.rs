//! Supervision of operating-system processes by the rules of Erlang/OTP, on [ractor] actors.
//!
//! Ostler starts, watches, restarts and stops long-lived processes: model servers in Python,
//! language servers, browsers, database shards. Every worker is an actor that owns one process.
//! Before a worker is replaced, Ostler proves that its process tree is gone, its ports are free and
//! its record is removed. Whatever dies first, your app included, nothing is left behind.
//!
//! # Example
//!
//! ```no_run
//! use ostler::{Ostler, Port, Ready};
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
//!     .start()
//!     .await?;
//! pool.wait_ready().await?;
//!
//! let worker = pool.worker(0)?;
//! println!("{} serves at {:?}", worker.id(), worker.addr());
//! worker.restart().await?;
//! worker.ready().await?;
//!
//! let report = ostler.stop().await?;
//! assert!(report.is_success(), "{report}");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to begin
//!
//! | you want to | look at |
//! |---|---|
//! | start an instance, by itself or linked under your actor | [`Ostler::builder`], [`OstlerBuilder::start_linked`] |
//! | keep processes of one kind running | [`Ostler::pool`], [`PoolSpec`], [`Pool`] |
//! | read pools from your own configuration | `PoolSpecs` (feature `config`) |
//! | know and control one worker | [`Worker`]: its address, state, restart, stop |
//! | say when a worker is ready, and whether it is healthy | [`Ready`], [`Health`] |
//! | say which ends are followed by a restart, and when to give up | [`Restart`], [`PoolSpec::intensity()`], [`Backoff`] |
//! | see what happens | [`Ostler::subscribe`], [`EventStream`], [`EventItem`], [`EventKind`] |
//! | export traces, metrics and logs | `otlp` (a feature), [`Observer`] for your own exporter |
//! | make an instance a child of a supervisor | [`Ostler::child_spec`] |
//! | supervise ordinary ractor actors, no process in sight | [`supervisor`] |
//! | test your own supervision | `testing` (a feature) |
//! | understand a failure | [`Failure`], [`Reason`] |
//! | clean up after a host that was killed | every start does; [`sweep`] does it alone |
//!
//! The guide is [docs/embedding.md]; [docs/configuration.md] lists every setting with its default.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `rocksdb` | yes | the process table in RocksDB; its C++ takes minutes to compile, once |
//! | `redb` | no | the process table in redb, in pure Rust; one of the two is required |
//! | `config` | yes | serde of [`PoolSpec`] and `PoolSpecs`: pools in your own configuration |
//! | `probes` | yes | the next three |
//! | `probe-http` | by `probes` | [`Ready::http`] and [`Health::http`] |
//! | `probe-grpc` | by `probes` | [`ProbeKind::Grpc`] for readiness and health |
//! | `ready-line` | by `probes` | [`Ready::Line`] |
//! | `otlp` | no | traces, metrics and log records by OTLP |
//! | `testing` | no | a test bed and a fake worker for your own tests |
//! | `cluster` | no | ractor with its own feature `cluster`: needed when anything else in the build enables that |
//!
//! A specification that asks for what a build lacks is invalid, and the message names the feature.
//! Without C++: `default-features = false, features = ["redb", "config", "probes"]`.
//!
//! # Platform and runtime
//!
//! Linux 5.14 or newer, on x86_64 or aarch64, with glibc or musl; no root. Where cgroup v2 is
//! writable it contains the workers, too. [tokio] with its time and I/O drivers
//! (`enable_all`), multi-threaded or current-thread. Every `async fn` is cancel safe: what was
//! ordered happens although its future is dropped once it was polled.
//!
//! The library installs no signal handler and blocks no signal: [docs/embedding.md] says what an
//! app that wants to stop in order on TERM does.
//!
//! [docs/embedding.md]: https://github.com/ostler-rs/ostler/blob/main/docs/embedding.md
//! [docs/configuration.md]: https://github.com/ostler-rs/ostler/blob/main/docs/configuration.md
//! [tokio]: https://docs.rs/tokio

#![cfg_attr(docsrs, feature(doc_cfg))]

mod app_dir;
mod detached;
mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod hub;
mod instance;
mod observers;
mod pool;
mod process;
mod remains;
mod scratch;
mod shared_work;
mod small_watch;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod usage;

pub use app_dir::{AppDirError, DirEnv, app_dir, check_app_name};
pub use follow::{Endpoint, Follower, ReadyWorker, Stdio, WorkerChange};
pub use hub::{EVENT_BUFFER, EventItem, EventStream};
pub use instance::audit::AUDIT_INTERVAL;
pub use instance::builder::{OstlerBuilder, PARENT_GRACE, ROOT_INTENSITY, ROOT_PERIOD, StartError};
pub use instance::handle::{Killer, Ostler};
pub use instance::pool_builder::PoolBuilder;
pub use instance::report::{RunGaveUp, StopError, StopReport, Unreleased};
pub use instance::sweep;
pub use pool::{NotRestartable, NotSignalled, Pool, PoolEnd, PoolError, PoolPhase, Worker};
pub use process::{OUTPUT_BUFFER, OutputItem, OutputLine, RECORDS_A_SECOND, RECORDS_AT_ONCE, WorkerOutput};
pub use status::WorkerState;
pub use supervisor::{Backoff, Restart};

#[doc(inline)]
pub use ostler_supervisor as supervisor;
#[doc(no_inline)]
pub use ractor;

pub use ostler_core::chain::chain;
#[cfg(feature = "config")]
pub use ostler_core::config::PoolSpecs;
pub use ostler_core::failure::{ExitStatus, Failure, Reason};
pub use ostler_core::ids::{Incarnation, RunId, WorkerId};
pub use ostler_core::lifecycle::{Cause, State};
pub use ostler_core::signal::Signal;
pub use ostler_core::spec::{
    Health, Mode, OnGiveUp, OutputSpec, PoolSpec, Port, PortOwner, Ports, Probe, ProbeKind, READY_AFTER, Ready,
    SpecProblem, Stdin, StopSpec, WorkerSpec,
};
pub use ostler_os::limits;
pub use ostler_registry::{Engine, RunDirError, TableError};
#[cfg(feature = "otlp")]
pub use ostler_telemetry::otlp;
pub use ostler_telemetry::{
    CallEnd, Clients, ClientsSnapshot, Containment, Event, EventKind, Facts, Instance, Observer, Output, Part,
    PoolSnapshot, Snapshot, SpanLink, Usage, WorkerStanding,
};

#[cfg(test)]
mod tests;

/// The examples of the guide compile.
#[cfg(all(doctest, feature = "config"))]
#[doc = include_str!("../../../docs/embedding.md")]
struct EmbeddingGuide;
