//! What every signal does to `ostler up`: the table of docs/cli.md, signal by signal.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;

use crate::harness::{Up, eventually, folder, ostler, utf8, with_the_test};

const SLEEP: &str = "[pool.a]\ncommand = [\"sleep\", \"1000\"]\n";

/// By number: real-time signals have no name in nix.
fn send(up: &mut Up, number: i32) {
    let pid = up.running.child().id().to_string();
    let sent = Command::new("kill").args([format!("-{number}"), pid]).status().unwrap();
    assert!(sent.success(), "signal {number}");
}

fn named(name: &str) -> i32 {
    format!("SIG{name}")
        .parse::<Signal>()
        .unwrap_or_else(|_| panic!("{name}")) as i32
}

/// The rows of the table in docs/cli.md: the signals of the first column, and the word of the
/// second.
fn rows() -> Vec<(Vec<i32>, String)> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap();
    let table = page.split("## Signals").nth(1).expect("a section on signals");
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let signals = cells
            .next()
            .unwrap()
            .split(", ")
            .flat_map(|name| match name.trim_matches('`') {
                "real-time" => (32..=64).collect(),
                name => vec![named(name)],
            });
        (signals.collect(), cells.next().unwrap().to_owned())
    })
    .collect()
}

fn signals(meaning: &str) -> Vec<i32> {
    let rows = rows().into_iter().filter(|(_, word)| word == meaning);
    rows.flat_map(|(signals, _)| signals).collect()
}

#[test]
fn the_table_of_the_docs_has_every_signal_once() {
    let mut all: Vec<i32> = rows().into_iter().flat_map(|(signals, _)| signals).collect();
    all.sort_unstable();
    let expected: Vec<i32> = (1..=64).collect();
    assert_eq!(all, expected);
}

#[test]
fn signals_that_stop_do_so_in_order() {
    let stops = [signals("stop"), signals("stop, once")].concat();
    assert_eq!(stops.len(), 6, "HUP, INT, QUIT, TERM, XCPU, PWR");
    for number in stops {
        let (_folder, file) = folder(SLEEP);
        let mut up = Up::of(&file);
        up.event("worker.ready");
        send(&mut up, number);
        let exited = up.event("worker.exited");
        assert_eq!(exited["signal"], "TERM", "signal {number}: {exited}");
        assert_eq!(up.running.ended(), Some(0), "signal {number}");
    }
}

#[test]
fn signals_that_are_ignored_change_nothing_and_their_mask_says_so() {
    let (_folder, file) = folder(SLEEP);
    let mut up = Up::of(&file);
    up.event("worker.ready");
    let mask = |status: String| u64::from_str_radix(&status, 16).unwrap();
    let (ignored, caught) = (mask(up.status("SigIgn")), mask(up.status("SigCgt")));
    assert_eq!(mask(up.status("SigBlk")), 0);
    let has = |mask: u64, number: i32| mask >> (number - 1) & 1 == 1;
    // 33 is the C library's: with the first thread it has a handler, which ignores what others
    // send.
    let harmless = |number| has(ignored, number) || number == 33 && has(caught, number);
    for number in signals("ignored") {
        assert!(harmless(number), "signal {number}: {ignored:016x}");
        send(&mut up, number);
    }
    for number in signals("default") {
        assert!(!has(ignored, number), "signal {number}: {ignored:016x}");
    }
    for number in [signals("stop"), signals("stop, once"), signals("reopen")].concat() {
        assert!(has(caught, number), "signal {number}: {caught:016x}");
    }
    // Those whose default action does not end the program, but for STOP and TSTP.
    for name in ["CHLD", "CONT", "URG", "WINCH"] {
        send(&mut up, named(name));
    }
    assert_eq!(mask(up.status("SigPnd")) | mask(up.status("ShdPnd")), 0);
    send(&mut up, libc::SIGTERM);
    assert_eq!(up.event("worker.exited")["signal"], "TERM");
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn the_kernels_own_repetitions_do_not_kill() {
    let (_folder, file) = folder(
        "[pool.a]\ncommand = [\"sh\", \"-c\", \"trap 'sleep 1; exit 0' TERM; echo up; while :; do sleep 0.05; done\"]\nready = { line = \"up\" }\n",
    );
    let mut up = Up::of(&file);
    up.event("worker.ready");
    send(&mut up, libc::SIGXCPU);
    let stopping = Instant::now();
    up.event("worker.stopping");
    // Some of these come long after the first.
    while stopping.elapsed() < Duration::from_millis(800) {
        send(&mut up, libc::SIGXCPU);
        send(&mut up, libc::SIGPWR);
    }
    assert_eq!(up.event("worker.exited")["status"], 0);
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn a_parent_that_blocked_or_ignored_signals_does_not_make_it_unstoppable() {
    let (_folder, file) = folder(SLEEP);
    let script = "import os, signal, sys\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n\
        for s in (signal.SIGTERM, signal.SIGCHLD, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    let program = env!("CARGO_BIN_EXE_ostler");
    let mut command = with_the_test("python3");
    command.args(["-c", script, program, "up", utf8(&file), "--events", "-"]);
    let mut up = Up::start(command);
    up.event("worker.ready");
    assert_eq!(up.status("SigBlk"), "0000000000000000");
    send(&mut up, libc::SIGTERM);
    assert_eq!(up.event("worker.exited")["signal"], "TERM");
    assert_eq!(up.running.ended(), Some(0));
}

/// As nohup(1) and a shell without job control do it.
#[test]
fn signals_of_a_terminal_that_were_ignored_at_the_start_stay_ignored() {
    let (_folder, file) = folder(SLEEP);
    let script = "trap '' HUP INT QUIT; exec \"$0\" up \"$1\" --events -";
    let mut command = with_the_test("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_ostler"), utf8(&file)]);
    command.env_remove("XDG_RUNTIME_DIR");
    let mut up = Up::start(command);
    up.event("worker.ready");
    for number in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        send(&mut up, number);
    }
    send(&mut up, libc::SIGTERM);
    assert_eq!(up.event("worker.exited")["signal"], "TERM");
    assert_eq!(up.running.ended(), Some(0));
    // Had one of them been received, it would be named.
    let said: Vec<String> = up.said.iter().collect();
    assert!(said.iter().any(|line| line.contains("TERM: stopping")), "{said:#?}");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_of_the_write() {
    const LIMIT: u64 = 32 << 20;
    let (folder, file) = folder(SLEEP);
    let events = folder.path().join("events");
    // dash counts blocks of 512 bytes.
    let script = format!("ulimit -f {}; exec \"$0\" up \"$1\" --events \"$2\"", LIMIT / 512);
    let mut command = with_the_test("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_ostler"), utf8(&file), utf8(&events)]);
    command.env_remove("XDG_RUNTIME_DIR");
    let mut up = Up::start(command);
    let read = || fs::read_to_string(&events).unwrap_or_default();
    eventually("no worker is ready", || read().contains("worker.ready"));
    // The next event is beyond the limit.
    fs::File::options()
        .append(true)
        .open(&events)
        .unwrap()
        .set_len(LIMIT)
        .unwrap();
    send(&mut up, libc::SIGTERM);
    assert_eq!(up.running.ended(), Some(0));
    let said: Vec<String> = up.said.iter().collect();
    assert!(said.iter().any(|line| line.contains("File too large")), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("released  1 of 1")), "{said:#?}");
}

/// Before anything runs there is nothing to stop in order, but a rotation of logs must not end the
/// program either.
#[test]
fn the_table_holds_for_the_other_commands() {
    let mut command = ostler(&["check", "/dev/stdin"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let ignores_usr1 = || {
        let status = fs::read_to_string(&status).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (libc::SIGUSR1 - 1) & 1 == 1
    };
    eventually("USR1 is not ignored", ignores_usr1);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(2), "an empty file is wrong");
}
