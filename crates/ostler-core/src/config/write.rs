//! A pool as the table that reads back as the same.

mod serve;

use std::time::Duration;

use super::value::{Table, Value};
use super::values::{MODES, ON_GIVE_UPS, OWNERS, RESTARTS, STDINS, name_of};
use crate::spec::{Health, PoolSpec, Port, PortOwner, Ports, Probe, ProbeKind, Ready, StopSpec, WorkerSpec};
use crate::supervision::Backoff;

/// Every key of the pool, in the order in which people read them, with its value; `None`: what it
/// stands for is off, and the key is left out. A path that is not UTF-8 loses what is not.
pub fn entries(pool: &PoolSpec) -> Vec<(&'static str, Option<Value>)> {
    let mut entries = Entries(Vec::new());
    rules(&mut entries, pool);
    process(&mut entries, &pool.worker);
    life(&mut entries, &pool.worker);
    serve::entries(&mut entries, &pool.serve);
    entries.0
}

struct Entries(Vec<(&'static str, Option<Value>)>);

impl Entries {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push((key, Some(value.into())));
    }

    fn maybe(&mut self, key: &'static str, value: Option<Value>) {
        self.0.push((key, value));
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().collect())
}

fn duration(duration: Duration) -> Value {
    humantime::format_duration(duration).to_string().into()
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

fn rules(entries: &mut Entries, pool: &PoolSpec) {
    entries.set("workers", pool.workers);
    entries.set("min_workers", pool.min_workers);
    entries.set("max_starting", pool.max_starting);
    entries.set("restart", name_of(pool.restart, &RESTARTS));
    entries.set("intensity", pool.intensity);
    entries.set("period", duration(pool.period));
    entries.set("on_give_up", name_of(pool.on_give_up, &ON_GIVE_UPS));
    entries.maybe("backoff", pool.backoff.as_ref().map(backoff));
}

fn backoff(backoff: &Backoff) -> Value {
    table([
        ("first", duration(backoff.first)),
        ("max", duration(backoff.max)),
        ("jitter", backoff.jitter.into()),
    ])
}

fn process(entries: &mut Entries, worker: &WorkerSpec) {
    entries.set("command", worker.command.as_slice());
    let cwd = worker.cwd.as_ref();
    entries.maybe("cwd", cwd.map(|cwd| cwd.to_string_lossy().as_ref().into()));
    entries.set("env", &worker.env);
    entries.set("inherit_env", worker.inherit_env);
    match &worker.ports {
        Ports::None => entries.set("port", "none"),
        Ports::One(one) => entries.set("port", port(*one)),
        Ports::Named(named) => {
            let named: Table = named.iter().map(|(name, one)| (name.as_str(), port(*one))).collect();
            entries.set("ports", named);
        }
    }
    entries.set("address", worker.address.to_string());
    entries.set("stdin", name_of(worker.stdin, &STDINS));
    entries.set(
        "output",
        table([
            ("ring", size(worker.output.ring as u64).into()),
            ("log", worker.output.log.into()),
        ]),
    );
    entries.set("mode", name_of(worker.mode, &MODES));
}

fn port(port: Port) -> Value {
    match port {
        Port::Any => "any".into(),
        Port::Fixed(number) => number.into(),
        Port::Range(first, last) => format!("{first}-{last}").into(),
        Port::Reported => "reported".into(),
        Port::Listen => "listen".into(),
        Port::Unix => "unix".into(),
    }
}

fn life(entries: &mut Entries, worker: &WorkerSpec) {
    entries.set("min_uptime", duration(worker.min_uptime));
    entries.maybe("ready", worker.ready.as_ref().map(ready));
    entries.set("start_timeout", duration(worker.start_timeout));
    entries.maybe("health", worker.health.as_ref().map(health));
    entries.maybe("watchdog", worker.watchdog.map(duration));
    entries.set("stop", stop(worker.stop));
    entries.set("host_death", stop(worker.host_death));
    entries.set("release_timeout", duration(worker.release_timeout));
}

fn stop(stop: StopSpec) -> Value {
    table([("signal", stop.signal.name().into()), ("grace", duration(stop.grace))])
}

fn ready(ready: &Ready) -> Value {
    match ready {
        Ready::Notify => table([("notify", true.into())]),
        Ready::File => table([("file", true.into())]),
        Ready::Line(pattern) => table([("line", pattern.as_str().into())]),
        Ready::After(time) => table([("after", duration(*time))]),
        Ready::Probe(asked) => Value::Table(probe(asked).into_iter().collect()),
    }
}

fn probe(probe: &Probe) -> Vec<(&'static str, Value)> {
    let mut entries = vec![match &probe.kind {
        ProbeKind::Http(path) => ("http", path.as_str().into()),
        ProbeKind::Tcp => ("tcp", true.into()),
        ProbeKind::Grpc(service) if service.is_empty() => ("grpc", true.into()),
        ProbeKind::Grpc(service) => ("grpc", service.as_str().into()),
        ProbeKind::Exec(command) => ("exec", command.as_slice().into()),
    }];
    if let Some(port) = &probe.port {
        entries.push(("port", port.as_str().into()));
    }
    if !probe.headers.is_empty() {
        entries.push(("headers", (&probe.headers).into()));
    }
    if probe.owner != PortOwner::default() {
        entries.push(("owner", name_of(probe.owner, &OWNERS).into()));
    }
    entries
}

fn health(health: &Health) -> Value {
    let mut entries = probe(&health.probe);
    entries.push(("every", duration(health.every)));
    entries.push(("timeout", duration(health.timeout)));
    entries.push(("misses", health.misses.into()));
    Value::Table(entries.into_iter().collect())
}
