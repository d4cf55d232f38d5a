//! A worker's ports, and the probes that refer to them.

use std::collections::BTreeMap;

use super::{PortOwner, Probe, ProbeKind, Ready, WorkerSpec};

/// How the worker gets a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Port {
    /// The host picks a free one. A restart tries the same one first.
    Any,
    /// This one.
    Fixed(u16),
    /// The first free one of these, both ends included. A restart tries the same one first.
    Range(u16, u16),
    /// The worker picks one, and reports it as `PORT=n` in a notify message or as the number in its
    /// ready file.
    Reported,
    /// The host binds and listens, and passes the socket as `LISTEN_FDS`; it stays bound between
    /// incarnations.
    Listen,
    /// No TCP port, but a Unix socket of the worker's own, in a directory that only this user can
    /// enter: `{socket}` and `OSTLER_SOCKET`. The path is the same for all incarnations of a
    /// worker, and shorter than 108 bytes.
    Unix,
}

impl Port {
    /// Whether it is a TCP port, not a Unix socket.
    pub const fn is_tcp(self) -> bool {
        !matches!(self, Self::Unix)
    }
}

/// The longest name of a Unix socket among several ports: it becomes part of a path.
pub(super) const LONGEST_SOCKET_NAME: usize = 32;

/// The ports of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ports {
    /// None.
    #[default]
    None,
    /// One without a name: `{port}` and `PORT`, or `{socket}` and `OSTLER_SOCKET`.
    One(Port),
    /// Several with names: `{port.NAME}` and `PORT_NAME`, or `{socket.NAME}` and
    /// `OSTLER_SOCKET_NAME`.
    Named(BTreeMap<String, Port>),
}

impl Ports {
    /// Every port with its name; that of [`Ports::One`] is empty.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Port)> {
        let (one, named) = match self {
            Self::None => (None, None),
            Self::One(port) => (Some(("", *port)), None),
            Self::Named(ports) => (None, Some(ports.iter().map(|(name, port)| (name.as_str(), *port)))),
        };
        one.into_iter().chain(named.into_iter().flatten())
    }
}

/// What a worker is reached by when no name is given: the one without a name, else the only one.
pub fn unnamed_or_only<V>(by_name: &BTreeMap<String, V>) -> Option<&V> {
    let only = || by_name.values().next().filter(|_| by_name.len() == 1);
    by_name.get("").or_else(only)
}

impl WorkerSpec {
    /// The name of the probe's port, empty for the unnamed one: the one that it names, else the
    /// only one, else the one with the protocol's name. `None` when there is no such port, and for
    /// a command, which asks no port.
    pub fn probe_target(&self, probe: &Probe) -> Option<&str> {
        let protocol = match probe.kind {
            ProbeKind::Http(_) => "http",
            ProbeKind::Tcp => "tcp",
            ProbeKind::Grpc(_) => "grpc",
            ProbeKind::Exec(_) => return None,
        };
        let sought = probe.port.as_deref().unwrap_or(protocol);
        let mut names = self.ports.iter().map(|(name, _)| name);
        let by_name = names.find(|name| *name == sought);
        let mut all = self.ports.iter().map(|(name, _)| name);
        match (by_name, all.next(), all.next()) {
            (Some(name), _, _) => Some(name),
            (None, Some(only), None) if probe.port.is_none() => Some(only),
            _ => None,
        }
    }

    /// Whether the port with this name may be anyone's, for good: Ostler does not choose its number
    /// ([`Port::Fixed`], [`Port::Reported`]), some probe asks it, and every one that does counts
    /// the answer of any process ([`PortOwner::Any`]). Such a port is neither reserved for the
    /// worker nor has to be free at its release: another daemon may have it before, during and
    /// after the run.
    pub fn is_anyones(&self, name: &str) -> bool {
        let mut ports = self.ports.iter();
        let is_chosen_elsewhere = ports.any(|(of, port)| of == name && matches!(port, Port::Fixed(_) | Port::Reported));
        let mut owners = self.probes_of(name).map(|probe| probe.owner).peekable();
        is_chosen_elsewhere && owners.peek().is_some() && owners.all(|owner| owner == PortOwner::Any)
    }

    /// The probes that ask the port with this name.
    fn probes_of(&self, name: &str) -> impl Iterator<Item = &Probe> {
        let ready = match &self.ready {
            Some(Ready::Probe(probe)) => Some(probe),
            _ => None,
        };
        let health = self.health.as_ref().map(|health| &health.probe);
        let asks = move |probe: &&Probe| self.probe_target(probe) == Some(name);
        ready.into_iter().chain(health).filter(asks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Health;

    #[test]
    fn without_a_name_it_is_the_unnamed_or_the_only_one() {
        let named = |names: &[&'static str]| names.iter().map(|name| (String::from(*name), *name)).collect();
        let found = |names| unnamed_or_only(&named(names)).copied();
        assert_eq!(
            [
                found(&[]),
                found(&["http"]),
                found(&["http", "metrics"]),
                found(&["", "http"])
            ],
            [None, Some("http"), None, Some("")]
        );
    }

    #[test]
    fn a_probe_finds_its_port() {
        let mut worker = WorkerSpec::new(["x"]);
        let probe = |port: Option<&str>| Probe {
            port: port.map(str::to_owned),
            ..Probe::new(ProbeKind::Http("/".into()))
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
    fn a_port_is_anyones_when_every_probe_that_asks_it_says_so() {
        let probe = |owner| Probe {
            owner,
            ..Probe::new(ProbeKind::Tcp)
        };
        let anyones = |port, ready, health: Option<PortOwner>| {
            let mut worker = WorkerSpec::new(["x"]);
            worker.ports = Ports::Named([("tcp".into(), port), ("metrics".into(), port)].into());
            worker.ready = ready;
            worker.health = health.map(|owner| Health::new(probe(owner)));
            assert!(!worker.is_anyones("metrics"), "no probe asks it");
            worker.is_anyones("tcp")
        };
        let ready = |owner| Some(Ready::Probe(probe(owner)));
        let (any, own) = (PortOwner::Any, PortOwner::Worker);
        for (ready, health, expected) in [
            (ready(any), None, true),
            (ready(any), Some(any), true),
            (ready(any), Some(own), false),
            (ready(own), Some(any), false),
            (ready(own), None, false),
            (Some(Ready::Notify), Some(any), true),
            (None, Some(own), false),
            (None, None, false),
        ] {
            let found = anyones(Port::Fixed(8080), ready.clone(), health);
            assert_eq!(found, expected, "{ready:?}, {health:?}");
        }
        assert!(anyones(Port::Reported, Some(Ready::File), Some(any)));
        // Ostler chooses or makes these.
        for port in [Port::Any, Port::Range(8080, 8080), Port::Listen, Port::Unix] {
            assert!(!anyones(port, ready(any), Some(any)), "{port:?}");
        }
    }
}
