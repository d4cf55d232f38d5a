//! What is invalid in a specification, and what is probably a mistake: the only rules, for files
//! and builders alike.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::ports::LONGEST_SOCKET_NAME;
use super::{
    Health, LONGEST, MOST_WORKERS, Mode, PoolSpec, Port, PortOwner, Ports, Probe, ProbeKind, Ready, WorkerSpec,
};
use crate::signal::Signal;

/// Something that is invalid or probably a mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
#[non_exhaustive]
pub struct SpecProblem {
    /// The key as in the TOML file, such as `health.every`.
    pub key: &'static str,
    /// What was found, and what is expected.
    pub message: String,
}

impl PoolSpec {
    /// Everything that is invalid; empty for a valid specification. A pool does not start with any
    /// of it.
    pub fn problems(&self) -> Vec<SpecProblem> {
        let mut found = Problems(Vec::new());
        found.require(is_pool_name(&self.name), "name", || {
            format!(
                "{:?} is not a valid name for a pool: use letters, digits, '-', '_' and '.', at most {MAX_NAME} of them",
                self.name
            )
        });
        found.require(self.workers <= MOST_WORKERS, "workers", || {
            format!("{} is too many; at most {MOST_WORKERS}", self.workers)
        });
        for (name, port) in self.worker.ports.iter() {
            if !self.worker.is_anyones(name) {
                found.0.extend(self.too_few(port));
            }
        }
        found.require(self.max_starting > 0, "max_starting", || {
            "0 would never start a worker; use at least 1".into()
        });
        found.require(self.min_workers <= self.workers.max(1), "min_workers", || {
            format!("{} is more than the pool's {} workers", self.min_workers, self.workers)
        });
        found.positive("period", self.period, "zero would never count a restart");
        if let Some(backoff) = &self.backoff {
            found.duration("backoff.first", backoff.first);
            found.duration("backoff.max", backoff.max);
            found.duration("backoff.reset", backoff.reset.unwrap_or_default());
            found.require(backoff.first <= backoff.max, "backoff.first", || {
                "longer than backoff.max".into()
            });
            found.fraction("backoff.jitter", backoff.jitter);
        }
        self.worker.problems_into(&mut found);
        self.serve.problems_into(&mut found);
        found.0
    }

    /// What is allowed, but is probably a mistake. It is logged when a pool starts, and `ostler
    /// check` prints it.
    pub fn warnings(&self) -> Vec<SpecProblem> {
        let mut found = Problems(Vec::new());
        for (key, placeholder) in self.worker.unknown_placeholders() {
            found.add(
                key,
                format!(
                    "{placeholder} names no {} that is known when the worker starts, and stays as it is",
                    if placeholder.starts_with("{socket") {
                        "Unix socket"
                    } else {
                        "port"
                    }
                ),
            );
        }
        if let Some(Ready::Probe(probe)) = &self.worker.ready
            && probe.kind == ProbeKind::Tcp
            && self.worker.probes(probe, Port::Listen)
        {
            let message =
                "tcp always succeeds on a \"listen\" port: the host listens before the worker runs; use http or notify";
            found.add("ready", message.into());
        }
        self.warn_of_owners(&mut found);
        self.warn_of_ends(&mut found);
        found.0
    }

    /// What can't come to what it is for.
    fn warn_of_ends(&self, found: &mut Problems) {
        let worker = &self.worker;
        if let Some(Ready::After(after)) = worker.ready
            && !worker.start_timeout.is_zero()
            && worker.start_timeout <= after
        {
            let message = "not shorter than start_timeout, so that no worker ever becomes ready; raise start_timeout";
            found.add("ready.after", message.into());
        }
        let death = worker.host_death;
        if death.signal != Signal::KILL && death.grace.is_zero() {
            let message = format!("{} is followed by KILL at once; set a grace", death.signal);
            found.add("host_death", message);
        }
        for (key, signal) in [("stop.signal", worker.stop.signal), ("host_death.signal", death.signal)] {
            if signal == Signal::STOP {
                let message = "STOP ends no process, so that each is killed after its grace; use TERM";
                found.add(key, message.into());
            }
        }
    }

    /// What is odd about probes whose answer any process may give.
    fn warn_of_owners(&self, found: &mut Problems) {
        let worker = &self.worker;
        if let (Some(Ready::Probe(ready)), Some(health)) = (&worker.ready, &worker.health)
            && worker.probe_target(ready).is_some()
            && worker.probe_target(ready) == worker.probe_target(&health.probe)
            && (ready.owner, health.probe.owner) == (PortOwner::Any, PortOwner::Worker)
        {
            let message = "only the worker's own socket counts here, but any process's in ready; set owner = \"any\" in both if another daemon has the port";
            found.add("health", message.into());
        }
        for (name, port) in worker.ports.iter() {
            if let (Port::Fixed(number), 2..) = (port, self.workers)
                && worker.is_anyones(name)
            {
                let message =
                    format!("all of them are asked at port {number}: an answer there says nothing about a single one");
                found.add("workers", message);
            }
        }
    }

    /// Workers do not share a port: one that starts late finds it in use.
    fn too_few(&self, port: Port) -> Option<SpecProblem> {
        let (room, found) = match port {
            Port::Fixed(number) => (1, format!("port {number} is")),
            Port::Range(first, last) if first <= last => {
                (u32::from(last - first) + 1, format!("ports {first}-{last} are"))
            }
            Port::Range(..) | Port::Any | Port::Reported | Port::Listen | Port::Unix => return None,
        };
        (self.workers > room).then(|| SpecProblem {
            key: "workers",
            message: format!(
                "{} workers need one port each, and {found} enough for {room}; use a larger range, or \"any\"",
                self.workers
            ),
        })
    }

    /// A fixed port that workers of both pools would use: they can't run in one instance. One that
    /// may be anyone's ([`WorkerSpec::is_anyones`]) is no pool's.
    pub fn shared_port(&self, other: &Self) -> Option<u16> {
        let (mine, theirs) = (&self.worker, &other.worker);
        let (here, there) = (mine.address, theirs.address);
        let meet = here == there || is_among(here, there) || is_among(there, here);
        if !meet || self.workers == 0 || other.workers == 0 {
            return None;
        }
        let uses = |worker: &WorkerSpec, port| {
            let mut ports = worker.ports.iter();
            ports.any(|(name, used)| used == port && !worker.is_anyones(name))
        };
        mine.ports.iter().find_map(|(_, port)| match port {
            Port::Fixed(number) if uses(mine, port) && uses(theirs, port) => Some(number),
            _ => None,
        })
    }
}

/// Whether listening at `all` takes the ports of `address`, too: `0.0.0.0` is every IPv4 address,
/// `::` every one (ipv6(7)).
fn is_among(address: IpAddr, all: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || address.is_ipv4())
}

/// The longest name of a pool. It becomes part of file names.
const MAX_NAME: usize = 64;

/// The sizes of an output ring, in bytes.
const RINGS: std::ops::RangeInclusive<usize> = 1 << 10..=1 << 30;

fn is_pool_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

pub(super) struct Problems(Vec<SpecProblem>);

impl Problems {
    pub(super) fn require(&mut self, holds: bool, key: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.add(key, message());
        }
    }

    /// A duration that is not too long.
    pub(super) fn duration(&mut self, key: &'static str, duration: Duration) {
        self.require(duration <= LONGEST, key, || "too long; at most ten years".into());
    }

    /// A duration that is neither too long nor zero.
    pub(super) fn positive(&mut self, key: &'static str, duration: Duration, zero: &str) {
        self.duration(key, duration);
        self.require(!duration.is_zero(), key, || format!("{zero}; use a longer time"));
    }

    /// A number from 0 to 1.
    pub(super) fn fraction(&mut self, key: &'static str, number: f64) {
        self.require((0.0..=1.0).contains(&number), key, || {
            format!("{number} is not between 0 and 1")
        });
    }

    fn add(&mut self, key: &'static str, message: String) {
        self.0.push(SpecProblem { key, message });
    }
}

impl WorkerSpec {
    fn problems_into(&self, found: &mut Problems) {
        self.check_process(found);
        for (_, port) in self.ports.iter() {
            self.check_port(port, found);
        }
        if let Ports::Named(ports) = &self.ports {
            check_names(ports, found);
        }
        if let Some(ready) = &self.ready {
            self.check_ready(ready, found);
        }
        if let Some(health) = &self.health {
            self.check_health(health, found);
        }
    }

    fn check_process(&self, found: &mut Problems) {
        check_command("command", &self.command, found);
        if let Some(cwd) = &self.cwd {
            let bytes = cwd.as_os_str().as_encoded_bytes();
            found.require(!bytes.is_empty() && !bytes.contains(&0), "cwd", || {
                format!("{cwd:?} is not a path")
            });
        }
        for (name, value) in &self.env {
            let valid = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            found.require(valid, "env", || {
                format!("{name:?} can't be set: a name is not empty and has no '=', and neither it nor its value has a NUL byte")
            });
        }
        found.duration("min_uptime", self.min_uptime);
        found.duration("start_timeout", self.start_timeout);
        found.duration("stop.grace", self.stop.grace);
        found.duration("host_death.grace", self.host_death.grace);
        found.positive("release_timeout", self.release_timeout, "zero would never wait");
        if let Some(watchdog) = self.watchdog {
            found.duration("watchdog", watchdog);
            found.require(!watchdog.is_zero(), "watchdog", || {
                "zero is not an interval; leave it out to switch it off".into()
            });
        }
        found.require(RINGS.contains(&self.output.ring), "output.ring", || {
            format!("{} bytes; expected from 1 KiB to 1 GiB", self.output.ring)
        });
        found.require(self.mode == Mode::Coupled, "mode", || {
            let mode = format!("{:?}", self.mode).to_lowercase();
            format!("{mode:?} is not built yet; only \"coupled\" is")
        });
    }

    fn check_ready(&self, ready: &Ready, found: &mut Problems) {
        match ready {
            Ready::Probe(probe) => self.check_probe("ready", probe, found),
            Ready::Line(pattern) => {
                if let Err(why) = check_pattern(pattern) {
                    found.add("ready.line", why);
                }
            }
            Ready::After(time) => found.duration("ready.after", *time),
            Ready::Notify | Ready::File => {}
        }
    }

    fn check_health(&self, health: &Health, found: &mut Problems) {
        self.check_probe("health", &health.probe, found);
        found.positive("health.every", health.every, "zero would never pause");
        found.positive("health.timeout", health.timeout, "zero would fail every probe");
        found.require(health.misses > 0, "health.misses", || {
            "0 would never be healthy; use at least 1".into()
        });
    }

    fn check_port(&self, port: Port, found: &mut Problems) {
        match port {
            Port::Fixed(number) => found.require(number != 0, "port", || {
                "0 is not a port; \"any\" lets the host pick one".into()
            }),
            Port::Range(first, last) => found.require(first != 0 && first <= last, "port", || {
                format!("\"{first}-{last}\" is not a range of ports: from 1 on, the lower one first")
            }),
            Port::Reported => found.require(matches!(self.ready, Some(Ready::Notify | Ready::File)), "port", || {
                "\"reported\" needs ready = { notify = true } or { file = true }: the worker reports its port with them".into()
            }),
            Port::Any | Port::Listen | Port::Unix => {}
        }
    }

    fn check_probe(&self, key: &'static str, probe: &Probe, found: &mut Problems) {
        if let ProbeKind::Exec(command) = &probe.kind {
            check_command(key, command, found);
            let plain = probe.port.is_none() && probe.owner == PortOwner::Worker && probe.headers.is_empty();
            return found.require(plain, key, || {
                "exec asks no port; leave out port, owner and headers".into()
            });
        }
        found.require(self.probe_target(probe).is_some(), key, || match &probe.port {
            Some(name) => format!("the worker has no port {name:?}"),
            None if self.ports == Ports::None => "a probe needs a port; set port".into(),
            None => "the worker has several ports; name one with port".into(),
        });
        let reported = key == "ready" && self.probes(probe, Port::Reported);
        found.require(!reported, key, || {
            "the probe needs the port before the worker has reported it; use notify or file".into()
        });
        if let ProbeKind::Grpc(service) = &probe.kind {
            found.require(cfg!(feature = "probe-grpc"), key, || {
                not_in_this_build("gRPC probes", "probe-grpc")
            });
            let blank = service.chars().any(|c| c.is_whitespace() || c.is_control());
            found.require(!blank, key, || format!("{service:?} is not the name of a gRPC service"));
        }
        for (name, value) in &probe.headers {
            found.require(matches!(probe.kind, ProbeKind::Http(_)), key, || {
                "headers are for http; leave them out".into()
            });
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            found.require(!name.is_empty() && name.chars().all(token), key, || {
                format!("{name:?} is not the name of a header")
            });
            found.require(
                value.chars().all(|c| c == '\t' || (' '..='~').contains(&c)),
                key,
                || format!("{value:?} can't be the value of a header: printable ASCII characters only"),
            );
        }
        if let ProbeKind::Http(path) = &probe.kind {
            found.require(cfg!(feature = "probe-http"), key, || {
                not_in_this_build("HTTP probes", "probe-http")
            });
            found.require(path.starts_with('/'), key, || {
                format!("{path:?} is not a path: it has to begin with '/'")
            });
            let blank = path.chars().any(|c| c.is_whitespace() || c.is_control());
            found.require(!blank, key, || {
                format!("{path:?} has a character that a request can't contain; encode it, as %20")
            });
        }
    }

    /// Whether the probe's port is of this kind.
    fn probes(&self, probe: &Probe, kind: Port) -> bool {
        let target = self.probe_target(probe);
        self.ports
            .iter()
            .any(|(name, port)| Some(name) == target && port == kind)
    }
}

fn check_command(key: &'static str, command: &[String], found: &mut Problems) {
    found.require(command.first().is_some_and(|program| !program.is_empty()), key, || {
        "empty; expected the program and its arguments".into()
    });
    let nul = command.iter().any(|part| part.contains('\0'));
    found.require(!nul, key, || "a program can't be given a NUL byte".into());
}

#[cfg(feature = "ready-line")]
fn check_pattern(pattern: &str) -> Result<(), String> {
    regex::Regex::new(pattern).map(drop).map_err(|error| {
        let error = error.to_string();
        let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("{pattern:?} is not a regular expression: {cause}")
    })
}

#[cfg(not(feature = "ready-line"))]
fn check_pattern(_: &str) -> Result<(), String> {
    Err(not_in_this_build("readiness by a line of output", "ready-line"))
}

fn not_in_this_build(what: &str, feature: &str) -> String {
    format!("this build has no {what}; enable the feature {feature:?} of the crate ostler")
}

/// Names that differ in `PORT_NAME`, and numbers that differ.
fn check_names(ports: &BTreeMap<String, Port>, found: &mut Problems) {
    let mut variables = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for (name, port) in ports {
        let named_ok = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        found.require(named_ok, "ports", || {
            format!("{name:?} is not a valid name for a port: use letters, digits and '_'")
        });
        found.require(port.is_tcp() || name.len() <= LONGEST_SOCKET_NAME, "ports", || {
            format!("{name:?} is too long a name for a Unix socket; at most {LONGEST_SOCKET_NAME} characters")
        });
        let variable = name.to_ascii_uppercase();
        if let Some(twin) = variables.insert(variable.clone(), name) {
            found.add(
                "ports",
                format!("{twin:?} and {name:?} are the same variable, PORT_{variable}"),
            );
        }
        if let Port::Fixed(number) = port
            && let Some(twin) = numbers.insert(number, name)
        {
            found.add("ports", format!("{twin:?} and {name:?} are both {number}"));
        }
    }
}

#[cfg(test)]
mod features {
    use super::*;

    #[test]
    fn what_this_build_lacks_is_invalid_and_the_feature_is_named() {
        let spec = |ready| PoolSpec::new("p", ["x"]).port(Port::Any).ready(ready);
        let built_in = [
            (Ready::http("/"), "ready", "probe-http", cfg!(feature = "probe-http")),
            (
                Ready::Probe(Probe::grpc("")),
                "ready",
                "probe-grpc",
                cfg!(feature = "probe-grpc"),
            ),
            (
                Ready::Line("up".into()),
                "ready.line",
                "ready-line",
                cfg!(feature = "ready-line"),
            ),
        ];
        for (ready, key, feature, built_in) in built_in {
            let problems = spec(ready).problems();
            let refused = |problem: &SpecProblem| problem.key == key && problem.message.contains(feature);
            assert_eq!(problems.is_empty(), built_in, "{problems:?}");
            assert_eq!(problems.iter().any(refused), !built_in, "{problems:?}");
        }
    }
}

#[cfg(all(test, feature = "probe-http", feature = "probe-grpc", feature = "ready-line"))]
mod tests;
