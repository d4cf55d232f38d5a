//! What a pool and its workers are to be: data that a TOML file, a builder or another program fills in.
//!
//! Every default stands here, once. [`PoolSpec::problems`] says what can't be meant.

mod ports;
mod problems;
mod serve;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

pub use ports::{Port, Ports};
pub use problems::SpecProblem;
use serde::{Deserialize, Serialize};
pub use serve::{Affinity, Breaker, Codel, FailureRate, OnCancel, QueueOrder, QueueSpec, Recycle, ServeSpec, Sessions};

use crate::signal::Signal;
use crate::supervision::{Backoff, Restart};

/// A pool: so many workers of one kind, and the rules by which their slots are kept filled.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// The pool's name, unique in its instance: letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// What each worker is.
    pub worker: WorkerSpec,
    /// How many slots. Default 1; zero makes an empty pool, which has finished as soon as it started.
    pub workers: u32,
    /// The pool gives up when fewer slots than this are left. Default 1.
    pub min_workers: u32,
    /// How many workers of the pool may be starting (reserved or spawned, not yet ready) at a time. Default 8; zero is refused.
    pub max_starting: u32,
    /// When a worker's end is followed by a restart (OTP's restart types). Default permanent.
    pub restart: Restart,
    /// More than this many restarts of one worker within `period`, and its slot gives up. Default 3; zero: the first
    /// restart gives up (OTP).
    pub intensity: u32,
    /// The window in which restarts are counted. Default 5 s (OTP).
    pub period: Duration,
    /// What a slot's giving up means for the pool. Default: the others serve on.
    pub on_give_up: OnGiveUp,
    /// A pause before restarts, an extension to OTP. Default none: restart at once.
    pub backoff: Option<Backoff>,
}

impl PoolSpec {
    /// A pool named `name` of one worker that runs `command`; everything else by its default.
    pub fn new(name: impl Into<String>, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name: name.into(),
            worker: WorkerSpec::new(command),
            workers: 1,
            min_workers: 1,
            max_starting: 8,
            restart: Restart::Permanent,
            intensity: 3,
            period: Duration::from_secs(5),
            on_give_up: OnGiveUp::Worker,
            backoff: None,
        }
    }
}

/// What a slot's giving up means for its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGiveUp {
    /// The other slots serve on, down to `min_workers`.
    #[default]
    Worker,
    /// The pool gives up with it: OTP's plain escalation.
    Pool,
}

/// One kind of worker: the process, how it gets ready, how it is stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSpec {
    /// The program and its arguments, no shell between. `{port}` and `{port.NAME}` are replaced; other braces stay.
    pub command: Vec<String>,
    /// The working directory. Default: the host's.
    pub cwd: Option<PathBuf>,
    /// Variables set for the worker, over the inherited ones.
    pub env: BTreeMap<String, String>,
    /// Whether the host's environment is passed on (without what was meant for the host alone, such as `NOTIFY_SOCKET`). Default true.
    pub inherit_env: bool,
    /// An exit sooner than this after the spawn is `exited_early`, whatever its status. Default zero: no such rule.
    pub min_uptime: Duration,
    /// The ports that the worker listens on. Default none.
    pub ports: Ports,
    /// The address of those ports. Default 127.0.0.1.
    pub address: IpAddr,
    /// When the worker counts as ready. Default `None`: when exec has succeeded.
    pub ready: Option<Ready>,
    /// From the reservation to ready, at most. Default 30 s; zero: no limit.
    pub start_timeout: Duration,
    /// A probe on an interval once the worker is ready. Default none.
    pub health: Option<Health>,
    /// The longest silence between two `WATCHDOG=1` messages of a ready worker. Default none.
    pub watchdog: Option<Duration>,
    /// How a worker is asked to end. Default TERM with a grace of 5 s.
    pub stop: StopSpec,
    /// How it ends when the host, or the guardian, has died. Default KILL at once.
    pub host_death: StopSpec,
    /// From the worker's exit until all it held is released; then what still holds is named, and counts as a failed
    /// restart. Default 10 s; zero is refused.
    pub release_timeout: Duration,
    /// What its stdin is. Default /dev/null.
    pub stdin: Stdin,
    /// What is kept of its output.
    pub output: OutputSpec,
    /// Where the process lives. Only [`Mode::Coupled`] is built.
    pub mode: Mode,
}

impl WorkerSpec {
    /// A worker that runs `command`; everything else by its default.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            cwd: None,
            env: BTreeMap::new(),
            inherit_env: true,
            min_uptime: Duration::ZERO,
            ports: Ports::None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ready: None,
            start_timeout: Duration::from_secs(30),
            health: None,
            watchdog: None,
            stop: StopSpec {
                signal: Signal::TERM,
                grace: Duration::from_secs(5),
            },
            host_death: StopSpec {
                signal: Signal::KILL,
                grace: Duration::ZERO,
            },
            release_timeout: Duration::from_secs(10),
            stdin: Stdin::Null,
            output: OutputSpec::default(),
            mode: Mode::Coupled,
        }
    }
}

/// A signal, and how long after it everything that is left is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSpec {
    /// Sent to the worker's process group.
    pub signal: Signal,
    /// From the signal to KILL for the whole tree. Zero: at once.
    pub grace: Duration,
}

/// When a worker counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// `READY=1` by the `sd_notify` protocol, from a process of the worker's tree.
    Notify,
    /// The probe succeeds.
    Probe(Probe),
    /// A line of stdout or stderr matches this regular expression.
    Line(String),
    /// The file named by `OSTLER_READY_FILE` exists and is not empty.
    File,
    /// So long after exec.
    After(Duration),
}

/// A question to one of the worker's ports. It counts only when the listening socket belongs to the worker's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub kind: ProbeKind,
    /// The name of the port that is asked; `None`: the one port, or the one named after the protocol.
    pub port: Option<String>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// GET of this path; a status from 200 to 399 is a yes.
    Http(String),
    /// A connection is accepted.
    Tcp,
    /// `grpc.health.v1.Health/Check` answers SERVING. Not built yet.
    Grpc,
}

/// A probe on an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// From the end of one probe to the start of the next. Default 2 s; zero is refused.
    pub every: Duration,
    /// How long one probe may take. Default 10 s; zero is refused.
    pub timeout: Duration,
    /// So many failed probes in a row make the worker unhealthy, and it is restarted. Default 3; zero is refused.
    pub misses: u32,
}

impl Health {
    /// This probe with the default interval, timeout and misses.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            every: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            misses: 3,
        }
    }
}

/// What a worker's stdin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// /dev/null. Its stdout is captured, as its stderr is.
    #[default]
    Null,
    /// A pipe that the host holds until the worker has ended. Its stdout then belongs to the same
    /// client: it is neither kept nor logged, and is read only while a client is connected. Its
    /// stderr is captured as ever.
    Pipe,
}

/// What is kept of a worker's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputSpec {
    /// Bytes kept a stream, the newest; older lines are dropped and counted. Default 64 KiB.
    pub ring: usize,
    /// Whether each line goes to the log too. Default true.
    pub log: bool,
}

impl Default for OutputSpec {
    fn default() -> Self {
        Self {
            ring: 64 * 1024,
            log: true,
        }
    }
}

/// Where a worker's process lives, and what the host's death means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It dies with the host.
    #[default]
    Coupled,
    /// It outlives the host under a lease. Not built yet.
    Independent,
    /// systemd is its parent. Not built yet.
    Supervised,
    /// It is a pod. Not built yet.
    Distributed,
}
