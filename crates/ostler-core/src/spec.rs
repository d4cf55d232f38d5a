//! Specifications of pools and workers: data that a TOML file, a builder or another program fills
//! in.
//!
//! Every default is here, once. [`PoolSpec::problems`] is the only validation, for files and
//! builders alike.

mod build;
mod fingerprint;
mod placeholders;
mod ports;
mod problems;
mod serve;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

pub use placeholders::Placeholder;
pub use ports::{Port, Ports, unnamed_or_only};
pub use problems::SpecProblem;
use serde::{Deserialize, Serialize};
pub use serve::{Affinity, Breaker, Codel, FailureRate, OnCancel, QueueOrder, QueueSpec, Recycle, ServeSpec, Sessions};

use crate::signal::Signal;
use crate::supervision::{Backoff, Restart};

/// The longest duration in a specification: ten years. No run lasts longer, and no clock overflows
/// by adding it.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The most workers of a pool: a million. Linux has about four million pids, and a typing error
/// should not cost all memory.
pub const MOST_WORKERS: u32 = 1_000_000;

/// A worker without a sign of readiness is ready once it has lived for this long: 100 ms. One that
/// ends sooner was never ready, and its exit is judged by its status, like any other.
/// [`Ready::After`] sets another time; zero: it is ready when exec has succeeded.
pub const READY_AFTER: Duration = Duration::from_millis(100);

/// The default of [`PoolSpec::intensity`]: 60 restarts (ADR 0020).
pub const INTENSITY: u32 = 60;

/// The default of [`PoolSpec::period`]: 15 minutes (ADR 0020).
pub const PERIOD: Duration = Duration::from_secs(15 * 60);

/// OTP's intensity and period, each the default when a pool sets the other one.
pub const OTP: (u32, Duration) = (3, Duration::from_secs(5));

/// A worker that was up for this long, or for the pool's period where that is shorter, starts a new
/// row of pauses: 1 minute.
pub const BACKOFF_RESET: Duration = Duration::from_secs(60);

/// A pool: a number of workers of one kind, and the rules by which its slots are kept filled.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PoolSpec {
    /// The pool's name, unique in its instance: letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// What each worker is.
    pub worker: WorkerSpec,
    /// How many slots, at most [`MOST_WORKERS`]. Default 1. Zero: an empty pool, which is ready at
    /// once, and runs until it is stopped or grows.
    pub workers: u32,
    /// The pool gives up when fewer slots than this are left. Default 1. Zero: never for that.
    pub min_workers: u32,
    /// How many workers of the pool may be starting (reserved or spawned, not yet ready) at a time.
    /// Without `ready`, a worker that is spawned no longer counts. Default 8. Zero is invalid.
    pub max_starting: u32,
    /// Which ends of a worker are followed by a restart (OTP's restart types). Default permanent.
    pub restart: Restart,
    /// More than this many restarts of one worker within `period`, and its slot gives up. Default
    /// [`INTENSITY`]. Zero: the first restart gives up, as in OTP. [`PoolSpec::limit_restarts`]
    /// sets OTP's rule.
    pub intensity: u32,
    /// The window in which restarts are counted. Default [`PERIOD`]. Zero is invalid, as in OTP.
    pub period: Duration,
    /// What it means for the pool that a slot gives up. Default: the others go on.
    pub on_give_up: OnGiveUp,
    /// The pauses between two starts, an extension to OTP. Default [`Backoff::of_pools`]; `None`:
    /// restart at once.
    pub backoff: Option<Backoff>,
    /// How clients call its workers (`ostler-serve`). Every default is that of [`ServeSpec`].
    pub serve: ServeSpec,
}

impl PoolSpec {
    /// A pool named `name` of one worker that runs `command`, with every other setting at its
    /// default.
    pub fn new(name: impl Into<String>, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name: name.into(),
            worker: WorkerSpec::new(command),
            workers: 1,
            min_workers: 1,
            max_starting: 8,
            restart: Restart::Permanent,
            intensity: INTENSITY,
            period: PERIOD,
            on_give_up: OnGiveUp::Worker,
            backoff: Some(Backoff::of_pools()),
            serve: ServeSpec::default(),
        }
    }

    /// OTP's rule in place of the default one: a slot gives up after more than `intensity` restarts
    /// within `period`, each OTP's ([`OTP`]) when it is `None`, and restarts follow at once. A
    /// backoff that differs from the default one stays.
    pub fn limit_restarts(&mut self, intensity: Option<u32>, period: Option<Duration>) {
        (self.intensity, self.period) = (intensity.unwrap_or(OTP.0), period.unwrap_or(OTP.1));
        self.backoff.take_if(|backoff| *backoff == Backoff::of_pools());
    }

    /// The backoff with the time after which a row of restarts ends.
    pub fn restart_backoff(&self) -> Option<Backoff> {
        let reset = self.period.min(BACKOFF_RESET);
        self.backoff.clone().map(|backoff| Backoff {
            reset: backoff.reset.or(Some(reset)),
            ..backoff
        })
    }

    /// How long a worker that fails at once every time is restarted before its slot gives up.
    /// `None`: forever, because the pauses are too long for that many restarts within the period.
    pub fn patience(&self) -> Option<Duration> {
        let Some(backoff) = &self.backoff else {
            return Some(Duration::ZERO);
        };
        // The pauses never get shorter, so the first restarts are the closest together.
        let growing = (1..=self.intensity.min(32)).map(|attempt| backoff.delay(attempt, 0.5));
        let rest = backoff
            .delay(u32::MAX, 0.5)
            .saturating_mul(self.intensity.saturating_sub(32));
        let total = growing.fold(rest, Duration::saturating_add);
        (total <= self.period).then_some(total)
    }
}

/// What it means for a pool that one of its slots gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGiveUp {
    /// The other slots go on, down to `min_workers`.
    #[default]
    Worker,
    /// The pool gives up with it: OTP's plain escalation.
    Pool,
}

/// One kind of worker: the process, how it gets ready, how it is stopped.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerSpec {
    /// The program and its arguments; no shell is involved. Here, in the values of `env` and in
    /// `cwd`, each process has its own values for [placeholders](Placeholder): `{port}`,
    /// `{port.NAME}`, `{socket}`, `{socket.NAME}`, `{device}`, `{index}`, `{incarnation}` and
    /// `{run}`. Other braces stay.
    pub command: Vec<String>,
    /// The working directory. Default: the host's; in a file, the file's own directory.
    pub cwd: Option<PathBuf>,
    /// Variables set for the worker, over the inherited ones.
    pub env: BTreeMap<String, String>,
    /// What `{device}` stands for, such as the numbers of GPUs: the worker with index `i` has
    /// number `i` modulo their count, in every incarnation. Default none.
    pub devices: Vec<String>,
    /// Whether the host's environment is passed on (without the variables for the host alone, such
    /// as `NOTIFY_SOCKET`). Default true.
    pub inherit_env: bool,
    /// An exit sooner than this after the spawn is `exited_early`, whatever its status. Default
    /// zero: no such rule.
    pub min_uptime: Duration,
    /// The ports that the worker listens on. Default none.
    pub ports: Ports,
    /// The address of those ports. Default 127.0.0.1.
    pub address: IpAddr,
    /// When the worker is ready. Default `None`: once it has lived for [`READY_AFTER`].
    pub ready: Option<Ready>,
    /// The longest time from the reservation to ready. Default 30 s; zero: no limit.
    pub start_timeout: Duration,
    /// A probe on an interval once the worker is ready. Default none.
    pub health: Option<Health>,
    /// The longest silence between two `WATCHDOG=1` messages of a ready worker. Default `None`: no
    /// heartbeat is expected. Zero is invalid.
    pub watchdog: Option<Duration>,
    /// How a worker is asked to end. Default TERM with a grace of 5 s.
    pub stop: StopSpec,
    /// How it ends when the host, or the guardian, has died. Default KILL at once.
    pub host_death: StopSpec,
    /// From the worker's exit until everything that it held is released. After that what is still
    /// held is named, and the restart counts as failed. Default 10 s. Zero is invalid.
    pub release_timeout: Duration,
    /// What its stdin is. Default /dev/null.
    pub stdin: Stdin,
    /// What is kept of its output.
    pub output: OutputSpec,
    /// Where the process lives. Only [`Mode::Coupled`] is built.
    pub mode: Mode,
}

impl WorkerSpec {
    /// The device of the worker with this index.
    pub fn device(&self, index: u32) -> Option<&str> {
        let count = self.devices.len();
        let nth = (index as usize).checked_rem(count)?;
        self.devices.get(nth).map(String::as_str)
    }

    /// A worker that runs `command`; everything else by its default.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            cwd: None,
            env: BTreeMap::new(),
            devices: Vec::new(),
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

    /// For how long the worker has to live to be ready; `None`: it shows a sign.
    pub fn ready_after(&self) -> Option<Duration> {
        match self.ready {
            // Less than the longest time for a start, where that is very short.
            None if !self.start_timeout.is_zero() => Some(READY_AFTER.min(self.start_timeout / 2)),
            None => Some(READY_AFTER),
            Some(Ready::After(time)) => Some(time),
            Some(Ready::Notify | Ready::Probe(_) | Ready::Line(_) | Ready::File) => None,
        }
    }
}

/// How a worker ends: a signal, then KILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopSpec {
    /// Sent to the worker's process group.
    pub signal: Signal,
    /// From the signal to KILL for the whole tree. Zero: at once.
    pub grace: Duration,
}

/// When a worker is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ready {
    /// `READY=1` by the `sd_notify` protocol, from a process of the worker's tree.
    Notify,
    /// The probe succeeds.
    Probe(Probe),
    /// A line of stdout or stderr matches this regular expression.
    Line(String),
    /// The file named by `OSTLER_READY_FILE` exists and is not empty.
    File,
    /// It has lived for this long. An earlier exit is a failed start, whatever its status. Zero: it
    /// is ready when exec has succeeded.
    After(Duration),
}

/// A question to a worker: a request to one of its ports, or a command that examines it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The question.
    pub kind: ProbeKind,
    /// The name of the port. `None`: the only one, or the one with the protocol's name. A command
    /// has none.
    pub port: Option<String>,
    /// Whose listening socket may answer.
    pub owner: PortOwner,
    /// Headers of an HTTP request, `Host` among them. Default: `Host` is the address.
    pub headers: BTreeMap<String, String>,
}

impl Probe {
    /// This question; of a port, to the worker's own one.
    pub fn new(kind: ProbeKind) -> Self {
        Self {
            kind,
            port: None,
            owner: PortOwner::Worker,
            headers: BTreeMap::new(),
        }
    }
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeKind {
    /// GET of this path; a status from 200 to 399 is a success.
    Http(String),
    /// A connection is accepted.
    Tcp,
    /// `grpc.health.v1.Health/Check` answers SERVING for this service; the empty name asks for the
    /// server as a whole.
    Grpc(String),
    /// This command exits with status 0.
    ///
    /// It runs beside the worker, in the worker's directory and environment, without the variables
    /// by which a worker reports (`NOTIFY_SOCKET`, `OSTLER_READY_FILE`, `LISTEN_*`), and with
    /// `OSTLER_WORKER_PID`. The placeholders of [`WorkerSpec::command`] are replaced in it, and its
    /// program is looked up like the worker's. Its stdin is /dev/null; the last lines of its output
    /// are part of the message when it fails. When it has ended or its time is over, its processes
    /// are killed, children in the background included.
    Exec(Vec<String>),
}

/// Whose socket may answer a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortOwner {
    /// A process of the worker's tree: an answer of any other process does not count.
    #[default]
    Worker,
    /// Any process: for a port that another daemon publishes for the worker, such as a container's
    /// proxy ([`WorkerSpec::is_anyones`]).
    Any,
}

/// A probe on an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The probe.
    pub probe: Probe,
    /// From the end of one probe to the start of the next. Default 2 s. Zero is invalid.
    pub every: Duration,
    /// How long one probe may take. Default 10 s. Zero is invalid.
    pub timeout: Duration,
    /// This many failed probes in a row make the worker unhealthy, and it is restarted. Default 3.
    /// Zero is invalid.
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
#[non_exhaustive]
pub struct OutputSpec {
    /// How many bytes of each stream are kept, the newest; older lines are dropped and counted.
    /// Default 64 KiB; from 1 KiB to 1 GiB.
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
#[non_exhaustive]
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
