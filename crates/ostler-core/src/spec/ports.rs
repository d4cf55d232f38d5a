//! A worker's ports, and what refers to them: probes and the command.

use std::collections::BTreeMap;

use super::{Probe, ProbeKind, WorkerSpec};

/// How the worker gets a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl WorkerSpec {
    /// The name of the probe's port, empty for the unnamed one: the one that it names, else the
    /// only one, else the one with the protocol's name. `None` when there is no such port.
    pub fn probe_target(&self, probe: &Probe) -> Option<&str> {
        let sought = probe.port.as_deref().unwrap_or(match probe.kind {
            ProbeKind::Http(_) => "http",
            ProbeKind::Tcp => "tcp",
            ProbeKind::Grpc => "grpc",
        });
        let mut names = self.ports.iter().map(|(name, _)| name);
        let by_name = names.find(|name| *name == sought);
        let mut all = self.ports.iter().map(|(name, _)| name);
        match (by_name, all.next(), all.next()) {
            (Some(name), _, _) => Some(name),
            (None, Some(only), None) if probe.port.is_none() => Some(only),
            _ => None,
        }
    }

    /// The command with `{port}` and `{port.NAME}` replaced by the numbers that `port` returns;
    /// other braces stay.
    pub fn expand_command(&self, port: impl Fn(&str) -> Option<u16>) -> Vec<String> {
        self.command.iter().map(|part| expand(part, &port)).collect()
    }

    /// The placeholders that stay in the command, because no port of that name is known at the
    /// spawn.
    pub(super) fn unknown_placeholders(&self) -> Vec<String> {
        let known = |name: &str| {
            self.ports
                .iter()
                .any(|(own, port)| own == name && port != Port::Reported)
        };
        let mut unknown = Vec::new();
        for part in &self.command {
            for (at, _) in part.match_indices("{port") {
                match placeholder(&part[at..]) {
                    Some((name, len)) if !known(name) => unknown.push(part[at..at + len].to_owned()),
                    _ => {}
                }
            }
        }
        unknown
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
