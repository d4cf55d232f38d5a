//! What a pool and its workers are to be: data that a TOML file, a builder or another program fills in.
//!
//! Every default stands here, once. [`PoolSpec::problems`] says what can't be meant.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::signal::Signal;
use crate::supervision::{Backoff, Restart};

/// A pool: so many workers of one kind, and the rules by which their slots are kept filled.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// The pool's name, unique in its instance: letters, digits, `-`, `_` and `.`.
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

/// How the worker comes by a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The host picks a free one; a restart tries the one it had.
    Any,
    /// This one.
    Fixed(u16),
    /// The first free one of these, both ends included; a restart tries the one it had.
    Range(u16, u16),
    /// The worker picks, and tells by `PORT=n` in a notify message or by the number in its ready file.
    Reported,
    /// The host binds and listens, and passes the socket as `LISTEN_FDS`; it stays bound between incarnations.
    Listen,
}

/// The ports of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ports {
    /// None.
    #[default]
    None,
    /// One without a name: `{port}` and `PORT`.
    One(Port),
    /// Several with names: `{port.NAME}` and `PORT_NAME`.
    Named(BTreeMap<String, Port>),
}

impl Ports {
    /// Every port with its name; the one of [`Ports::One`] has the empty name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Port)> {
        let (one, named) = match self {
            Self::None => (None, None),
            Self::One(port) => (Some(("", *port)), None),
            Self::Named(ports) => (None, Some(ports.iter().map(|(name, port)| (name.as_str(), *port)))),
        };
        one.into_iter().chain(named.into_iter().flatten())
    }
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

/// Something in a specification that can't be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct SpecProblem {
    /// The key in the form of the TOML file, such as `health.every`.
    pub key: &'static str,
    /// What was found, and what is allowed.
    pub message: String,
}

impl PoolSpec {
    /// Everything in this specification that can't be meant; empty when it is sound. The same rules for the TOML file
    /// and for the builder.
    pub fn problems(&self) -> Vec<SpecProblem> {
        let mut found = Problems(Vec::new());
        let name_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        found.require(!self.name.is_empty() && self.name.chars().all(name_ok), "name", || {
            format!(
                "{:?} is not a pool's name: letters, digits, '-', '_' and '.' are allowed",
                self.name
            )
        });
        found.require(self.max_starting > 0, "max_starting", || {
            "0 would never start a worker; at least 1 is wanted".into()
        });
        found.require(self.min_workers <= self.workers, "min_workers", || {
            format!(
                "{} is more than the {} workers that the pool has",
                self.min_workers, self.workers
            )
        });
        found.require(!self.period.is_zero(), "period", || {
            "a period of zero counts no restart; it has to be longer".into()
        });
        if let Some(backoff) = &self.backoff {
            found.require(backoff.first <= backoff.max, "backoff.first", || {
                "it is longer than backoff.max".into()
            });
            found.require((0.0..=1.0).contains(&backoff.jitter), "backoff.jitter", || {
                format!("{} is not between 0 and 1", backoff.jitter)
            });
        }
        self.worker.problems_into(&mut found);
        found.0
    }
}

struct Problems(Vec<SpecProblem>);

impl Problems {
    fn require(&mut self, holds: bool, key: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.0.push(SpecProblem {
                key,
                message: message(),
            });
        }
    }
}

impl WorkerSpec {
    fn problems_into(&self, found: &mut Problems) {
        let program = self.command.first().map_or("", String::as_str);
        found.require(!program.is_empty(), "command", || {
            "it is empty; the program to run is wanted".into()
        });
        let nul = self.command.iter().any(|part| part.contains('\0'));
        found.require(!nul, "command", || "a NUL byte can't be passed to a program".into());
        for (name, value) in &self.env {
            let sound = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            found.require(sound, "env", || {
                format!("{name:?} can't be a variable: no '=' in its name, no NUL byte, not empty")
            });
        }
        found.require(!self.release_timeout.is_zero(), "release_timeout", || {
            "zero would never wait; it has to be longer".into()
        });
        found.require(self.output.ring >= 1024, "output.ring", || {
            format!("{} bytes are too few; at least 1 KiB is wanted", self.output.ring)
        });
        found.require(self.watchdog != Some(Duration::ZERO), "watchdog", || {
            "zero is no interval; leave it out to switch it off".into()
        });
        found.require(self.mode == Mode::Coupled, "mode", || {
            format!(
                "mode {:?} is not built yet; only \"coupled\" is",
                format!("{:?}", self.mode).to_lowercase()
            )
        });
        for (name, port) in self.ports.iter() {
            self.check_port(name, port, found);
        }
        match &self.ready {
            Some(Ready::Probe(probe)) => self.check_probe("ready", probe, found),
            Some(Ready::Notify | Ready::Line(_) | Ready::File | Ready::After(_)) | None => {}
        }
        if let Some(health) = &self.health {
            self.check_probe("health", &health.probe, found);
            found.require(!health.every.is_zero(), "health.every", || {
                "zero would never pause; it has to be longer".into()
            });
            found.require(!health.timeout.is_zero(), "health.timeout", || {
                "zero would fail every probe; it has to be longer".into()
            });
            found.require(health.misses > 0, "health.misses", || {
                "0 would never be healthy; at least 1 is wanted".into()
            });
        }
    }

    fn check_port(&self, name: &str, port: Port, found: &mut Problems) {
        let named_ok = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        found.require(named_ok, "ports", || {
            format!("{name:?} is not a port's name: letters, digits and '_' are allowed")
        });
        match port {
            Port::Fixed(number) => found.require(number != 0, "port", || {
                "0 is no port; \"any\" lets the host pick one".into()
            }),
            Port::Range(first, last) => found.require(first != 0 && first <= last, "port", || {
                format!("\"{first}-{last}\" is no range: its first port has to be at least 1 and not above its last")
            }),
            Port::Reported => found.require(matches!(self.ready, Some(Ready::Notify | Ready::File)), "port", || {
                "\"reported\" needs ready = { notify = true } or { file = true }: the worker tells its port by them"
                    .into()
            }),
            Port::Any | Port::Listen => {}
        }
    }

    fn check_probe(&self, key: &'static str, probe: &Probe, found: &mut Problems) {
        let target = self.probe_target(probe);
        found.require(target.is_some(), key, || match &probe.port {
            Some(name) => format!("it asks port {name:?}, which the worker does not have"),
            None => "it asks a port, and the worker has none that it could mean; set port, or name one of ports in it"
                .into(),
        });
        let reported = target.is_some_and(|name| self.ports.iter().any(|(n, p)| n == name && p == Port::Reported));
        found.require(!(reported && key == "ready"), key, || {
            "it asks a reported port before the worker has reported it; use notify or file".into()
        });
        found.require(probe.kind != ProbeKind::Grpc, key, || {
            "grpc is not built yet; http, tcp, notify, line, file and after are".into()
        });
        if let ProbeKind::Http(path) = &probe.kind {
            found.require(path.starts_with('/'), key, || {
                format!("{path:?} is no path: it has to begin with '/'")
            });
        }
    }

    /// The name of the port that `probe` asks (empty for the unnamed one): the one it names, else the only one, else
    /// the one that is named after the protocol. `None` when there is no such port.
    pub fn probe_target(&self, probe: &Probe) -> Option<&str> {
        let wanted = probe.port.as_deref().unwrap_or(match probe.kind {
            ProbeKind::Http(_) => "http",
            ProbeKind::Tcp => "tcp",
            ProbeKind::Grpc => "grpc",
        });
        let mut names = self.ports.iter().map(|(name, _)| name);
        let by_name = names.find(|name| *name == wanted);
        let mut all = self.ports.iter().map(|(name, _)| name);
        match (by_name, all.next(), all.next()) {
            (Some(name), _, _) => Some(name),
            (None, Some(only), None) if probe.port.is_none() => Some(only),
            _ => None,
        }
    }

    /// The command with `{port}` and `{port.NAME}` replaced by what `port` knows; other braces stay as they are.
    pub fn expand_command(&self, port: impl Fn(&str) -> Option<u16>) -> Vec<String> {
        self.command.iter().map(|part| expand(part, &port)).collect()
    }
}

fn expand(text: &str, port: &impl Fn(&str) -> Option<u16>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{port") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        match placeholder(from).and_then(|(name, len)| port(name).map(|number| (number, len))) {
            Some((number, len)) => {
                out.push_str(&number.to_string());
                rest = &from[len..];
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The port's name in a placeholder at the start of `text`, and the placeholder's length.
fn placeholder(text: &str) -> Option<(&str, usize)> {
    let end = text.find('}')?;
    let inner = &text[1..end];
    let name = match inner.strip_prefix("port")? {
        "" => "",
        dotted => dotted.strip_prefix('.').filter(|name| !name.is_empty())?,
    };
    Some((name, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> PoolSpec {
        PoolSpec::new("web", ["python3", "-m", "http.server", "{port}"])
    }

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        let mut worker = WorkerSpec::new([
            "{port}",
            "{port.http}:{port}",
            "{x}",
            "{port.none}",
            "{{port}}",
            "{portal}",
        ]);
        worker.ports = Ports::One(Port::Any);
        let ports = |name: &str| match name {
            "" => Some(80),
            "http" => Some(8080),
            _ => None,
        };
        assert_eq!(
            worker.expand_command(ports),
            ["80", "8080:80", "{x}", "{port.none}", "{80}", "{portal}"]
        );
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(spec().problems(), []);
    }

    #[test]
    fn each_mistake_is_named_by_its_key() {
        let mut wrong = spec();
        wrong.name = "a b".into();
        wrong.max_starting = 0;
        wrong.min_workers = 2;
        wrong.period = Duration::ZERO;
        wrong.worker.command.clear();
        wrong.worker.mode = Mode::Supervised;
        wrong.worker.ports = Ports::One(Port::Range(9, 3));
        wrong.worker.ready = Some(Ready::Probe(Probe {
            kind: ProbeKind::Http("x".into()),
            port: Some("y".into()),
        }));
        let keys: Vec<_> = wrong.problems().into_iter().map(|p| p.key).collect();
        assert_eq!(
            keys,
            [
                "name",
                "max_starting",
                "min_workers",
                "period",
                "command",
                "mode",
                "port",
                "ready",
                "ready"
            ]
        );
    }

    #[test]
    fn a_probe_that_is_not_built_is_refused_by_name() {
        let mut pool = spec();
        pool.worker.ports = Ports::One(Port::Any);
        let probe = Probe {
            kind: ProbeKind::Grpc,
            port: None,
        };
        pool.worker.ready = Some(Ready::Probe(probe.clone()));
        pool.worker.health = Some(Health::new(probe));
        let problems = pool.problems();
        let keys: Vec<_> = problems.iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["ready", "health"]);
        assert!(
            problems
                .iter()
                .all(|problem| problem.message.contains("grpc is not built yet"))
        );
    }

    #[test]
    fn a_probe_finds_its_port() {
        let mut worker = WorkerSpec::new(["x"]);
        let probe = |port: Option<&str>| Probe {
            kind: ProbeKind::Http("/".into()),
            port: port.map(str::to_owned),
        };
        assert_eq!(worker.probe_target(&probe(None)), None);
        worker.ports = Ports::One(Port::Any);
        assert_eq!(worker.probe_target(&probe(None)), Some(""));
        worker.ports = Ports::Named([("http".into(), Port::Any), ("metrics".into(), Port::Fixed(9100))].into());
        assert_eq!(worker.probe_target(&probe(None)), Some("http"));
        assert_eq!(worker.probe_target(&probe(Some("metrics"))), Some("metrics"));
        assert_eq!(worker.probe_target(&probe(Some("nope"))), None);
    }

    #[test]
    fn a_reported_port_needs_a_way_to_be_told() {
        let mut pool = spec();
        pool.worker.ports = Ports::One(Port::Reported);
        assert_eq!(pool.problems().len(), 1);
        pool.worker.ready = Some(Ready::Notify);
        assert_eq!(pool.problems(), []);
    }
}
