//! What a specification leaves open until an incarnation starts: `{port}`, `{index}` and others in
//! the command, the environment and the working directory.

use std::collections::BTreeSet;

use super::{Port, ProbeKind, Ready, WorkerSpec};

/// What a process has its own value for. The names are those of ports; the unnamed one is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placeholder<'a> {
    /// `{port}` or `{port.NAME}`: the number of a TCP port.
    Port(&'a str),
    /// `{socket}` or `{socket.NAME}`: the path of a Unix socket.
    Socket(&'a str),
    /// `{device}`: one of the pool's devices.
    Device,
    /// `{index}`: the worker's index in its pool, from 0.
    Index,
    /// `{incarnation}`: the number of the worker's process, from 1.
    Incarnation,
    /// `{run}`: the id of the run, 32 hexadecimal digits.
    Run,
}

impl<'a> Placeholder<'a> {
    /// The placeholder at the start of `text`, and its length.
    fn at_start(text: &'a str) -> Option<(Self, usize)> {
        let end = text.find('}')?;
        let inner = text.get(1..end)?;
        let placeholder = match (inner, inner.split_once('.')) {
            ("port", _) => Self::Port(""),
            ("socket", _) => Self::Socket(""),
            ("device", _) => Self::Device,
            ("index", _) => Self::Index,
            ("incarnation", _) => Self::Incarnation,
            ("run", _) => Self::Run,
            (_, Some(("port", name))) if !name.is_empty() => Self::Port(name),
            (_, Some(("socket", name))) if !name.is_empty() => Self::Socket(name),
            _ => return None,
        };
        Some((placeholder, end + 1))
    }
}

impl WorkerSpec {
    /// The specification with each placeholder replaced for which `value` returns something, in the
    /// command, in the values of the environment and in the working directory. The others, other
    /// braces, and the commands of probes stay.
    #[must_use]
    pub fn expanded(&self, value: impl Fn(Placeholder<'_>) -> Option<String>) -> Self {
        let replaced = |text: &str| expand(text, &value);
        let mut spec = self.clone();
        spec.command.iter_mut().for_each(|part| *part = replaced(part));
        spec.env.values_mut().for_each(|part| *part = replaced(part));
        // A path that is not UTF-8 stays as it is.
        if let Some(text) = self.cwd.as_ref().and_then(|cwd| cwd.to_str()) {
            spec.cwd = Some(replaced(text).into());
        }
        spec
    }

    /// The commands by which it is probed, each with its key: `ready` or `health`.
    pub fn probe_commands(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let ready = match &self.ready {
            Some(Ready::Probe(probe)) => Some(("ready", probe)),
            _ => None,
        };
        let health = self.health.as_ref().map(|health| ("health", &health.probe));
        let probes = [ready, health].into_iter().flatten();
        probes.filter_map(|(key, probe)| match &probe.kind {
            ProbeKind::Exec(command) => Some((key, command.as_slice())),
            ProbeKind::Http(_) | ProbeKind::Tcp | ProbeKind::Grpc(_) => None,
        })
    }

    /// The placeholders that stay, because nothing of that name is known when they are replaced,
    /// each with the key that it is under.
    pub(super) fn unknown_placeholders(&self) -> BTreeSet<(&'static str, String)> {
        let cwd = self.cwd.as_ref().and_then(|cwd| cwd.to_str());
        let own = self.command.iter().chain(self.env.values()).map(String::as_str);
        let own = own.chain(cwd).map(|text| ("command", text));
        let probes = self.probe_commands();
        let probes = probes.flat_map(|(key, command)| command.iter().map(move |text| (key, text.as_str())));
        let found = own.chain(probes).flat_map(|(key, text)| {
            let at = text.match_indices('{').map(|(at, _)| &text[at..]);
            at.map(move |from| (key, from))
        });
        let placeholders = found.filter_map(|(key, from)| Some((key, Placeholder::at_start(from)?, from)));
        let unknown = placeholders.filter(|(key, (placeholder, _), _)| !self.knows(key, *placeholder));
        unknown
            .map(|(key, (_, len), from)| (key, from[..len].to_owned()))
            .collect()
    }

    /// A port that the worker reports is known once it is ready.
    fn knows(&self, key: &str, placeholder: Placeholder<'_>) -> bool {
        let has = |name: &str, kind: &dyn Fn(Port) -> bool| {
            let mut ports = self.ports.iter();
            ports.any(|(own, port)| own == name && kind(port))
        };
        match placeholder {
            Placeholder::Port(name) => has(name, &|port| {
                port.is_tcp() && (port != Port::Reported || key == "health")
            }),
            Placeholder::Socket(name) => has(name, &|port| port == Port::Unix),
            Placeholder::Device => !self.devices.is_empty(),
            Placeholder::Index | Placeholder::Incarnation | Placeholder::Run => true,
        }
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
    use super::super::{Health, Ports};
    use super::*;

    fn value(placeholder: Placeholder<'_>) -> Option<String> {
        let value = match placeholder {
            Placeholder::Port("") => "80",
            Placeholder::Port("http") => "8080",
            Placeholder::Socket("") => "/run/x.sock",
            // A value is not expanded again.
            Placeholder::Socket("a") => "{port}",
            Placeholder::Index => "3",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        for (text, expected) in [
            ("{port}", "80"),
            ("{port.http}:{port}", "8080:80"),
            ("unix:{socket}", "unix:/run/x.sock"),
            ("{socket.a}{socket.}", "{port}{socket.}"),
            ("worker-{index}", "worker-3"),
            ("{run}", "{run}"),
            ("{x}", "{x}"),
            ("{port.none}", "{port.none}"),
            ("{{port}}", "{80}"),
            ("{portal}", "{portal}"),
            ("{index.a}", "{index.a}"),
            ("{\"a\": {index}}", "{\"a\": 3}"),
            ("${HOME} {", "${HOME} {"),
            ("ä{index}ö}", "ä3ö}"),
        ] {
            assert_eq!(expand(text, &value), expected);
        }
    }

    #[test]
    fn devices_are_spread_evenly_by_the_index_alone() {
        let mut spec = WorkerSpec::new(["serve"]);
        assert_eq!(spec.device(0), None);
        spec.env.insert("GPU".into(), "{device}".into());
        assert_eq!(spec.unknown_placeholders().len(), 1);
        spec.devices = vec!["0".into(), "1".into()];
        assert_eq!(spec.unknown_placeholders().len(), 0);
        let devices: Vec<_> = (0..5).map(|index| spec.device(index)).collect();
        assert_eq!(devices, [Some("0"), Some("1"), Some("0"), Some("1"), Some("0")]);
    }

    #[test]
    fn command_environment_and_directory_are_expanded() {
        let mut spec = WorkerSpec::new(["serve", "--port={port}"]);
        spec.env.insert("{index}".into(), "{index}".into());
        spec.cwd = Some("/data/{index}".into());
        let expanded = spec.expanded(value);
        assert_eq!(expanded.command, ["serve", "--port=80"]);
        assert_eq!(expanded.env["{index}"], "3");
        assert_eq!(expanded.cwd, Some("/data/3".into()));
    }

    #[test]
    fn what_a_probe_can_not_know_is_named_with_its_key() {
        let mut spec = WorkerSpec::new(["serve", "{port}"]);
        spec.ports = Ports::One(Port::Reported);
        spec.ready = Some(Ready::exec(["is-up", "{port}", "{index}"]));
        spec.health = Some(Health::exec(["is-well", "{port}", "{socket}"]));
        let unknown = spec.unknown_placeholders();
        let expected = [("command", "{port}"), ("ready", "{port}"), ("health", "{socket}")];
        assert_eq!(unknown, expected.map(|(key, text)| (key, text.to_owned())).into());
    }
}
