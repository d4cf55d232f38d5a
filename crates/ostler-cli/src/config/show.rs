//! The resolved specification as TOML, with every default written out. What it prints reads back as
//! the same.

mod serve;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ostler::otlp::Settings;
use ostler_core::spec::{
    Health, Mode, OnGiveUp, Placeholder, PoolSpec, Port, PortOwner, Ports, Probe, ProbeKind, READY_AFTER, Ready,
    StopSpec, WorkerSpec,
};
use ostler_core::supervision::Backoff;
use ostler_python::Python;
use toml::{Table, Value};

use super::{Config, values};

/// The file that says everything that `config` means.
pub(crate) fn show(config: &Config) -> String {
    let mut page = Page(String::new());
    page.header("app");
    page.set("name", config.app.name.as_str());
    match &config.app.state_dir {
        Some(dir) => page.set("state_dir", dir.to_string_lossy().as_ref()),
        None => page.remark(
            "state_dir",
            "$RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or the user's state directory",
        ),
    }
    page.set("store", config.app.store.name());
    page.set("audit", duration(config.app.audit));
    if let Some(telemetry) = &config.telemetry {
        page.0.push('\n');
        page.header("telemetry");
        show_telemetry(&mut page, telemetry);
    }
    for pool in &config.pools {
        page.0.push('\n');
        page.header(&format!("pool.{}", key(&pool.name)));
        show_rules(&mut page, pool);
        show_process(&mut page, &pool.worker, config.python.get(&pool.name));
        show_life(&mut page, &pool.worker);
        serve::show(&mut page, &pool.serve);
    }
    page.0
}

fn show_telemetry(page: &mut Page, settings: &Settings) {
    match &settings.endpoint {
        Some(endpoint) => page.set("otlp", endpoint.as_str()),
        None => page.remark("otlp", "$OTEL_EXPORTER_OTLP_ENDPOINT, else this machine"),
    }
    page.set("protocol", settings.protocol.name());
    page.set("headers", strings(&settings.headers));
    match settings.sampling {
        Some(part) => page.set("sampling", part),
        None => page.remark("sampling", "$OTEL_TRACES_SAMPLER, else all"),
    }
    match &settings.service_name {
        Some(name) => page.set("service_name", name.as_str()),
        None => page.remark("service_name", "$OTEL_SERVICE_NAME, else the app's name"),
    }
}

struct Page(String);

impl Page {
    fn header(&mut self, path: &str) {
        self.line(format_args!("[{path}]"));
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.line(format_args!("{name} = {}", value.into()));
    }

    /// A key that is not set, and what that means.
    fn remark(&mut self, name: &str, meaning: &str) {
        self.comment(&format!("{name}: {meaning}"));
    }

    fn comment(&mut self, text: &str) {
        self.line(format_args!("# {text}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes every write");
    }
}

/// A key, in quotes where it needs them.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        Value::from(name).to_string()
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(
        entries
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn strings(strings: &BTreeMap<String, String>) -> Table {
    let entry = |(name, value): (&String, &String)| (name.clone(), value.as_str().into());
    strings.iter().map(entry).collect()
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

fn show_rules(page: &mut Page, pool: &PoolSpec) {
    page.set("workers", pool.workers);
    page.set("min_workers", pool.min_workers);
    page.set("max_starting", pool.max_starting);
    page.set("restart", values::name_of(pool.restart, &values::RESTARTS));
    page.set("intensity", pool.intensity);
    page.set("period", duration(pool.period));
    page.set(
        "on_give_up",
        match pool.on_give_up {
            OnGiveUp::Worker => "worker",
            OnGiveUp::Pool => "pool",
        },
    );
    match &pool.backoff {
        Some(backoff) => page.set("backoff", show_backoff(backoff)),
        None => page.remark("backoff", "none, restart at once"),
    }
    let always = match pool.patience() {
        Some(Duration::ZERO) => "gives up at once".to_owned(),
        Some(patience) => format!("is restarted for about {}, then gives up", coarse(patience)),
        None => "is restarted forever".to_owned(),
    };
    page.comment(&format!("a worker that fails at once every time {always}"));
}

/// A duration for people: whole seconds where there are any.
fn coarse(duration: Duration) -> humantime::FormattedDuration {
    let whole = Duration::from_secs(duration.as_secs());
    humantime::format_duration(if whole.is_zero() { duration } else { whole })
}

fn show_backoff(backoff: &Backoff) -> Value {
    table([
        ("first", duration(backoff.first)),
        ("max", duration(backoff.max)),
        ("jitter", backoff.jitter.into()),
    ])
}

/// The command that the first worker's first process gets, where it differs from the file's.
fn show_placeholders(page: &mut Page, worker: &WorkerSpec) {
    let first = worker.expanded(|placeholder| match placeholder {
        Placeholder::Index => Some("0".to_owned()),
        Placeholder::Incarnation => Some("1".to_owned()),
        Placeholder::Run => Some("0".repeat(32)),
        _ => None,
    });
    let pairs = [
        (
            "command",
            Value::from(worker.command.clone()),
            Value::from(first.command.clone()),
        ),
        ("env", strings(&worker.env).into(), strings(&first.env).into()),
    ];
    for (key, as_written, expanded) in pairs {
        if as_written.to_string() != expanded.to_string() {
            page.comment(&format!("worker 0, first process, with run 0…0: {key} = {expanded}"));
        }
    }
    if worker.cwd != first.cwd
        && let Some(cwd) = &first.cwd
    {
        page.comment(&format!(
            "worker 0, first process, with run 0…0: cwd = {}",
            cwd.display()
        ));
    }
}

fn show_process(page: &mut Page, worker: &WorkerSpec, python: Option<&Python>) {
    match python {
        Some(python) => show_python(page, python),
        None => page.set("command", worker.command.clone()),
    }
    show_placeholders(page, worker);
    match &worker.cwd {
        Some(cwd) => page.set("cwd", cwd.to_string_lossy().as_ref()),
        None => page.remark("cwd", "the directory of this file"),
    }
    page.set("env", strings(&worker.env));
    page.set("inherit_env", worker.inherit_env);
    match &worker.ports {
        Ports::None => page.set("port", "none"),
        Ports::One(one) => page.set("port", port(*one)),
        Ports::Named(named) => {
            let named: Table = named.iter().map(|(name, one)| (name.clone(), port(*one))).collect();
            page.set("ports", named);
        }
    }
    page.set("address", worker.address.to_string());
    page.set("stdin", values::name_of(worker.stdin, &values::STDINS));
    page.set(
        "output",
        table([
            ("ring", size(worker.output.ring as u64).into()),
            ("log", worker.output.log.into()),
        ]),
    );
    page.set(
        "mode",
        match worker.mode {
            Mode::Coupled => "coupled",
            Mode::Independent => "independent",
            Mode::Supervised => "supervised",
            Mode::Distributed => "distributed",
        },
    );
}

fn show_python(page: &mut Page, python: &Python) {
    page.set("python", python.file().to_string_lossy().as_ref());
    match python.venv_folder() {
        Some(venv) => page.set("venv", venv.to_string_lossy().as_ref()),
        None if python.requirements_file().is_some() => page.remark("venv", "one in the cache folder"),
        None => page.remark("venv", "a .venv next to the file, else python3"),
    }
    match python.requirements_file() {
        Some(file) => page.set("requirements", file.to_string_lossy().as_ref()),
        None => page.remark("requirements", "none"),
    }
    match python.device_names() {
        [] => page.remark("devices", "none"),
        devices => page.set("devices", devices.to_vec()),
    }
    if python.is_pinned() {
        page.set("cpus", "auto");
    } else {
        page.remark("cpus", "the kernel places the workers");
    }
}

fn port(port: Port) -> Value {
    match port {
        Port::Any => "any".into(),
        Port::Fixed(number) => i64::from(number).into(),
        Port::Range(first, last) => format!("{first}-{last}").into(),
        Port::Reported => "reported".into(),
        Port::Listen => "listen".into(),
        Port::Unix => "unix".into(),
    }
}

fn show_life(page: &mut Page, worker: &WorkerSpec) {
    page.set("min_uptime", duration(worker.min_uptime));
    match &worker.ready {
        Some(ready) => page.set("ready", show_ready(ready)),
        None => page.remark(
            "ready",
            &format!("once it has lived for {}", humantime::format_duration(READY_AFTER)),
        ),
    }
    page.set("start_timeout", duration(worker.start_timeout));
    match &worker.health {
        Some(health) => page.set("health", show_health(health)),
        None => page.remark("health", "not probed"),
    }
    match worker.watchdog {
        Some(watchdog) => page.set("watchdog", duration(watchdog)),
        None => page.remark("watchdog", "no heartbeat is expected"),
    }
    page.set("stop", show_stop(worker.stop));
    page.set("host_death", show_stop(worker.host_death));
    page.set("release_timeout", duration(worker.release_timeout));
}

fn show_stop(stop: StopSpec) -> Value {
    table([("signal", stop.signal.name().into()), ("grace", duration(stop.grace))])
}

fn show_ready(ready: &Ready) -> Value {
    match ready {
        Ready::Notify => table([("notify", true.into())]),
        Ready::File => table([("file", true.into())]),
        Ready::Line(pattern) => table([("line", pattern.as_str().into())]),
        Ready::After(time) => table([("after", duration(*time))]),
        Ready::Probe(probe) => Value::Table(show_probe(probe)),
    }
}

fn show_probe(probe: &Probe) -> Table {
    let (form, value) = match &probe.kind {
        ProbeKind::Http(path) => ("http", path.as_str().into()),
        ProbeKind::Tcp => ("tcp", true.into()),
        ProbeKind::Grpc(service) if service.is_empty() => ("grpc", true.into()),
        ProbeKind::Grpc(service) => ("grpc", service.as_str().into()),
        ProbeKind::Exec(command) => ("exec", command.clone().into()),
    };
    let mut table = Table::new();
    table.insert(form.to_owned(), value);
    if let Some(port) = &probe.port {
        table.insert("port".to_owned(), port.as_str().into());
    }
    if !probe.headers.is_empty() {
        table.insert("headers".to_owned(), strings(&probe.headers).into());
    }
    match probe.owner {
        PortOwner::Worker => {}
        PortOwner::Any => drop(table.insert("owner".to_owned(), "any".into())),
    }
    table
}

fn show_health(health: &Health) -> Value {
    let mut table = show_probe(&health.probe);
    table.insert("every".to_owned(), duration(health.every));
    table.insert("timeout".to_owned(), duration(health.timeout));
    table.insert("misses".to_owned(), health.misses.into());
    Value::Table(table)
}
