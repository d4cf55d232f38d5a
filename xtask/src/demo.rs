//! `cargo xtask demo`: a pool starts, a worker is killed and replaced, the run stops. Whatever is
//! printed was checked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::native;
use crate::steps::{Outcome, cargo, programs, root, seconds, step, target_directory};
use crate::story::{Event, Run, signal};

/// The engine of the process table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Redb,
    RocksDb,
}

const KILLED: &str = "web/1";
const PATIENCE: Duration = Duration::from_secs(30);

/// A worker as its last events show it.
#[derive(Clone, Copy, Default)]
struct Seen {
    pid: u32,
    port: u16,
}

/// Runs the demo; the first thing that does not happen ends it.
pub(crate) fn run(store: Store) -> Outcome {
    let started = Instant::now();
    let programs = build(store)?;
    println!("\n1. Three web servers are started: ostler up examples/web/ostler.toml");
    let mut run = Run::start(&programs.join("ostler"), &root().join("examples/web/ostler.toml"))?;
    let mut pids = BTreeSet::from([run.pid()]);
    let workers = until_ready(&mut run, &mut pids)?;
    println!("\n2. Each of them is asked for its pid");
    for (name, worker) in &workers {
        check_answer(name, *worker)?;
    }
    let killed = *workers.get(KILLED).ok_or(format!("there is no {KILLED}"))?;
    println!("\n3. {KILLED} is killed: kill -KILL {}", killed.pid);
    let replacement = until_replaced(&mut run, &mut pids, killed)?;
    check_answer(KILLED, replacement)?;
    println!("\n4. All of it is stopped: kill -TERM {}", run.pid());
    pids.extend(descendants(run.pid()));
    stop(run, &workers)?;
    println!("\n5. What is left?");
    prove_nothing_is_left(&pids, workers.values().map(|worker| worker.port))?;
    println!("\nAll of it took {}.", seconds(started.elapsed()));
    Ok(())
}

/// Builds the program and returns its folder. The light store has the profile whose first build is
/// short; RocksDB the one of the tests, which compile it too.
pub(crate) fn build(store: Store) -> Outcome<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "ostler-cli"]);
    let programs = match store {
        Store::Redb => {
            println!("The program is built first: about three minutes on two cores the first time, then seconds.");
            build.args(["--profile", "demo", "--no-default-features", "--features", "redb"]);
            target_directory()?.join("demo")
        }
        Store::RocksDb => {
            build.envs(native::environment()?);
            native::announce_rocksdb()?;
            programs()?
        }
    };
    step("building ostler", &mut build)?;
    Ok(programs)
}

/// Prints the start of the pool; returns each worker's process.
fn until_ready(run: &mut Run, pids: &mut BTreeSet<u32>) -> Outcome<BTreeMap<String, Seen>> {
    let begun = Instant::now();
    let mut workers: BTreeMap<String, Seen> = BTreeMap::new();
    loop {
        let event = run.next(PATIENCE)?;
        show(&event, begun);
        note(
            &event,
            workers.entry(event.text("worker").to_owned()).or_default(),
            pids,
        );
        match event.name() {
            "worker.failed" => return Err(format!("{} failed: {}", event.text("worker"), event.text("message"))),
            "pool.ready" => break,
            _ => {}
        }
    }
    workers.remove("");
    println!("   every worker is ready after {}", seconds(begun.elapsed()));
    Ok(workers)
}

fn note(event: &Event, worker: &mut Seen, pids: &mut BTreeSet<u32>) {
    if let Some(pid) = event.number("pid").and_then(|pid| u32::try_from(pid).ok()) {
        worker.pid = pid;
        pids.insert(pid);
    }
    if let Some(port) = event.number("port").and_then(|port| u16::try_from(port).ok()) {
        worker.port = port;
    }
}

/// Kills the worker and follows its slot until another process fills it.
fn until_replaced(run: &mut Run, pids: &mut BTreeSet<u32>, killed: Seen) -> Outcome<Seen> {
    let begun = Instant::now();
    signal(killed.pid, Signal::SIGKILL)?;
    let mut happened: Vec<String> = Vec::new();
    let mut replacement = Seen::default();
    while !happened.iter().any(|name| name == "pool.ready") {
        let event = run.next(PATIENCE)?;
        show(&event, begun);
        if event.name() != "pool.ready" && event.text("worker") != KILLED {
            continue;
        }
        note(&event, &mut replacement, pids);
        if event.is("worker.exited", KILLED) && event.text("signal") != "KILL" {
            return Err(format!("it did not end by the signal that it was sent: {}", event.0));
        }
        happened.push(event.name().to_owned());
    }
    check_order(&happened)?;
    if replacement.pid == killed.pid || replacement.port != killed.port {
        return Err(format!(
            "expected a new process on port {}, found pid {} on port {}",
            killed.port, replacement.pid, replacement.port
        ));
    }
    println!(
        "   replaced after {}: pid {} instead of {}, still on port {}",
        seconds(begun.elapsed()),
        replacement.pid,
        killed.pid,
        replacement.port
    );
    Ok(replacement)
}

/// The events of a restart, in the order in which they must come.
const RESTART: [&str; 7] = [
    "worker.exited",
    "worker.failed",
    "worker.released",
    "worker.restarting",
    "worker.reserved",
    "worker.spawned",
    "worker.ready",
];

/// All events came, in this order: the old process was released before its replacement was
/// reserved.
fn check_order(happened: &[String]) -> Outcome {
    let restart: Vec<&str> = happened
        .iter()
        .map(String::as_str)
        .filter(|name| RESTART.contains(name))
        .collect();
    if restart == RESTART {
        return Ok(());
    }
    Err(format!(
        "expected: {}; found: {}",
        RESTART.join(", "),
        restart.join(", ")
    ))
}

fn stop(run: Run, workers: &BTreeMap<String, Seen>) -> Outcome {
    let asked = Instant::now();
    run.ask_to_stop()?;
    let mut released = BTreeSet::new();
    let mut clean = false;
    let (status, said) = run.end(PATIENCE, |event| {
        show(event, asked);
        clean |= event.name() == "cleanup.success";
        if event.name() == "worker.released" {
            released.insert(event.text("worker").to_owned());
        }
    })?;
    println!("   its summary:");
    for line in summary(&said) {
        println!("   │ {line}");
    }
    if status.code() != Some(0) {
        return Err(format!("ostler ended with {status}"));
    }
    if let Some(name) = workers.keys().find(|name| !released.contains(*name)) {
        return Err(format!("the release of {name} was not confirmed"));
    }
    if !clean {
        return Err("the emergency cleaner did not say that it found nothing".to_owned());
    }
    println!("   ended with status 0 after {}", seconds(asked.elapsed()));
    Ok(())
}

/// The summary is the last paragraph on stderr.
fn summary(said: &str) -> impl Iterator<Item = &str> {
    said.trim_end().rsplit("\n\n").next().unwrap_or_default().lines()
}

/// No process of the run is there, and every port can be bound.
fn prove_nothing_is_left(pids: &BTreeSet<u32>, ports: impl Iterator<Item = u16>) -> Outcome {
    // The guardian ends by itself when its host has ended; the kernel may need a moment to take its
    // children off the list.
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let left: Vec<String> = pids.iter().filter(|pid| is_alive(**pid)).map(u32::to_string).collect();
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("these processes are still there: {}", left.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "   of {} processes (ostler, its guardian, its sitters, every worker): none",
        pids.len()
    );
    for port in ports {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map_err(|error| format!("port {port} is still taken: {error}"))?;
        println!("   port {port} is free");
    }
    Ok(())
}

/// Whether the process runs. If the kernel reuses a pid within these seconds, that is a false
/// alarm, never a miss.
fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Every process below this one.
fn descendants(pid: u32) -> BTreeSet<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.1)))
        .collect();
    let mut found = BTreeSet::from([pid]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Asks the server for its pid, and compares the answer with the events.
fn check_answer(name: &str, worker: Seen) -> Outcome {
    let answer =
        get(worker.port).map_err(|error| format!("{name} does not answer on port {}: {error}", worker.port))?;
    println!("   GET http://127.0.0.1:{}/  →  {answer}", worker.port);
    if !answer.ends_with(&format!("pid {}", worker.pid)) {
        return Err(format!("{name} should have answered with pid {}", worker.pid));
    }
    Ok(())
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
}

/// Prints one event as a line.
fn show(event: &Event, since: Instant) {
    let about = match (event.text("worker"), event.text("pool")) {
        ("", pool) => pool,
        (worker, _) => worker,
    };
    let facts: Vec<String> = shown_fields(event.name())
        .iter()
        .filter_map(|key| match &event.0[*key] {
            Value::Null => None,
            Value::String(text) => Some(format!("{key} {text}")),
            other => Some(format!("{key} {other}")),
        })
        .collect();
    let line = format!(
        "{:<18} {about:<6} {:<34} {}",
        event.name(),
        facts.join(", "),
        meaning(event.name())
    );
    println!(
        "   {:>8.1} ms  {}",
        since.elapsed().as_secs_f64() * 1e3,
        line.trim_end()
    );
}

/// The fields that are shown of this event.
fn shown_fields(event: &str) -> &'static [&'static str] {
    match event {
        "worker.reserved" => &["incarnation", "port"],
        "worker.spawned" => &["pid", "containment"],
        "worker.ready" => &["pid", "port"],
        "worker.stopping" => &["signal", "cause"],
        "worker.exited" => &["pid", "signal", "status"],
        "worker.failed" => &["reason", "message"],
        "worker.restarting" => &["attempt"],
        "sweep.done" | "cleanup.success" | "cleanup.orphans_found" | "run.stopped" => &["count"],
        _ => &[],
    }
}

/// What it means, for a first-time reader.
fn meaning(event: &str) -> &'static str {
    match event {
        "run.started" => "the guardian, the process table and the cleaner are up",
        "sweep.done" => "nothing of earlier runs is left",
        "worker.reserved" => "recorded before it runs",
        "worker.spawned" => "exec has succeeded",
        "worker.ready" => "its own process answers /healthz",
        "worker.released" => "its process tree is gone, its port is free, its record is removed",
        "worker.restarting" => "only now is it replaced",
        "cleanup.success" => "the emergency cleaner found nothing",
        _ => "",
    }
}
