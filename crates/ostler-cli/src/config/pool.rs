//! `[pool.NAME]`: every key of a pool, then the rules of [`PoolSpec::problems`] with their places.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ostler_core::spec::{OutputSpec, PoolSpec, Port, Ports, Ready, StopSpec};
use ostler_core::supervision::Backoff;

use super::section::{Field, Section, Walk};
use super::{keys, probe, values};

/// Reads the pool `name`. Relative paths are against `base`.
pub(super) fn read(walk: &mut Walk<'_>, section: &Section<'_>, name: &str, base: &Path) -> PoolSpec {
    let mut spec = PoolSpec::new(name, Vec::<String>::new());
    if section.get("command").is_none() {
        walk.missing(
            section.at,
            &section.path_of("command"),
            "it is missing: the program and its arguments are wanted, as in [\"python3\", \"worker.py\"]",
        );
    }
    read_rules(walk, section, &mut spec);
    read_process(walk, section, &mut spec, base);
    read_life(walk, section, &mut spec);
    report_problems(walk, section, &spec);
    spec
}

/// How many, and when they are restarted.
fn read_rules(walk: &mut Walk<'_>, section: &Section<'_>, spec: &mut PoolSpec) {
    spec.workers = section
        .read(walk, "workers", values::workers)
        .or_harmless(spec.workers, u32::MAX);
    // An empty pool is allowed, and it can't keep the one slot that is the default elsewhere.
    let least = spec.min_workers.min(spec.workers);
    spec.min_workers = section.read(walk, "min_workers", values::count).or(least);
    spec.max_starting = section.read(walk, "max_starting", values::count).or(spec.max_starting);
    spec.restart = section.read(walk, "restart", values::restart).or(spec.restart);
    spec.intensity = section.read(walk, "intensity", values::count).or(spec.intensity);
    spec.period = section.read(walk, "period", values::duration).or(spec.period);
    spec.on_give_up = section.read(walk, "on_give_up", values::on_give_up).or(spec.on_give_up);
    spec.backoff = read_backoff(walk, section);
}

fn read_backoff(walk: &mut Walk<'_>, pool: &Section<'_>) -> Option<Backoff> {
    let section = pool.table(walk, "backoff", keys::BACKOFF).ok()?;
    let defaults = default_backoff();
    Some(Backoff {
        first: section
            .read(walk, "first", values::duration)
            .or_harmless(defaults.first, Duration::ZERO),
        max: section
            .read(walk, "max", values::duration)
            .or_harmless(defaults.max, Duration::MAX),
        jitter: section.read(walk, "jitter", values::fraction).or(defaults.jitter),
        ..defaults
    })
}

/// What `backoff = {}` means.
fn default_backoff() -> Backoff {
    Backoff {
        jitter: 0.2,
        ..Backoff::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

/// The process itself.
fn read_process(walk: &mut Walk<'_>, section: &Section<'_>, spec: &mut PoolSpec, base: &Path) {
    let worker = &mut spec.worker;
    worker.command = section.read(walk, "command", values::strings).or(Vec::new());
    worker.cwd = section
        .read(walk, "cwd", values::path)
        .ok()
        .map(|cwd| clean_join(base, &cwd));
    worker.env = read_strings(walk, section, "env");
    worker.inherit_env = section
        .read(walk, "inherit_env", values::boolean)
        .or(worker.inherit_env);
    worker.ports = read_ports(walk, section);
    worker.address = section.read(walk, "address", values::address).or(worker.address);
    worker.output = read_output(walk, section, worker.output);
    worker.mode = section.read(walk, "mode", values::mode).or(worker.mode);
}

/// `base/cwd`, without the `.` that stands for the file's own directory.
fn clean_join(base: &Path, cwd: &Path) -> std::path::PathBuf {
    base.join(cwd).components().collect()
}

/// A table of strings under names that people choose.
pub(super) fn read_strings(walk: &mut Walk<'_>, within: &Section<'_>, key: &str) -> BTreeMap<String, String> {
    let Some(section) = within.any_table(walk, key).ok() else {
        return BTreeMap::new();
    };
    section
        .names()
        .filter_map(|name| Some((name.to_owned(), section.read(walk, name, values::string).ok()?)))
        .collect()
}

fn read_ports(walk: &mut Walk<'_>, section: &Section<'_>) -> Ports {
    let one = match section.read(walk, "port", values::port) {
        Field::Absent | Field::Is(None) => Ports::None,
        Field::Is(Some(port)) => Ports::One(port),
        Field::Wrong => Ports::One(Port::Any),
    };
    match section.any_table(walk, "ports") {
        Field::Absent => one,
        Field::Wrong => Ports::One(Port::Any),
        Field::Is(ports) => {
            if section.get("port").is_some() {
                walk.wrong(
                    ports.at,
                    &ports.path,
                    "port and ports were found; one of them is wanted",
                );
            }
            Ports::Named(
                ports
                    .names()
                    .map(|name| (name.to_owned(), read_named_port(walk, &ports, name)))
                    .collect(),
            )
        }
    }
}

fn read_named_port(walk: &mut Walk<'_>, ports: &Section<'_>, name: &str) -> Port {
    ports.read(walk, name, values::named_port).or(Port::Any)
}

fn read_output(walk: &mut Walk<'_>, pool: &Section<'_>, defaults: OutputSpec) -> OutputSpec {
    let Some(section) = pool.table(walk, "output", keys::OUTPUT).ok() else {
        return defaults;
    };
    OutputSpec {
        ring: section.read(walk, "ring", values::size).or(defaults.ring),
        log: section.read(walk, "log", values::boolean).or(defaults.log),
    }
}

/// How it gets ready, is watched, is ended.
fn read_life(walk: &mut Walk<'_>, section: &Section<'_>, spec: &mut PoolSpec) {
    let worker = &mut spec.worker;
    worker.min_uptime = section.read(walk, "min_uptime", values::duration).or(worker.min_uptime);
    worker.ready = probe::ready(walk, section)
        .map(Some)
        .or_harmless(None, Some(Ready::Notify));
    worker.start_timeout = section
        .read(walk, "start_timeout", values::duration)
        .or(worker.start_timeout);
    worker.health = probe::health(walk, section);
    worker.watchdog = section.read(walk, "watchdog", values::duration).ok();
    worker.stop = read_stop(walk, section, "stop", worker.stop);
    worker.host_death = read_stop(walk, section, "host_death", worker.host_death);
    worker.release_timeout = section
        .read(walk, "release_timeout", values::duration)
        .or(worker.release_timeout);
}

fn read_stop(walk: &mut Walk<'_>, pool: &Section<'_>, key: &str, defaults: StopSpec) -> StopSpec {
    let Some(section) = pool.table(walk, key, keys::STOP).ok() else {
        return defaults;
    };
    StopSpec {
        signal: section.read(walk, "signal", values::signal).or(defaults.signal),
        grace: section.read(walk, "grace", values::duration).or(defaults.grace),
    }
}

/// A fixed port that a pool before this one has.
pub(super) fn report_shared_port(walk: &mut Walk<'_>, section: &Section<'_>, spec: &PoolSpec, before: &[PoolSpec]) {
    let shared = |other: &PoolSpec| Some((other.name.clone(), other.shared_port(spec)?));
    if let Some((other, port)) = before.iter().find_map(shared) {
        let key = ports_key(section);
        let message = format!("{port} is a port of pool {other:?}, too; another port or \"any\" is wanted");
        walk.wrong(section.locate(key), &section.path_of(key), message);
    }
}

/// Named ports are checked by the rules of the one port.
fn ports_key(section: &Section<'_>) -> &'static str {
    if section.get("ports").is_some() {
        "ports"
    } else {
        "port"
    }
}

/// The specification's own rules. A key that has been spoken of is not spoken of again.
fn report_problems(walk: &mut Walk<'_>, section: &Section<'_>, spec: &PoolSpec) {
    if walk.is_partial() {
        return;
    }
    let mut problems: Vec<(&str, String, String)> = Vec::new();
    for problem in spec.problems() {
        let key = match problem.key {
            "port" => ports_key(section),
            key => key,
        };
        let path = if key == "name" {
            section.path.clone()
        } else {
            section.path_of(key)
        };
        if !walk.has_spoken_of(&path) {
            problems.push((key, path, problem.message));
        }
    }
    for (key, path, message) in problems {
        walk.wrong(section.locate(key), &path, message);
    }
}
