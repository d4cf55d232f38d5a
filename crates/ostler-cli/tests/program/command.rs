//! Statuses, messages, and what the program does when nothing reads what it writes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Running, Up, folder, ostler, run, utf8};

#[test]
fn check_prints_what_reads_back() {
    let (folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1\"]\n");
    let (status, shown, said) = run(&["check", utf8(&file)]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let again = folder.path().join("again.toml");
    std::fs::write(&again, &shown).unwrap();
    assert_eq!(run(&["check", utf8(&again)]), (Some(0), shown, String::new()));
}

#[test]
fn every_mistake_of_a_file_is_reported_and_the_status_is_2() {
    let (_folder, file) = folder("[pool.a]\ncomand = [\"sleep\"]\nworkers = -1\n");
    for command in ["check", "up"] {
        let (status, shown, said) = run(&[command, utf8(&file)]);
        assert_eq!((status, shown.as_str()), (Some(2), ""));
        assert!(
            said.contains(":5:1: pool.a.comand: unknown key; did you mean \"command\"?"),
            "{said}"
        );
        assert!(
            said.contains(":6:11: pool.a.workers: expected an integer from 0"),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_2_and_a_machine_that_fails_is_3() {
    let (folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"100\"]\n");
    assert_eq!(run(&["up"]).0, Some(2));
    assert_eq!(run(&["up", utf8(&file), "--for", "soon"]).0, Some(2));
    assert_eq!(run(&["up", utf8(&file), "--log", "a=b=c"]).0, Some(2));
    let events = folder.path().join("no/such/folder");
    let (status, _, said) = run(&["up", utf8(&file), "--events", utf8(&events)]);
    assert_eq!(status, Some(3));
    assert!(said.contains("No such file or directory"), "{said}");
    std::fs::write(folder.path().join("state"), "a file where the state should be").unwrap();
    let (status, _, said) = run(&["up", utf8(&file), "--for", "1s"]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("state"), "the path is named: {said}");
}

/// A service without HOME, as systemd and cron start it.
#[test]
fn without_a_directory_for_the_state_it_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ostler.toml");
    std::fs::write(&file, "[app]\nname = \"cli\"\n[pool.a]\ncommand = [\"sleep\", \"1\"]\n").unwrap();
    let missing = [
        (["up", utf8(&file)], 3),
        (["sweep", "--app=cli"], 3),
        (["doctor", utf8(&file)], 1),
    ];
    for (arguments, status) in missing {
        let mut command = ostler(&arguments);
        let output = command
            .env_remove("HOME")
            .env_remove("XDG_STATE_HOME")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("HOME") && said.contains("`state_dir`"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn a_sweep_of_nothing_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said, _) = run(&["sweep", "--app", "unknown", "--state-dir", utf8(folder.path())]);
    assert_eq!(status, Some(0));
    assert!(
        said.starts_with("unknown: 0 dead runs removed, 0 processes killed"),
        "{said}"
    );
}

#[test]
fn a_sweep_of_no_apps_name_is_a_wrong_command_line() {
    let (status, _, said) = run(&["sweep", "--app", "a/b"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--app") && said.contains("a/b"), "{said}");
}

#[test]
fn a_probable_mistake_is_a_warning_and_does_not_fail() {
    let (_folder, file) = folder("[pool.p]\ncommand = [\"true\", \"{port.htp}\"]\nport = \"any\"\n");
    let (status, shown, said) = run(&["check", utf8(&file)]);
    assert_eq!(status, Some(0), "{said}");
    assert!(shown.contains("port = \"any\""), "{shown}");
    assert!(
        said.contains("warning: pool.p.command: {port.htp} names no port"),
        "{said}"
    );
    let (status, _, said) = run(&["up", utf8(&file), "--for", "2s"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("WARN") && said.contains("{port.htp} names no port"),
        "{said}"
    );
}

#[test]
fn a_tcp_probe_of_a_socket_that_the_host_listens_on_is_a_warning() {
    let (_folder, file) = folder("[pool.p]\ncommand = [\"x\"]\nport = \"listen\"\nready = { tcp = true }\n");
    let (status, _, said) = run(&["check", utf8(&file)]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("warning: pool.p.ready: tcp always succeeds"), "{said}");
}

/// Wherever `ostler` is started.
#[test]
fn relative_paths_are_relative_to_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, file) = folder("[pool.p]\ncommand = [\"./w.sh\"]\nrestart = \"temporary\"\n");
    let script = folder.path().join("w.sh");
    std::fs::write(&script, "#!/bin/sh\npwd > here\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let output = ostler(&["up", utf8(&file)]).current_dir(&elsewhere).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let here = std::fs::read_to_string(folder.path().join("here")).unwrap();
    assert_eq!(Path::new(here.trim()), folder.path().canonicalize().unwrap());
}

/// As with a container, whose port the container engine's proxy publishes.
#[test]
fn a_port_of_another_daemon_counts_on_request() {
    for (owner, outcome) in [
        ("owner = \"any\"", "worker.ready"),
        ("owner = \"worker\"", "worker.failed"),
    ] {
        let (_folder, file) = folder(&format!(
            "[pool.p]\ncommand = [\"sleep\", \"1000\"]\nport = \"any\"\nready = {{ tcp = true, {owner} }}\nhealth = {{ tcp = true, every = \"10ms\", {owner} }}\nintensity = 0\n"
        ));
        let mut up = Up::of(&file);
        let port = up.event("worker.spawned")["port"].as_u64().unwrap();
        let proxy = TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
        let event = up.event(outcome);
        assert_eq!(event["reason"] == "port_in_use", outcome == "worker.failed", "{event}");
        drop(proxy);
        let gave_up = outcome == "worker.failed";
        if !gave_up {
            up.running.signal(Signal::SIGTERM);
        }
        assert_eq!(up.running.ended(), Some(i32::from(gave_up)));
    }
}

/// A proxy for good, or a socket that something else activates: it listens before, during and after
/// the run. `port`, `ready` and `health` say how the worker comes by its number.
fn runs_beside_a_holder(holder: &TcpListener, pool: &str) {
    let number = holder.local_addr().unwrap().port();
    let pool = pool.replace("NUMBER", &number.to_string());
    let (_folder, file) = folder(&format!("[pool.p]\nrelease_timeout = \"1s\"\n{pool}"));
    let mut up = Up::of(&file);
    let first = up.event("worker.ready");
    assert_eq!(first["port"], number, "{first}");
    // A restart meets the holder, too.
    let worker = Pid::from_raw(i32::try_from(first["pid"].as_i64().unwrap()).unwrap());
    kill(worker, Signal::SIGKILL).unwrap();
    assert_eq!(up.event("worker.failed")["reason"], "killed");
    up.event("worker.released");
    assert_eq!(up.event("worker.ready")["incarnation"], 2);
    up.running.signal(Signal::SIGTERM);
    up.event("worker.released");
    up.event("cleanup.success");
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn a_port_that_another_daemon_has_for_good_is_not_the_workers() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let worker = r#"command = ["sh", "-c", "test $PORT = {port} && exec sleep 1000"]"#;
    let health = r#"health = { tcp = true, every = "10ms", owner = "any" }"#;
    let ready = r#"ready = { tcp = true, owner = "any" }"#;
    runs_beside_a_holder(&holder, &format!("{worker}\nport = NUMBER\n{ready}\n{health}\n"));
    // Readiness asks no port: health decides.
    let notes = r#"command = ["sh", "-c", "echo NUMBER >$OSTLER_READY_FILE; exec sleep 1000"]"#;
    let file = "ready = { file = true }";
    runs_beside_a_holder(&holder, &format!("{notes}\nport = \"reported\"\n{file}\n{health}\n"));
}

#[test]
fn several_workers_run_behind_one_port_of_another_daemon() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let number = holder.local_addr().unwrap().port();
    let pool = |name: &str| {
        format!(
            "[pool.{name}]\ncommand = [\"sleep\", \"1000\"]\nworkers = 2\nport = {number}\nready = {{ tcp = true, owner = \"any\" }}\nrelease_timeout = \"1s\"\n"
        )
    };
    let (_folder, file) = folder(&format!("{}{}", pool("a"), pool("b")));
    let mut up = Up::of(&file);
    for _ in 0..4 {
        up.event("worker.ready");
    }
    up.running.signal(Signal::SIGTERM);
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn a_fixed_port_that_is_held_before_the_start_is_refused_with_what_to_do() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let number = holder.local_addr().unwrap().port();
    for ready in ["{ tcp = true }", "{ notify = true }"] {
        let (_folder, file) = folder(&format!(
            "[pool.p]\ncommand = [\"sleep\", \"1000\"]\nport = {number}\nready = {ready}\nintensity = 0\n"
        ));
        let up = Up::of(&file);
        let event = up.event("worker.failed");
        assert_eq!(event["reason"], "port_in_use", "{event}");
        let suggestion = event["suggestion"].as_str().unwrap();
        assert!(
            suggestion.contains("set owner = \"any\" in ready and health"),
            "{event}"
        );
        assert_eq!(up.running.ended(), Some(1));
    }
}

/// The defaults: a worker that has to wait for another program is restarted until it can work.
#[test]
fn a_worker_that_fails_for_a_while_is_not_given_up() {
    let (folder, file) = folder(
        "[pool.p]\ncommand = [\"sh\", \"-c\", \"test -e database || exit 1; exec sleep 1000\"]\nready = { after = \"100ms\" }\n",
    );
    let mut up = Up::of(&file);
    // OTP's rule would have given up at the fourth failure.
    for _ in 0..5 {
        up.event("worker.failed");
    }
    std::fs::write(folder.path().join("database"), "").unwrap();
    up.event("worker.ready");
    up.running.signal(Signal::SIGTERM);
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn time_that_is_up_is_an_ordered_stop_with_a_summary() {
    let (_folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1000\"]\nworkers = 2\n");
    let (status, events, said) = run(&["up", utf8(&file), "--for", "300ms", "--events", "-"]);
    assert_eq!(status, Some(0), "{said}");
    let names: Vec<String> = events
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(names.first().map(String::as_str), Some("run.started"));
    assert_eq!(names.last().map(String::as_str), Some("run.stopped"));
    assert_eq!(names.iter().filter(|name| *name == "worker.released").count(), 2);
    let summary = said.trim_end().rsplit("\n\n").next().unwrap();
    assert!(summary.starts_with("cli, run "), "{said}");
    assert!(
        summary.contains("released  2 of 2") && summary.contains("orphans   none"),
        "{said}"
    );
}

#[test]
fn readers_that_read_nothing_do_not_hinder_the_stop() {
    // Far more failures, with their texts, than two pipes hold.
    let (_folder, file) = folder(
        "[pool.a]\ncommand = [\"sh\", \"-c\", \"for i in 1 2 3 4 5 6 7 8 9; do echo $i some words of the worker on its stderr >&2; done; exit 1\"]\nworkers = 4\nintensity = 1000000\n",
    );
    let mut command = ostler(&["up", utf8(&file), "--for", "3s", "--events", "-"]);
    let mut up = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    // Held open, never read.
    let (_stdout, _stderr) = (up.child().stdout.take(), up.child().stderr.take());
    assert_eq!(up.ended(), Some(0));
}

#[test]
fn readers_that_are_gone_do_not_hinder_the_run() {
    let (folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"0.2\"]\nintensity = 1000000\n");
    let mut command = ostler(&["up", utf8(&file), "--for", "2s", "--events", "-"]);
    let mut up = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    drop((up.child().stdout.take(), up.child().stderr.take()));
    assert_eq!(up.ended(), Some(0));
    assert_eq!(run_directories(&folder.path().join("state")), 0);
}

fn run_directories(state: &Path) -> usize {
    std::fs::read_dir(state.join("cli")).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.path().is_dir()).count()
    })
}

#[test]
fn an_events_file_on_a_full_disk_is_reported_once() {
    let (_folder, file) = folder("[pool.a]\ncommand = [\"sleep\", \"1000\"]\nworkers = 3\n");
    let (status, _, said) = run(&["up", utf8(&file), "--for", "500ms", "--events", "/dev/full"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("No space left on device").count(), 1, "{said}");
}
