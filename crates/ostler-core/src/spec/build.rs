//! Setters and constructors, for those who write specifications in code.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Health, OnGiveUp, OutputSpec, PoolSpec, Port, Ports, Probe, ProbeKind, Ready, ServeSpec, Stdin, StopSpec};
use crate::signal::Signal;
use crate::supervision::{Backoff, Restart};

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $($field:ident).+;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, value: $type) -> Self {
            self.$($field).+ = value;
            self
        })*
    };
}

mod serve;

impl PoolSpec {
    /// The pool's name, unique in its instance: letters, digits, `-`, `_` and `.`, at most 64.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The program and its arguments; see [`command`](super::WorkerSpec::command).
    #[must_use]
    pub fn command(mut self, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.worker.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of the workers' environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.worker.env.insert(name.into(), value.into());
        self
    }

    /// The working directory. Default: the host's.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.worker.cwd = Some(directory.into());
        self
    }

    /// A port without a name. Default: none.
    #[must_use]
    pub fn port(mut self, port: Port) -> Self {
        self.worker.ports = Ports::One(port);
        self
    }

    /// Ports with names. Default: none.
    #[must_use]
    pub fn ports(mut self, ports: impl IntoIterator<Item = (impl Into<String>, Port)>) -> Self {
        self.worker.ports = Ports::Named(ports.into_iter().map(|(name, port)| (name.into(), port)).collect());
        self
    }

    /// When a worker counts as ready. Default: once it has lived for
    /// [`READY_AFTER`](super::READY_AFTER).
    #[must_use]
    pub fn ready(mut self, ready: Ready) -> Self {
        self.worker.ready = Some(ready);
        self
    }

    /// A probe on an interval once a worker is ready. Default: none.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.worker.health = Some(health);
        self
    }

    /// The longest silence between two `WATCHDOG=1` messages of a ready worker. Default: none.
    #[must_use]
    pub fn watchdog(mut self, interval: Duration) -> Self {
        self.worker.watchdog = Some(interval);
        self
    }

    /// OTP's rule: more than `restarts` of one worker within `period`, and its slot gives up;
    /// restarts follow at once unless a backoff is set. Default: a patient pool (ADR 0020), see
    /// [`PoolSpec::limit_restarts`].
    #[must_use]
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.limit_restarts(Some(restarts), Some(period));
        self
    }

    /// The pauses between two starts. Default: from 50 ms to 10 s, none with
    /// [`PoolSpec::intensity()`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    settings! {
        /// How many workers. Default 1.
        workers: u32 => workers;
        /// The pool gives up when fewer slots than this are left. Default 1.
        min_workers: u32 => min_workers;
        /// How many workers may be starting at a time. Default 8.
        max_starting: u32 => max_starting;
        /// When a worker's end is followed by a restart. Default permanent.
        restart: Restart => restart;
        /// What a slot's giving up means for the pool. Default: the others serve on.
        on_give_up: OnGiveUp => on_give_up;
        /// How clients call the workers (`ostler-serve`).
        serve: ServeSpec => serve;
        /// Whether the host's environment is passed on. Default true.
        inherit_env: bool => worker.inherit_env;
        /// An exit sooner than this after the spawn is a failure. Default zero: no such rule.
        min_uptime: Duration => worker.min_uptime;
        /// The address of the ports. Default 127.0.0.1.
        address: IpAddr => worker.address;
        /// From the reservation to ready, at most. Default 30 s; zero: no limit.
        start_timeout: Duration => worker.start_timeout;
        /// How a worker is asked to end. Default TERM, and KILL for its whole tree after 5 s.
        stop: StopSpec => worker.stop;
        /// How it ends when the host has died. Default KILL at once.
        host_death: StopSpec => worker.host_death;
        /// How long the release may take before it counts as a failure. Default 10 s.
        release_timeout: Duration => worker.release_timeout;
        /// What its stdin is. Default /dev/null.
        stdin: Stdin => worker.stdin;
        /// What is kept of its output. Default 64 KiB a stream, and each line to the log.
        output: OutputSpec => worker.output;
    }
}

impl StopSpec {
    /// `signal`, and KILL for what is left after `grace`.
    pub const fn new(signal: Signal, grace: Duration) -> Self {
        Self { signal, grace }
    }

    /// TERM, and KILL for what is left after `grace`.
    pub const fn term(grace: Duration) -> Self {
        Self::new(Signal::TERM, grace)
    }

    /// KILL, at once.
    pub const fn kill() -> Self {
        Self::new(Signal::KILL, Duration::ZERO)
    }
}

impl OutputSpec {
    settings! {
        /// How many bytes of each stream are kept. Default 64 KiB; from 1 KiB to 1 GiB.
        ring: usize => ring;
        /// Whether each line goes to the log too. Default true.
        log: bool => log;
    }
}

impl Ready {
    /// GET of this path answers with a status from 200 to 399. The port is the only one, or the one
    /// named `http`.
    pub fn http(path: impl Into<String>) -> Self {
        Self::Probe(Probe::http(path))
    }

    /// A connection is accepted. The port is the only one, or the one named `tcp`.
    pub fn tcp() -> Self {
        Self::Probe(Probe::tcp())
    }

    /// `grpc.health.v1` answers SERVING for the server as a whole. The port is the only one, or the
    /// one named `grpc`.
    pub fn grpc() -> Self {
        Self::Probe(Probe::grpc(""))
    }

    /// This command exits with status 0 ([`ProbeKind::Exec`]).
    pub fn exec(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Probe(Probe::exec(command))
    }

    /// A line of stdout or stderr matches this regular expression.
    pub fn line(pattern: impl Into<String>) -> Self {
        Self::Line(pattern.into())
    }
}

impl Probe {
    /// GET of this path.
    pub fn http(path: impl Into<String>) -> Self {
        Self::new(ProbeKind::Http(path.into()))
    }

    /// A connection.
    pub fn tcp() -> Self {
        Self::new(ProbeKind::Tcp)
    }

    /// `grpc.health.v1.Health/Check` of this service; the empty name asks for the server as a
    /// whole.
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::new(ProbeKind::Grpc(service.into()))
    }

    /// This command, which has to exit with status 0 ([`ProbeKind::Exec`]).
    pub fn exec(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::new(ProbeKind::Exec(command.into_iter().map(Into::into).collect()))
    }

    /// Sends this header with an HTTP request; `Host` is one.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Asks the port with this name.
    #[must_use]
    pub fn on(mut self, port: impl Into<String>) -> Self {
        self.port = Some(port.into());
        self
    }
}

impl Health {
    /// [`Probe::http`] with the default interval, timeout and misses.
    pub fn http(path: impl Into<String>) -> Self {
        Self::new(Probe::http(path))
    }

    /// [`Probe::tcp`] with the default interval, timeout and misses.
    pub fn tcp() -> Self {
        Self::new(Probe::tcp())
    }

    /// [`Probe::grpc`] with the default interval, timeout and misses.
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::new(Probe::grpc(service))
    }

    /// [`Probe::exec`] with the default interval, timeout and misses.
    pub fn exec(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::new(Probe::exec(command))
    }

    settings! {
        /// From the end of one probe to the start of the next. Default 2 s; zero is refused.
        every: Duration => every;
        /// How long one probe may take. Default 10 s; zero is refused.
        timeout: Duration => timeout;
        /// So many failed probes in a row make the worker unhealthy. Default 3; zero is refused.
        misses: u32 => misses;
    }
}

impl Port {
    /// The first free one of these.
    pub const fn range(ports: RangeInclusive<u16>) -> Self {
        Self::Range(*ports.start(), *ports.end())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{READY_AFTER, WorkerSpec};
    use super::*;

    #[test]
    fn a_worker_without_a_sign_has_a_time_to_live() {
        let after = |ready: Option<Ready>, start_timeout| {
            let mut worker = WorkerSpec::new(["x"]);
            (worker.ready, worker.start_timeout) = (ready, start_timeout);
            worker.ready_after()
        };
        let (second, none) = (Duration::from_secs(1), Duration::ZERO);
        assert_eq!(after(None, second), Some(READY_AFTER));
        assert_eq!(after(None, none), Some(READY_AFTER));
        // It is less than the start may take.
        let short = Duration::from_millis(50);
        assert_eq!(after(None, short), Some(short / 2));
        assert_eq!(after(Some(Ready::After(none)), second), Some(none));
        assert_eq!(after(Some(Ready::After(second)), short), Some(second));
        assert_eq!(after(Some(Ready::tcp()), second), None);
    }

    #[test]
    fn setters_set_what_they_name() {
        let spec = PoolSpec::new("web", ["server", "{port}"])
            .workers(4)
            .restart(Restart::Transient)
            .port(Port::range(7000..=7099))
            .ready(Ready::http("/healthz"))
            .health(Health::tcp().every(Duration::from_secs(1)).misses(9))
            .stop(StopSpec::term(Duration::from_secs(7)))
            .host_death(StopSpec::kill())
            .env("A", "1");
        assert_eq!(spec.problems(), []);
        assert_eq!((spec.workers, spec.restart), (4, Restart::Transient));
        let worker = &spec.worker;
        assert_eq!(worker.ports, Ports::One(Port::Range(7000, 7099)));
        assert_eq!(worker.ready, Some(Ready::Probe(Probe::http("/healthz"))));
        let health = worker.health.as_ref().unwrap();
        assert_eq!((health.every, health.misses), (Duration::from_secs(1), 9));
        assert_eq!(worker.stop.grace, Duration::from_secs(7));
        assert_eq!(worker.host_death, WorkerSpec::new(["x"]).host_death);
        assert_eq!(worker.env["A"], "1");
        assert_eq!(Probe::tcp().on("metrics").port.as_deref(), Some("metrics"));
        let output = OutputSpec::default().ring(2048).log(false);
        assert_eq!((output.ring, output.log), (2048, false));
    }
}
