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

    /// The command with its placeholders replaced by what `value` returns for them; those for which
    /// it returns `None`, and other braces, stay.
    pub fn expand_command(&self, value: impl Fn(Placeholder<'_>) -> Option<String>) -> Vec<String> {
        self.command.iter().map(|part| expand(part, &value)).collect()
    }

    /// The placeholders that stay in the command, because nothing of that name is known at the
    /// spawn.
    pub(super) fn unknown_placeholders(&self) -> Vec<String> {
        let known = |placeholder: Placeholder<'_>| {
            self.ports.iter().any(|(own, port)| match placeholder {
                Placeholder::Port(name) => own == name && port.is_tcp() && port != Port::Reported,
                Placeholder::Socket(name) => own == name && port == Port::Unix,
            })
        };
        let mut unknown = Vec::new();
        for part in &self.command {
            for (at, _) in part.match_indices('{') {
                match Placeholder::at_start(&part[at..]) {
                    Some((placeholder, len)) if !known(placeholder) => unknown.push(part[at..at + len].to_owned()),
                    _ => {}
                }
            }
        }
        unknown
    }
}

/// A placeholder in a command. Names are those of ports; the unnamed one is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder<'a> {
    /// `{port}` or `{port.NAME}`: the number of a TCP port.
    Port(&'a str),
    /// `{socket}` or `{socket.NAME}`: the path of a Unix socket.
    Socket(&'a str),
}

impl<'a> Placeholder<'a> {
    /// The placeholder at the start of `text`, and its length.
    fn at_start(text: &'a str) -> Option<(Self, usize)> {
        let end = text.find('}')?;
        let (kind, name) = match text.get(1..end)?.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (&text[1..end], ""),
        };
        let placeholder = match kind {
            "port" => Self::Port(name),
            "socket" => Self::Socket(name),
            _ => return None,
        };
        Some((placeholder, end + 1))
    }
}

fn expand(text: &str, value: &impl Fn(Placeholder<'_>) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        match Placeholder::at_start(from).and_then(|(placeholder, len)| Some((value(placeholder)?, len))) {
            Some((value, len)) => {
                out.push_str(&value);
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
            "unix:{socket}",
            "{socket.a}{socket.}",
            "{",
        ]);
        worker.ports = Ports::One(Port::Any);
        let value = |placeholder: Placeholder<'_>| {
            let value = match placeholder {
                Placeholder::Port("") => "80",
                Placeholder::Port("http") => "8080",
                Placeholder::Socket("") => "/run/x.sock",
                Placeholder::Socket("a") => "{port}",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let expected = [
            "80",
            "8080:80",
            "{x}",
            "{port.none}",
            "{80}",
            "{portal}",
            "unix:/run/x.sock",
            "{port}{socket.}",
            "{",
        ];
        assert_eq!(worker.expand_command(value), expected);
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
