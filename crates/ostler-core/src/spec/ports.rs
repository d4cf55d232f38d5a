//! A worker's ports, and the probes that refer to them.

use std::collections::BTreeMap;

use super::{Probe, ProbeKind, WorkerSpec};

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
