//! The worker's environment: the host's, without what describes the host, with what describes the
//! worker.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use ostler_core::ids::RunId;
use ostler_core::spec::WorkerSpec;
use ostler_os::machine::is_secure_execution;

use super::super::incarnation::port_variable;
use crate::status::{PortMap, SocketMap};

/// What a worker's environment says beside its specification.
#[derive(Debug, Default)]
pub(super) struct Offers<'a> {
    pub(super) ports: PortMap,
    pub(super) sockets: SocketMap,
    /// The names of the listening sockets that are passed, in the order of their descriptors; the
    /// unnamed one is empty.
    pub(super) listeners: Vec<String>,
    pub(super) notify_socket: Option<OsString>,
    pub(super) ready_file: Option<&'a Path>,
    pub(super) watchdog: Option<Duration>,
    /// W3C `traceparent` and `tracestate` of the trace that starts it.
    pub(super) trace: Option<(String, Option<String>)>,
}

/// The child overwrites this with its own pid, which is not known before the fork.
pub(super) const LISTEN_PID: &str = "LISTEN_PID";

/// Variables of the host that must not reach a worker: they describe the host to its own manager
/// (`sd_notify(3)`, `sd_listen_fds(3)`, systemd.exec(5), or another Ostler), or its place in a
/// trace. Everything that Ostler sets for a worker or its probe is among them, except for the
/// marker: a process of a worker's worker belongs to both runs. What a user sets for Ostler itself,
/// such as `OSTLER_LOG`, is not.
pub(super) fn is_for_the_host_alone(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let names = [
        NOTIFY_SOCKET,
        "JOURNAL_STREAM",
        "PORT",
        READY_FILE,
        SOCKET,
        TRACE_PARENT,
        TRACE_STATE,
        WORKER_PID,
    ];
    let prefixes = ["LISTEN_", "WATCHDOG_", "PORT_", "OSTLER_SOCKET_"];
    let mut names = names.iter().chain(&WORKER_PROTOCOL);
    names.any(|of| name == of.as_bytes()) || prefixes.iter().any(|of| name.starts_with(of.as_bytes()))
}

/// How requests reach a worker (docs/worker-protocol.md). A preset sets them in the specification;
/// the worker that is meant may be a host itself, and its workers are called in another way.
const WORKER_PROTOCOL: [&str; 5] = [
    "OSTLER_TRANSPORT",
    "OSTLER_FRAMING",
    "OSTLER_CONCURRENCY",
    "OSTLER_CORE",
    "OSTLER_GRACE_MS",
];

/// The variable by which a probe's command learns which process it examines.
pub(super) const WORKER_PID: &str = "OSTLER_WORKER_PID";

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const READY_FILE: &str = "OSTLER_READY_FILE";
const SOCKET: &str = "OSTLER_SOCKET";

/// The place in a trace, as OpenTelemetry passes it by the environment.
const TRACE_PARENT: &str = "TRACEPARENT";
const TRACE_STATE: &str = "TRACESTATE";

/// The environment variable that carries the path of the Unix socket of this name.
fn socket_variable(name: &str) -> String {
    match name {
        "" => SOCKET.to_owned(),
        name => format!("{SOCKET}_{}", name.to_ascii_uppercase()),
    }
}

/// The host's environment. In secure execution (AT_SECURE of getauxval(3)) without the PATH: the
/// user who chose it must not choose what is executed, and the search is that of execvp(3) without
/// one.
pub(super) fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    trusted(std::env::vars_os(), is_secure_execution())
}

fn trusted(
    all: impl Iterator<Item = (OsString, OsString)>,
    is_secure_execution: bool,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(move |(name, _)| !is_secure_execution || name != "PATH")
}

/// The environment of one incarnation, sorted by name; `marker` is its marker's value. Later layers
/// win: inherited, the specification's, Ostler's own.
pub(super) fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    spec: &WorkerSpec,
    run: RunId,
    marker: String,
    offers: &Offers<'_>,
) -> Vec<(OsString, OsString)> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    if spec.inherit_env {
        env.extend(inherited.filter(|(name, _)| !is_for_the_host_alone(name)));
    }
    // Before the specification's, which may name another trace.
    if let Some((parent, state)) = &offers.trace {
        env.insert(TRACE_PARENT.into(), parent.into());
        env.extend(state.iter().map(|state| (TRACE_STATE.into(), state.into())));
    }
    env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    env.insert(run.marker_name().into(), marker.into());
    for (name, port) in &offers.ports {
        env.insert(port_variable(name).into(), port.to_string().into());
    }
    for (name, path) in &offers.sockets {
        env.insert(socket_variable(name).into(), path.into());
    }
    if let Some(socket) = &offers.notify_socket {
        env.insert(NOTIFY_SOCKET.into(), socket.clone());
    }
    if let Some(file) = offers.ready_file {
        env.insert(READY_FILE.into(), file.into());
    }
    if let Some(interval) = offers.watchdog {
        env.insert("WATCHDOG_USEC".into(), interval.as_micros().to_string().into());
    }
    if !offers.listeners.is_empty() {
        env.insert("LISTEN_FDS".into(), offers.listeners.len().to_string().into());
        env.insert(LISTEN_PID.into(), "0".into());
        let names: Vec<&str> = offers
            .listeners
            .iter()
            .map(|name| if name.is_empty() { "port" } else { name })
            .collect();
        env.insert("LISTEN_FDNAMES".into(), names.join(":").into());
    }
    env.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(spec: &WorkerSpec, host: &[(&str, &str)], offers: &Offers<'_>) -> BTreeMap<String, String> {
        let inherited = host
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let run = RunId::from_u128(7);
        environment(inherited, spec, run, "p/1#3".to_owned(), offers)
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect()
    }

    #[test]
    fn the_path_is_not_passed_on_in_secure_execution() {
        let host = || [("PATH", "/theirs"), ("HOME", "/")].map(|(name, value)| (name.into(), value.into()));
        let names = |is_secure| trusted(host().into_iter(), is_secure).map(|(name, _)| name);
        assert_eq!(names(false).collect::<Vec<OsString>>(), ["PATH", "HOME"]);
        assert_eq!(names(true).collect::<Vec<OsString>>(), ["HOME"]);
    }

    #[test]
    fn what_describes_the_host_does_not_reach_the_worker() {
        let host = [
            ("NOTIFY_SOCKET", "x"),
            ("LISTEN_FDS", "1"),
            ("LISTEN_PID", "2"),
            ("WATCHDOG_USEC", "3"),
            ("JOURNAL_STREAM", "4"),
            ("PATH", "/bin"),
        ];
        let env = build(&WorkerSpec::new(["x"]), &host, &Offers::default());
        let names: Vec<_> = env.keys().map(String::as_str).collect();
        assert_eq!(names, ["OSTLER_RUN_00000000000000000000000000000007", "PATH"]);
        assert_eq!(env["OSTLER_RUN_00000000000000000000000000000007"], "p/1#3");
    }

    /// An Ostler that is itself another Ostler's worker: its workers must not report ready in its
    /// place, or take its port for theirs.
    #[test]
    fn nothing_that_is_set_for_a_worker_reaches_its_own_workers() {
        let mut spec = WorkerSpec::new(["x"]);
        spec.inherit_env = false;
        let offers = Offers {
            ports: [(String::new(), 80), ("http".to_owned(), 81)].into(),
            sockets: [(String::new(), "/s".into()), ("admin".to_owned(), "/a".into())].into(),
            listeners: vec![String::new()],
            notify_socket: Some("/n".into()),
            ready_file: Some(Path::new("/r")),
            watchdog: Some(Duration::from_secs(2)),
            trace: Some(("00-start".into(), Some("start=1".into()))),
        };
        let outer = build(&spec, &[], &offers);
        let host: Vec<(&str, &str)> = outer.iter().map(|(name, value)| (&**name, &**value)).collect();
        let inner = build(&WorkerSpec::new(["x"]), &host, &Offers::default());
        let names: Vec<&str> = inner.keys().map(String::as_str).collect();
        assert_eq!(names, ["OSTLER_RUN_00000000000000000000000000000007"]);
    }

    /// The page's table is also what a preset may set, which the presets' tests see to.
    #[test]
    fn no_variable_of_the_worker_protocol_reaches_a_workers_own_workers() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/worker-protocol.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let mut names: Vec<&str> = rows
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("OSTLER_"))
            .collect();
        assert!(names.len() >= 6, "{names:?}");
        names.push(WORKER_PID);
        for name in names {
            assert!(is_for_the_host_alone(OsStr::new(name)), "{name}");
            let mut spec = WorkerSpec::new(["x"]);
            spec.env.insert(name.to_owned(), "set".to_owned());
            assert_eq!(build(&spec, &[(name, "host")], &Offers::default())[name], "set");
        }
        for of_users in ["OSTLER_LOG", "OSTLER_GUARDIAN", "OSTLER_THREADS", "OSTLER_MINE"] {
            assert!(!is_for_the_host_alone(OsStr::new(of_users)), "{of_users}");
        }
    }

    #[test]
    fn the_specification_wins_over_what_is_inherited() {
        let mut spec = WorkerSpec::new(["x"]);
        spec.env.insert("A".into(), "spec".into());
        assert_eq!(build(&spec, &[("A", "host")], &Offers::default())["A"], "spec");
        spec.inherit_env = false;
        assert_eq!(build(&spec, &[("B", "host")], &Offers::default()).get("B"), None);
    }

    #[test]
    fn the_trace_is_that_of_the_start_unless_the_specification_names_another() {
        let host = [("TRACEPARENT", "00-host"), ("TRACESTATE", "host=1")];
        let mut spec = WorkerSpec::new(["x"]);
        let none = build(&spec, &host, &Offers::default());
        assert!(!none.contains_key("TRACEPARENT") && !none.contains_key("TRACESTATE"));
        let offers = Offers {
            trace: Some(("00-start".into(), Some("start=1".into()))),
            ..Offers::default()
        };
        let env = build(&spec, &host, &offers);
        assert_eq!((&*env["TRACEPARENT"], &*env["TRACESTATE"]), ("00-start", "start=1"));
        spec.env.insert("TRACEPARENT".into(), "00-user".into());
        assert_eq!(build(&spec, &host, &offers)["TRACEPARENT"], "00-user");
    }

    #[test]
    fn an_outer_run_keeps_its_marker() {
        let outer = RunId::from_u128(1).marker_name();
        let env = build(&WorkerSpec::new(["x"]), &[(&outer, "q/0#1")], &Offers::default());
        assert_eq!(env[&outer], "q/0#1");
    }

    #[test]
    fn ports_and_sockets_are_set() {
        let offers = Offers {
            ports: [(String::new(), 80), ("http".to_owned(), 81)].into(),
            sockets: [(String::new(), "/s".into()), ("admin".to_owned(), "/a".into())].into(),
            listeners: vec![String::new(), "http".into()],
            notify_socket: Some("/n".into()),
            ready_file: Some(Path::new("/r")),
            watchdog: Some(Duration::from_secs(2)),
            trace: None,
        };
        let env = build(&WorkerSpec::new(["x"]), &[], &offers);
        let got = |name: &str| env[name].as_str();
        assert_eq!(
            (got("PORT"), got("PORT_HTTP"), got("LISTEN_FDS"), got("LISTEN_FDNAMES")),
            ("80", "81", "2", "port:http")
        );
        assert_eq!(
            (got("NOTIFY_SOCKET"), got("OSTLER_READY_FILE"), got("WATCHDOG_USEC")),
            ("/n", "/r", "2000000")
        );
        assert_eq!((got("OSTLER_SOCKET"), got("OSTLER_SOCKET_ADMIN")), ("/s", "/a"));
    }
}
