//! `ostler up` from a user's view: real workers, from a file to a clean stop.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::scene::{unprivileged, wrapped};
use ostler_tests::{SOON, Up, pid_of, send, survivors, worker};

/// A pool `p` of test workers with these modes and additional keys.
fn pool(modes: &str, tag: &str, keys: &str) -> String {
    format!("[pool.p]\ncommand = {}\n{keys}\n", worker(modes, tag))
}

fn http_get(port: u64) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

#[test]
fn killed_worker_is_replaced_and_all_stop() {
    let keys = "workers = 3\nport = \"any\"\nready = { http = \"/\" }";
    let mut up = Up::start(|tag| pool("http", tag, keys));
    up.wait_for_event("pool.ready");
    let first = up
        .named("worker.ready")
        .find(|event| event["worker"] == "p/1")
        .unwrap()
        .clone();
    assert_eq!(http_get(first["port"].as_u64().unwrap()), pid_of(&first).to_string());

    send(pid_of(&first), Signal::SIGKILL);
    let second = up.wait_for("the replacement", SOON, |event| {
        event["event"] == "worker.ready" && event["worker"] == "p/1"
    });
    assert_eq!(second["incarnation"], 2);
    assert_ne!(second["pid"], first["pid"]);
    assert_eq!(second["port"], first["port"], "a restart reuses the port");
    assert_eq!(http_get(second["port"].as_u64().unwrap()), pid_of(&second).to_string());

    let life: Vec<String> = up
        .seen
        .iter()
        .filter(|event| event["worker"] == "p/1")
        .map(|event| format!("{} {}", event["event"].as_str().unwrap(), event["incarnation"]))
        .collect();
    assert_eq!(
        life,
        [
            "worker.reserved 1",
            "worker.spawned 1",
            "worker.ready 1",
            "worker.exited 1",
            "worker.failed 1",
            "worker.released 1",
            "worker.restarting 1",
            "worker.reserved 2",
            "worker.spawned 2",
            "worker.ready 2"
        ]
    );
    up.stop_cleanly();
    assert_eq!(
        up.count("worker.released"),
        4,
        "every spawned incarnation is released once; {}",
        up.story()
    );
    assert_eq!(
        up.named("worker.stopping")
            .filter(|event| event["cause"] == "instance_stop")
            .count(),
        3
    );
}

#[test]
fn sequence_numbers_have_no_gaps() {
    let mut up = Up::start(|tag| pool("sleep", tag, "workers = 5"));
    up.wait_for_event("pool.ready");
    up.stop_cleanly();
    let numbers: Vec<u64> = up.seen.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=up.seen.len() as u64).collect::<Vec<_>>());
    assert_eq!(up.seen.first().unwrap()["event"], "run.started");
    assert_eq!(up.seen.last().unwrap()["event"], "run.stopped");
}

#[test]
fn exits_before_ready_make_the_pool_give_up_and_show_stderr() {
    let keys = "workers = 2\nport = \"any\"\nready = { http = \"/\" }\nintensity = 3";
    let begun = Instant::now();
    let mut up = Up::start(|tag| pool("stderr+exit=0", tag, keys));
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    for name in ["p/0", "p/1"] {
        let failures: Vec<_> = up
            .named("worker.failed")
            .filter(|event| event["worker"] == name)
            .collect();
        assert_eq!(
            failures.len(),
            4,
            "the first start and three restarts of {name}; {}",
            up.story()
        );
        for failure in failures {
            assert_eq!(failure["reason"], "exited_before_ready");
            assert_eq!(failure["status"], 0);
            assert!(
                failure["stderr_tail"][0]
                    .as_str()
                    .unwrap()
                    .contains("ModuleNotFoundError"),
                "{failure}"
            );
        }
        assert_eq!(
            up.named("worker.restarting")
                .filter(|event| event["worker"] == name)
                .count(),
            3
        );
    }
    assert_eq!(up.count("worker.gave_up"), 2);
    assert_eq!(up.count("pool.gave_up"), 1);
    assert!(stderr.contains("ModuleNotFoundError"), "stderr shows why: {stderr}");
    up.assert_nothing_left();
}

#[test]
fn an_empty_pool_runs_until_it_is_stopped() {
    let mut up = Up::start(|tag| pool("sleep", tag, "workers = 0"));
    assert_eq!(up.wait_for_event("pool.ready")["count"], 0);
    up.stop_cleanly();
    assert_eq!((up.count("pool.finished"), up.count("pool.stopped")), (0, 1));
    up.assert_nothing_left();
}

#[test]
fn unread_output_blocks_nothing() {
    let keys = "restart = \"temporary\"\noutput = { log = false }";
    let mut up = Up::start(|tag| pool(&format!("flood={}", 512 << 20), tag, keys));
    up.wait_for_event("worker.spawned");
    let host = i32::try_from(up.pid()).unwrap();
    up.wait_for("the end of the flood", Duration::from_secs(60), |event| {
        event["event"] == "worker.exited"
    });
    let peak = procfs::process::Process::new(host)
        .unwrap()
        .status()
        .unwrap()
        .vmhwm
        .unwrap();
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(up.named("worker.exited").next().unwrap()["status"], 0);
    assert!(peak < 100 * 1024, "the host's peak was {peak} KiB");
    assert_eq!(up.count("pool.finished"), 1);
    up.assert_nothing_left();
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn fixed_port_is_reused_although_a_grandchild_held_it() {
    let port = free_port();
    let keys = format!("port = {port}\nready = {{ http = \"/\" }}\nintensity = 100");
    let mut up = Up::start(|tag| pool("port-keeper", tag, &keys));
    let is_ready = |event: &serde_json::Value| event["event"] == "worker.ready";
    for round in 1..=20 {
        let ready = up.wait_for("a ready worker", SOON, is_ready);
        assert_eq!(
            (ready["port"].as_u64(), ready["incarnation"].as_u64()),
            (Some(port.into()), Some(round))
        );
        send(pid_of(&ready), Signal::SIGKILL);
    }
    up.wait_for("the last replacement", SOON, is_ready);
    assert_eq!(survivors(&up.tag).len(), 2, "one worker and its grandchild");
    up.stop_cleanly();
}

#[test]
fn unrelated_process_on_the_port_is_named() {
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = foreign.local_addr().unwrap().port();
    let mut up = Up::start(|tag| {
        pool(
            "http",
            tag,
            &format!("port = {port}\nready = {{ http = \"/\" }}\nintensity = 3"),
        )
    });
    let (status, _) = up.end(SOON);
    assert_eq!(status.code(), Some(1));
    let failure = up.named("worker.failed").next().unwrap();
    assert_eq!(failure["reason"], "port_in_use");
    let holder = failure["holder"].as_str().unwrap();
    assert!(holder.contains(&std::process::id().to_string()), "its pid: {holder}");
    let command = std::env::current_exe()
        .unwrap()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert!(holder.contains(&command[..10]), "its command: {holder}");
    assert_eq!(up.count("worker.ready"), 0);
    up.assert_nothing_left();
}

/// A worker that has not bound its port yet, while an unrelated process answers 200 on that port.
#[test]
fn answer_of_an_unrelated_process_does_not_make_a_worker_ready() {
    let keys = "port = \"any\"\nready = { http = \"/\" }\nstart_timeout = \"3s\"\nintensity = 0";
    let mut up = Up::start(|tag| pool("sleep", tag, keys));
    let spawned = up.wait_for_event("worker.spawned");
    let port = u16::try_from(spawned["port"].as_u64().unwrap()).unwrap();
    let foreign = TcpListener::bind(("127.0.0.1", port)).unwrap();
    foreign.set_nonblocking(true).unwrap();
    let failure = loop {
        if let Ok((mut stream, _)) = foreign.accept() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        }
        let fits =
            |event: &serde_json::Value| matches!(event["event"].as_str(), Some("worker.failed" | "worker.ready"));
        if let Some(event) = up.poll(Duration::from_millis(5), fits) {
            break event;
        }
    };
    assert_eq!(failure["reason"], "port_in_use", "{failure}");
    assert!(
        failure["holder"]
            .as_str()
            .unwrap()
            .contains(&std::process::id().to_string()),
        "{failure}"
    );
    drop(foreign);
    let (status, _) = up.end(SOON);
    assert_eq!(status.code(), Some(1));
    up.assert_nothing_left();
}

#[test]
fn twenty_workers_survive_a_storm_of_kills() {
    let keys = "workers = 20\nport = \"any\"\nready = { http = \"/\" }\nintensity = 10000\nmax_starting = 20";
    let mut up = Up::start(|tag| pool("child+http", tag, keys));
    up.wait_for_event("pool.ready");
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let storm = Duration::from_secs(5);
    let begun = Instant::now();
    let tag = up.tag.clone();
    for round in 0_u32..600 {
        // Paces the storm; events are read between two kills.
        let next = begun + storm * round / 600;
        up.read_until(next);
        let alive = survivors(&tag);
        if let Some((pid, _)) = random.choice(alive) {
            send(u32::try_from(pid).unwrap(), Signal::SIGKILL);
        }
    }
    let calm = Instant::now();
    while up.alive_workers() < 20 {
        up.wait_for(
            "full strength",
            Duration::from_secs(3).saturating_sub(calm.elapsed()),
            |event| event["event"] == "worker.ready",
        );
    }
    assert!(calm.elapsed() < Duration::from_secs(3));
    up.stop_cleanly();
    let key = |event: &serde_json::Value| format!("{}#{}", event["worker"], event["incarnation"]);
    let mut spawned: Vec<_> = up.named("worker.spawned").map(key).collect();
    let mut released: Vec<_> = up.named("worker.released").map(key).collect();
    let reserved = up.count("worker.reserved");
    spawned.sort();
    released.sort();
    assert_eq!(
        released.len(),
        reserved,
        "each reserved incarnation is released exactly once"
    );
    released.dedup();
    assert_eq!(released.len(), reserved);
    assert!(spawned.iter().all(|key| released.contains(key)));
    assert_eq!(up.count("cleanup.orphans_found"), 0);
}

#[test]
fn two_hundred_workers_fit_under_a_limit_of_1024_descriptors() {
    let keys = "workers = 200\nport = \"any\"\nready = { http = \"/\" }";
    let few = |command: &mut Command| limited(command, 1024);
    let mut up = Up::start_with(|tag| pool("http", tag, keys), few);
    up.wait_for("all ready", Duration::from_secs(60), |event| {
        event["event"] == "pool.ready"
    });
    let (soft, _) = limit(up.pid());
    assert_eq!(soft, 1024, "limit of the program");
    assert_eq!(survivors(&up.tag).len(), 200);
    up.stop_cleanly();
    assert_eq!(up.count("worker.released"), 200);
    assert_eq!(up.count("worker.failed"), 0, "{}", up.story());
}

/// Wraps the command in `ulimit -n`.
fn limited(command: &mut Command, descriptors: u32) {
    let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(script)
        .arg(command.get_program())
        .args(command.get_args());
    shell.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    *command = shell;
}

fn limit(pid: u32) -> (u64, u64) {
    let limits = procfs::process::Process::new(i32::try_from(pid).unwrap())
        .unwrap()
        .limits()
        .unwrap();
    let number = |value| match value {
        procfs::process::LimitValue::Unlimited => u64::MAX,
        procfs::process::LimitValue::Value(value) => value,
    };
    (
        number(limits.max_open_files.soft_limit),
        number(limits.max_open_files.hard_limit),
    )
}

#[test]
fn second_interrupt_kills_workers_that_ignore_the_first() {
    let mut up = Up::start(|tag| {
        pool(
            "ignore-term+say-out+sleep",
            tag,
            "workers = 2\nready = { line = \"^ready\" }\nstop = { signal = \"TERM\", grace = \"1h\" }",
        )
    });
    up.wait_for_event("pool.ready");
    up.signal(Signal::SIGINT);
    up.wait_for_event("worker.stopping");
    let (status, stderr) = up.insist(Signal::SIGINT, SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(status.signal(), None);
    assert!(
        up.named("worker.exited").all(|event| event["signal"] == "KILL"),
        "{}",
        up.story()
    );
    up.assert_nothing_left();
}

/// At a limit on processes, which does not apply to root, it says so: without a thread that tokio
/// or RocksDB needs, the one hangs and the other aborts.
#[test]
fn limit_on_processes_at_the_start_is_named() {
    const USER: u32 = 61_184;
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a user without other processes takes root");
        return;
    }
    for limit in [1, 3, 7, 8, 9, 12, 16] {
        let limited = |command: &mut Command| {
            unprivileged(command, USER);
            wrapped(command, &["prlimit", &format!("--nproc={limit}")]);
        };
        let mut up = Up::start_with(|tag| pool("exit=0", tag, "restart = \"temporary\""), limited);
        let (status, stderr) = up.end(SOON);
        let named = stderr.contains("threads can't be created") && stderr.contains("ulimit -u");
        assert_eq!(status.code(), Some(3), "{limit}: {stderr}");
        assert!(named, "{limit}: {stderr}");
        up.assert_nothing_left();
    }
}

/// timeout(1) signals its child and then the whole group; a service manager may add HUP.
#[test]
fn signals_that_come_together_stop_in_order() {
    for second in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut up = Up::start(|tag| pool("exit-on-term=300", tag, "ready = { line = \"^ready\" }"));
        up.wait_for_event("pool.ready");
        up.signal(Signal::SIGTERM);
        // Two of the same kind that are pending are one.
        up.wait_for_event("worker.stopping");
        up.signal(second);
        let exited = up.wait_for_event("worker.exited");
        assert_eq!(exited["status"], 0, "{second}: {exited}");
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.code(), Some(0), "{stderr}");
        up.assert_nothing_left();
    }
}

#[test]
fn killed_host_leaves_nothing_and_the_next_start_sweeps_its_record() {
    let mut up = Up::start(|tag| {
        pool(
            "daemon+daemon-naked+sleep",
            tag,
            "workers = 4\nready = { after = \"300ms\" }",
        )
    });
    up.wait_for_event("pool.ready");
    assert_eq!(survivors(&up.tag).len(), 12);
    up.signal(Signal::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !survivors(&up.tag).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", survivors(&up.tag));
        std::thread::yield_now();
    }
    let state = up.directory.path().join("state");
    assert_eq!(
        ostler_tests::run_directories(&state).len(),
        1,
        "the dead run's table is removed"
    );
    ostler_tests::sweep::sweep(&state);
    assert_eq!(ostler_tests::run_directories(&state).len(), 0);
}
