//! What can't be meant: the same rules for the TOML file and for the builder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Mode, PoolSpec, Port, Ports, Probe, ProbeKind, Ready, WorkerSpec};

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
        found.require(is_pool_name(&self.name), "name", || {
            format!(
                "{:?} is not a pool's name: letters, digits, '-', '_' and '.' are allowed, at most {MAX_NAME} of them",
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
        for (_, port) in self.worker.ports.iter() {
            if let Some(message) = too_few(self.workers, port) {
                found.add("workers", message);
            }
        }
        self.worker.problems_into(&mut found);
        found.0
    }
}

impl PoolSpec {
    /// What can be meant, but hardly is: it is said, and nothing is refused.
    pub fn doubts(&self) -> Vec<SpecProblem> {
        let mut found = Problems(Vec::new());
        for placeholder in self.worker.unknown_placeholders() {
            found.add(
                "command",
                format!("{placeholder} is no port that is known when the worker starts, and stays as it is"),
            );
        }
        found.0
    }

    /// A port that workers of both pools are to have, which can't be: [`PoolSpec::problems`] of two in one instance.
    pub fn shared_port(&self, other: &Self) -> Option<u16> {
        let (mine, theirs) = (&self.worker, &other.worker);
        let (here, there) = (mine.address, theirs.address);
        let meet = here == there || is_among(here, there) || is_among(there, here);
        if !meet || self.workers == 0 || other.workers == 0 {
            return None;
        }
        mine.ports.iter().find_map(|(_, port)| match port {
            Port::Fixed(number) if theirs.ports.iter().any(|(_, their)| their == port) => Some(number),
            _ => None,
        })
    }
}

/// Whether who listens at `all` has the ports of `address`, too: `0.0.0.0` is every IPv4 address, `::` every one (ipv6(7)).
fn is_among(address: IpAddr, all: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || address.is_ipv4())
}

/// The longest name of a pool. It becomes a part of file names.
const MAX_NAME: usize = 64;

fn is_pool_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

/// Workers do not share a port: who comes late finds it in use.
fn too_few(workers: u32, port: Port) -> Option<String> {
    let (room, found) = match port {
        Port::Fixed(number) => (1, number.to_string()),
        Port::Range(first, last) if first <= last => (u32::from(last - first) + 1, format!("\"{first}-{last}\"")),
        Port::Range(..) | Port::Any | Port::Reported | Port::Listen => return None,
    };
    (workers > room).then(|| {
        format!(
            "{workers} workers need a port each, and {found} is enough for {room}: use a larger range, \"any\", or fewer workers"
        )
    })
}

struct Problems(Vec<SpecProblem>);

impl Problems {
    fn require(&mut self, holds: bool, key: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.add(key, message());
        }
    }

    fn add(&mut self, key: &'static str, message: String) {
        self.0.push(SpecProblem { key, message });
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
        for (_, port) in self.ports.iter() {
            self.check_port(port, found);
        }
        if let Ports::Named(ports) = &self.ports {
            check_names(ports, found);
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

    fn check_port(&self, port: Port, found: &mut Problems) {
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
            let blank = path.chars().any(|c| c.is_whitespace() || c.is_control());
            found.require(!blank, key, || {
                format!("{path:?} has a character that no request can hold: write it as %20 and the like")
            });
        }
    }
}

/// Names that can be told apart in `PORT_NAME`, and ports that can be had.
fn check_names(ports: &BTreeMap<String, Port>, found: &mut Problems) {
    let mut variables = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for (name, port) in ports {
        let named_ok = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        found.require(named_ok, "ports", || {
            format!("{name:?} is not a port's name: letters, digits and '_' are allowed")
        });
        let variable = name.to_ascii_uppercase();
        if let Some(twin) = variables.insert(variable.clone(), name) {
            found.add(
                "ports",
                format!("{twin:?} and {name:?} are one variable, PORT_{variable}"),
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
mod tests {
    use super::super::Health;
    use super::*;

    fn spec() -> PoolSpec {
        PoolSpec::new("web", ["python3", "-m", "http.server", "{port}"])
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
    fn a_path_is_one_that_can_be_asked_for() {
        let problems = |path: &str| {
            let mut pool = spec();
            pool.worker.ports = Ports::One(Port::Any);
            let kind = ProbeKind::Http(path.to_owned());
            pool.worker.ready = Some(Ready::Probe(Probe { kind, port: None }));
            pool.problems().len()
        };
        for (path, expected) in [
            ("/", 0),
            ("/healthz?a=%20b", 0),
            ("healthz", 1),
            ("/a b", 1),
            ("/a\r\nX: y", 1),
        ] {
            assert_eq!(problems(path), expected, "{path:?}");
        }
    }

    #[test]
    fn ports_have_names_and_numbers_of_their_own() {
        let with = |ports: &[(&str, Port)]| {
            let mut pool = spec();
            pool.worker.ports = Ports::Named(ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect());
            pool.problems()
                .into_iter()
                .map(|problem| problem.message)
                .collect::<Vec<_>>()
        };
        let no_problem: [&str; 0] = [];
        assert_eq!(
            with(&[("http", Port::Fixed(80)), ("metrics", Port::Fixed(81))]),
            no_problem
        );
        let twins = with(&[("a", Port::Fixed(80)), ("b", Port::Fixed(80))]);
        assert_eq!(twins, ["\"a\" and \"b\" are both 80"]);
        let twins = with(&[("HTTP", Port::Any), ("http", Port::Any)]);
        assert_eq!(twins, ["\"HTTP\" and \"http\" are one variable, PORT_HTTP"]);
        assert_eq!(with(&[("", Port::Any)]).len(), 1);
    }

    #[test]
    fn what_is_hardly_meant_is_doubted() {
        let doubts = |workers, ports, command: &str| {
            let mut pool = PoolSpec::new("web", ["x", command]);
            pool.workers = workers;
            pool.worker.ports = ports;
            assert_eq!(pool.problems(), []);
            pool.doubts().into_iter().map(|doubt| doubt.message).collect::<Vec<_>>()
        };
        let nothing: [&str; 0] = [];
        let one = Ports::One;
        let named = |port| Ports::Named([("http".to_owned(), Port::Any), ("metrics".to_owned(), port)].into());
        assert_eq!(
            doubts(1, one(Port::Fixed(7001)), "{port} {x} {portal} ${PORT}"),
            nothing
        );
        assert_eq!(doubts(3, one(Port::Range(7000, 7002)), ""), nothing);
        assert_eq!(doubts(9, named(Port::Listen), "{port.http}{port.metrics}"), nothing);
        assert!(doubts(1, Ports::None, "--port={port}")[0].starts_with("{port} is no port"));
        assert!(doubts(1, named(Port::Any), "{port.htp}")[0].starts_with("{port.htp} is no port"));
    }

    #[test]
    fn more_workers_than_ports_can_not_work() {
        let problems = |workers, ports| {
            let mut pool = spec();
            pool.workers = workers;
            pool.worker.ports = ports;
            pool.problems()
        };
        let named = |port| Ports::Named([("http".to_owned(), Port::Any), ("metrics".to_owned(), port)].into());
        assert_eq!(problems(1, Ports::One(Port::Fixed(7001))), []);
        assert_eq!(problems(3, Ports::One(Port::Range(7000, 7002))), []);
        assert_eq!(problems(9, named(Port::Any)), []);
        let few = problems(2, named(Port::Fixed(7001)));
        assert_eq!(few[0].key, "workers");
        assert!(
            few[0]
                .message
                .starts_with("2 workers need a port each, and 7001 is enough for 1"),
            "{few:?}"
        );
        let few = problems(4, Ports::One(Port::Range(7000, 7002)));
        assert!(few[0].message.contains("\"7000-7002\" is enough for 3"), "{few:?}");
    }

    #[test]
    fn a_port_of_two_pools_is_found() {
        let on = |address: &str, port| {
            let mut pool = spec();
            pool.worker.address = address.parse().unwrap();
            pool.worker.ports = Ports::Named([("http".into(), Port::Any), ("metrics".into(), port)].into());
            pool
        };
        let here = on("127.0.0.1", Port::Fixed(9100));
        assert_eq!(here.shared_port(&here), Some(9100));
        assert_eq!(here.shared_port(&on("0.0.0.0", Port::Fixed(9100))), Some(9100));
        assert_eq!(here.shared_port(&on("127.0.0.2", Port::Fixed(9100))), None);
        assert_eq!(here.shared_port(&on("127.0.0.1", Port::Fixed(9101))), None);
        assert_eq!(here.shared_port(&on("127.0.0.1", Port::Any)), None);
        // All addresses are those of a family; only `::` stands for both.
        let shared = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|address| on(address, Port::Fixed(80)));
            assert_eq!(one.shared_port(&other), other.shared_port(&one));
            one.shared_port(&other).is_some()
        };
        for meet in [
            ["::", "127.0.0.1"],
            ["::", "0.0.0.0"],
            ["::", "::1"],
            ["0.0.0.0", "0.0.0.0"],
        ] {
            assert!(shared(meet[0], meet[1]), "{meet:?}");
        }
        for apart in [["0.0.0.0", "::1"], ["127.0.0.1", "::1"]] {
            assert!(!shared(apart[0], apart[1]), "{apart:?}");
        }
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
