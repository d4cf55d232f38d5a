//! The resolved specification as TOML, with every default written out. What it prints reads back as
//! the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ostler::otlp::Settings;
use ostler_core::config::entries;
use ostler_core::spec::{Placeholder, PoolSpec, READY_AFTER, WorkerSpec};
use ostler_python::Python;
use toml::{Table, Value};

use super::Config;
use super::text::written;

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
    page.set("audit", humantime::format_duration(config.app.audit).to_string());
    if let Some(telemetry) = &config.telemetry {
        page.0.push('\n');
        page.header("telemetry");
        show_telemetry(&mut page, telemetry);
    }
    for pool in &config.pools {
        page.0.push('\n');
        page.header(&format!("pool.{}", key(&pool.name)));
        show_pool(&mut page, pool, config.python.get(&pool.name));
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

fn strings(strings: &BTreeMap<String, String>) -> Table {
    let entry = |(name, value): (&String, &String)| (name.clone(), value.as_str().into());
    strings.iter().map(entry).collect()
}

fn show_pool(page: &mut Page, pool: &PoolSpec, python: Option<&Python>) {
    for (key, value) in entries(pool) {
        match (key, value, python) {
            ("command", _, Some(python)) => show_python(page, python),
            (_, Some(value), _) => page.set(key, written(value)),
            (_, None, _) => page.remark(key, &without(key)),
        }
        match key {
            "command" => show_placeholders(page, &pool.worker),
            "backoff" => page.comment(&format!("a worker that fails at once every time {}", always(pool))),
            "release_timeout" => page.comment("for programs that call the workers (ostler-serve)"),
            _ => {}
        }
    }
}

/// What it means that a key is left out.
fn without(key: &str) -> String {
    match key {
        "backoff" => "none, restart at once".to_owned(),
        "cwd" => "the directory of this file".to_owned(),
        "health" => "not probed".to_owned(),
        "ready" => format!("once it has lived for {}", humantime::format_duration(READY_AFTER)),
        "watchdog" => "no heartbeat is expected".to_owned(),
        _ => "off".to_owned(),
    }
}

/// What becomes of a worker that fails every time.
fn always(pool: &PoolSpec) -> String {
    match pool.patience() {
        Some(Duration::ZERO) => "gives up at once".to_owned(),
        Some(patience) => format!("is restarted for about {}, then gives up", coarse(patience)),
        None => "is restarted forever".to_owned(),
    }
}

/// A duration for people: whole seconds where there are any.
fn coarse(duration: Duration) -> humantime::FormattedDuration {
    let whole = Duration::from_secs(duration.as_secs());
    humantime::format_duration(if whole.is_zero() { duration } else { whole })
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

fn show_python(page: &mut Page, python: &Python) {
    page.set("python", python.file().to_string_lossy().as_ref());
    match python.interpreter_name() {
        Some(interpreter) => page.set("interpreter", interpreter),
        None => page.remark("interpreter", "python3"),
    }
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
