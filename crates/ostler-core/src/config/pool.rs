//! `[pool.NAME]`: every key of a pool, then the rules of [`PoolSpec::problems`] with their places.

use std::time::Duration;

use super::section::{Field, Section, Walk};
use super::{keys, probe, serve, values};
use crate::spec::{LONGEST, MOST_WORKERS, OutputSpec, PoolSpec, Port, Ports, Ready, StopSpec};
use crate::supervision::Backoff;

/// Reads the keys of `section` into `spec`, which has the defaults: without a command, the section
/// has to have one. Paths stay as they are written ([`PoolSpec::relative_to`]); what is invalid in
/// the specification as a whole is for [`check`] to report.
pub fn read(walk: &mut Walk, section: &Section<'_>, mut spec: PoolSpec) -> PoolSpec {
    if spec.worker.command.is_empty() && !section.has("command") {
        if !section.has("python") {
            walk.missing(
                section.at,
                &section.path_of("command"),
                "missing; set it to the program and its arguments, for example [\"python3\", \"worker.py\"]",
            );
        }
        // That it is empty is not a second mistake.
        spec.worker.command.push("python3".to_owned());
    }
    read_rules(walk, section, &mut spec);
    read_process(walk, section, &mut spec);
    read_life(walk, section, &mut spec);
    spec.serve = serve::read(walk, section);
    spec
}

/// Reports what is invalid in a pool that was read from `section`, and a fixed port that one of the
/// pools `before` uses. A key with a mistake already is not reported again.
pub fn check(walk: &mut Walk, section: &Section<'_>, spec: &PoolSpec, before: &[PoolSpec]) {
    report_problems(walk, section, spec);
    report_shared_port(walk, section, spec, before);
}

/// How many, and when they are restarted.
fn read_rules(walk: &mut Walk, section: &Section<'_>, spec: &mut PoolSpec) {
    spec.workers = section
        .read(walk, "workers", values::count)
        .or_harmless(spec.workers, MOST_WORKERS);
    spec.min_workers = section.read(walk, "min_workers", values::count).or(spec.min_workers);
    spec.max_starting = section.read(walk, "max_starting", values::count).or(spec.max_starting);
    spec.restart = section.read(walk, "restart", values::restart).or(spec.restart);
    spec.on_give_up = section.read(walk, "on_give_up", values::on_give_up).or(spec.on_give_up);
    let intensity = section.read(walk, "intensity", values::count).ok();
    let period = section.read(walk, "period", values::duration).ok();
    if intensity.is_some() || period.is_some() {
        spec.limit_restarts(intensity, period);
    }
    if let Some(backoff) = read_backoff(walk, section) {
        spec.backoff = Some(backoff);
    }
}

fn read_backoff(walk: &mut Walk, pool: &Section<'_>) -> Option<Backoff> {
    let section = pool.table(walk, "backoff", keys::BACKOFF).ok()?;
    let defaults = Backoff::of_pools();
    Some(Backoff {
        first: section
            .read(walk, "first", values::duration)
            .or_harmless(defaults.first, Duration::ZERO),
        max: section
            .read(walk, "max", values::duration)
            .or_harmless(defaults.max, LONGEST),
        jitter: section.read(walk, "jitter", values::fraction).or(defaults.jitter),
        ..defaults
    })
}

/// The process itself.
fn read_process(walk: &mut Walk, section: &Section<'_>, spec: &mut PoolSpec) {
    let worker = &mut spec.worker;
    let command = section.read(walk, "command", values::strings);
    worker.command = command.or(std::mem::take(&mut worker.command));
    worker.cwd = section.read(walk, "cwd", values::path).ok();
    worker.env.extend(section.strings(walk, "env"));
    worker.inherit_env = section
        .read(walk, "inherit_env", values::boolean)
        .or(worker.inherit_env);
    worker.ports = read_ports(walk, section, std::mem::take(&mut worker.ports));
    worker.address = section.read(walk, "address", values::address).or(worker.address);
    worker.output = read_output(walk, section, worker.output);
    worker.stdin = section.read(walk, "stdin", values::stdin).or(worker.stdin);
    worker.mode = section.read(walk, "mode", values::mode).or(worker.mode);
}

fn read_ports(walk: &mut Walk, section: &Section<'_>, default: Ports) -> Ports {
    let one = match section.read(walk, "port", values::port) {
        Field::Absent => default,
        Field::Is(None) => Ports::None,
        Field::Is(Some(port)) => Ports::One(port),
        Field::Wrong => Ports::One(Port::Any),
    };
    match section.any_table(walk, "ports") {
        Field::Absent => one,
        Field::Wrong => Ports::One(Port::Any),
        Field::Is(ports) => {
            if section.has("port") {
                walk.wrong(ports.at, &ports.path, "use only one of `port` and `ports`");
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

fn read_named_port(walk: &mut Walk, ports: &Section<'_>, name: &str) -> Port {
    ports.read(walk, name, values::named_port).or(Port::Any)
}

fn read_output(walk: &mut Walk, pool: &Section<'_>, defaults: OutputSpec) -> OutputSpec {
    let Some(section) = pool.table(walk, "output", keys::OUTPUT).ok() else {
        return defaults;
    };
    OutputSpec {
        ring: section.read(walk, "ring", values::size).or(defaults.ring),
        log: section.read(walk, "log", values::boolean).or(defaults.log),
    }
}

/// How it gets ready, is watched, and ends.
fn read_life(walk: &mut Walk, section: &Section<'_>, spec: &mut PoolSpec) {
    let worker = &mut spec.worker;
    worker.min_uptime = section.read(walk, "min_uptime", values::duration).or(worker.min_uptime);
    worker.ready = probe::ready(walk, section)
        .map(Some)
        .or_harmless(worker.ready.clone(), Some(Ready::Notify));
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

fn read_stop(walk: &mut Walk, pool: &Section<'_>, key: &str, defaults: StopSpec) -> StopSpec {
    let Some(section) = pool.table(walk, key, keys::STOP).ok() else {
        return defaults;
    };
    StopSpec {
        signal: section.read(walk, "signal", values::signal).or(defaults.signal),
        grace: section.read(walk, "grace", values::duration).or(defaults.grace),
    }
}

/// A fixed port that an earlier pool uses.
fn report_shared_port(walk: &mut Walk, section: &Section<'_>, spec: &PoolSpec, before: &[PoolSpec]) {
    let shared = |other: &PoolSpec| Some((other.name.clone(), other.shared_port(spec)?));
    if let Some((other, port)) = before.iter().find_map(shared) {
        let key = ports_key(section);
        let message = format!("pool {other:?} uses port {port} as well; use another one, or \"any\"");
        walk.wrong(section.locate(key), &section.path_of(key), message);
    }
}

/// Named ports are checked by the rules of the single one.
fn ports_key(section: &Section<'_>) -> &'static str {
    if section.has("ports") { "ports" } else { "port" }
}

/// The specification's own rules.
fn report_problems(walk: &mut Walk, section: &Section<'_>, spec: &PoolSpec) {
    if walk.is_partial() {
        return;
    }
    let mut problems: Vec<(&str, String, String)> = Vec::new();
    for problem in spec.problems() {
        let key = match problem.key {
            "port" => ports_key(section),
            key => key,
        };
        let path = match key {
            // A table that has no name yet (`PoolSpec::name`).
            "name" if section.path.is_empty() => continue,
            "name" => section.path.clone(),
            key => section.path_of(key),
        };
        if !walk.has_mistake(&path) {
            problems.push((key, path, problem.message));
        }
    }
    for (key, path, message) in problems {
        walk.wrong(section.locate(key), &path, message);
    }
}
