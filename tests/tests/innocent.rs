//! Unrelated processes are never touched, even if they look like processes of a run.

use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::scene::{pool, pool_of, unshared, wrapped};
use ostler_tests::sweep::{sweep, sweep_by, swept, without_guardians_lock};
use ostler_tests::world::{Anatomy, Bystander, World, await_count, inside_a_pid_namespace, is_alive, kill_at_once};
use ostler_tests::{SOON, Up, config, pid_of, pids, program, run_directories, send};

/// A run of one worker whose host, guardian and sitter were killed together, so that everything in
/// its table is dead.
fn dead_run(change: impl FnOnce(&mut Command)) -> (Up, Anatomy, u32) {
    let mut up = Up::start_with(|tag| pool("sleep", tag, ""), change);
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    let anatomy = Anatomy::of(up.pid());
    kill_at_once(&anatomy.all());
    up.end(SOON);
    await_count(&up.tag, "gone", |count| count == 0);
    (up, anatomy, worker)
}

/// An unrelated process with exactly this pid, obtained by setting the machine's pid counter.
fn with_pid(pid: u32) -> Bystander {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let bystander = Bystander::start(Command::new("sleep").arg("3600"));
        if bystander.pid() == pid {
            return bystander;
        }
    }
    panic!("pid {pid} was not reused");
}

#[test]
fn reused_pids_on_record_are_not_touched() {
    if !inside_a_pid_namespace("reused_pids_on_record_are_not_touched") {
        return;
    }
    let (up, anatomy, worker) = dead_run(|_| {});
    let recorded = [worker, anatomy.guardian, anatomy.host, anatomy.sitters[0]];
    let mut bystanders = recorded.map(with_pid);
    let text = sweep(&up.state());
    assert!(
        text.starts_with("test: 1 dead run removed, 0 processes killed"),
        "{text}"
    );
    bystanders.iter_mut().for_each(Bystander::assert_untouched);
    up.assert_nothing_left();
}

/// Another user's process with the command line of a worker, next to a run of a user who may not
/// signal it.
#[test]
fn sweep_ignores_another_users_process_that_looks_like_a_worker() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: starting another user's process needs root");
    }
    let (up, ..) = dead_run(|command| World::Unprivileged.apply(command));
    let look_alike = |user: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .args(["--pdeathsig", "KILL", "--"])
            .arg(up.directory.path().join("ostler-test-worker"))
            .args(["sleep", "{port}", &up.tag]);
        Bystander::start(&mut command)
    };
    // Also one of the run's own user, because a command line identifies nothing.
    let mut bystanders = ["64111", "64110"].map(look_alike);
    await_count(&up.tag, "the look-alikes", |count| count == 2);
    let user = [
        "setpriv",
        "--reuid",
        "64110",
        "--regid",
        "64110",
        "--clear-groups",
        "--",
    ];
    let mut command = sweep_by(&up.directory.path().join("ostler"), &up.state());
    wrapped(&mut command, &user);
    let swept = swept(&mut command);
    assert!(swept.success, "{swept:?}");
    assert!(
        swept.output.starts_with("test: 1 dead run removed, 0 processes killed"),
        "{swept:?}"
    );
    bystanders.iter_mut().for_each(Bystander::assert_untouched);
}

/// The name and value of a process's marker variable.
fn marker_of(pid: u32) -> (String, String) {
    let environment = procfs::process::Process::new(i32::try_from(pid).unwrap())
        .unwrap()
        .environ()
        .unwrap();
    let marker = environment
        .into_iter()
        .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
        .find(|(name, _)| name.starts_with("OSTLER_RUN_"));
    marker.expect("worker carries its run's marker")
}

/// A sweep only considers the marker of the run it sweeps. A process with the marker of a live run
/// is left alone, whatever its value.
#[test]
fn marker_of_a_live_run_is_ignored_in_another_runs_sweep() {
    let mut live = Up::start(|tag| pool("sleep", tag, ""));
    let (live_name, value) = marker_of(pid_of(&live.wait_for_event("worker.ready")));
    let mut dead = Up::start(|tag| pool("sleep", tag, ""));
    let (dead_name, _) = marker_of(pid_of(&dead.wait_for_event("worker.ready")));
    kill_at_once(&Anatomy::of(dead.pid()).all());
    dead.end(SOON);
    let bearing = |names: &[&str]| {
        let mut command = Command::new("sleep");
        command
            .arg("3600")
            .envs(names.iter().map(|name| (*name, value.as_str())));
        Bystander::start(&mut command)
    };
    let mut of_live = bearing(&[&live_name]);
    let of_both = bearing(&[&live_name, &dead_name]);
    let before = pids(&live.tag);
    let text = sweep(&dead.state());
    of_live.assert_untouched();
    assert!(!is_alive(of_both.pid()), "it has the dead run's marker too: {text}");
    assert!(text.contains(&format!("killed pid {} ", of_both.pid())), "{text}");
    assert_eq!(pids(&live.tag), before);
    drop(of_live);
    live.stop_cleanly();
}

/// An Ostler in a worker of another one, with the same app name and its own state directory. The
/// inner one dies, comes back and sweeps, and the outer one's other workers are not affected. Then
/// the outer one dies, and nothing of the inner one is left.
#[test]
fn an_ostler_inside_an_ostlers_worker() {
    const WORST: &str = "ignore-term+daemon+daemon-naked+say-out+sleep";
    let ready = "ready = { line = \"ready to serve\" }\nstop = { signal = \"TERM\", grace = \"100ms\" }";
    let inner = TestDirectory::new();
    let nested = |tag: &str| {
        let file = config(inner.path(), &pool(WORST, &format!("{tag}.inner"), ready));
        let command = format!(
            "[{:?}, \"up\", {:?}, \"--no-table\"]",
            program("ostler").display().to_string(),
            file.display().to_string()
        );
        let nested = pool_of(&command, "intensity = 10").replace("[pool.p]", "[pool.inner]");
        format!("{nested}{}", pool(WORST, tag, ready))
    };
    let mut outer = Up::start_with(nested, |_| {});
    let inner_tag = format!("{}.inner", outer.tag);
    for _ in 0..2 {
        outer.wait_for_event("pool.ready");
    }
    await_count(&inner_tag, "the inner workers", |count| count == 3);
    let untouched = pids(&outer.tag);
    assert_eq!(untouched.len(), 3);
    for round in 0..3 {
        let host = outer
            .named("worker.spawned")
            .filter(|event| event["worker"] == "inner/0")
            .last()
            .unwrap();
        let host = pid_of(host);
        let before = pids(&inner_tag);
        if round == 1 {
            // Nothing of the inner run is left that could end its workers: they are in the tree of
            // the outer one's sitter.
            kill_at_once(&Anatomy::of(host).all());
        } else {
            send(host, Signal::SIGKILL);
        }
        outer.wait_for("the inner Ostler is back", SOON, |event| {
            event["event"] == "worker.ready" && event["worker"] == "inner/0"
        });
        await_count(&inner_tag, "the inner workers are back", |count| count == 3);
        let after = pids(&inner_tag);
        assert!(before.is_disjoint(&after), "{before:?} {after:?}");
        assert_eq!(pids(&outer.tag), untouched, "round {round}");
        assert_eq!(
            run_directories(&inner.path().join("state")).len(),
            1,
            "the dead inner run was swept"
        );
    }
    outer.signal(Signal::SIGKILL);
    await_count(&inner_tag, "gone", |count| count == 0);
    await_count(&outer.tag, "gone", |count| count == 0);
    outer.end(SOON);
    sweep(&outer.state());
    outer.assert_nothing_left();
    sweep(&inner.path().join("state"));
    assert_eq!(run_directories(&inner.path().join("state")).len(), 0);
}

/// Two PID namespaces share a state directory, so the same pid means different processes. Live runs
/// are recognised by their locks. A dead run of another namespace is kept and reported and its
/// processes are not touched, until the user says that the namespace is gone.
#[test]
fn state_directory_shared_by_two_pid_namespaces() {
    if unshared(&["--pid", "--fork", "--mount-proc"]).is_none() {
        return;
    }
    let state = TestDirectory::new();
    let shared = |command: &mut Command| {
        let file = command.get_args().nth(1).expect("configuration file").to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let shared = format!("state_dir = {:?}", state.path().display().to_string());
        std::fs::write(&file, text.replace("state_dir = \"state\"", &shared)).unwrap();
    };
    let elsewhere = |command: &mut Command| {
        shared(command);
        let line = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "\"$0\" \"$@\"; exit $?",
        ];
        wrapped(command, &line);
    };
    let mut there = Up::start_with(
        |tag| pool("daemon+say-out+sleep", tag, "ready = { line = \"ready\" }"),
        elsewhere,
    );
    let pid_there = pid_of(&there.wait_for_event("worker.spawned"));
    there.wait_for_event("pool.ready");
    await_count(&there.tag, "all processes", |count| count == 2);
    let before = pids(&there.tag);
    // A run and a sweep in this namespace see a live run.
    let mut here = Up::start_with(|tag| pool("sleep", tag, ""), shared);
    let at_start = here.wait_for_event("sweep.done");
    assert!(
        at_start["message"].as_str().unwrap().contains("1 live left alone"),
        "{at_start}"
    );
    here.wait_for_event("pool.ready");
    assert_eq!(pids(&there.tag), before);
    assert!(
        before.iter().all(|pid| u32::try_from(*pid) != Ok(pid_there)),
        "its pids are different here"
    );
    // The namespace ends with its pid 1, which is the child of unshare.
    let [first] = ostler_tests::world::children(there.pid())[..] else {
        panic!("no pid 1")
    };
    send(first, Signal::SIGKILL);
    there.end(SOON);
    await_count(&there.tag, "gone", |count| count == 0);
    let kept = swept(&mut sweep_by(&program("ostler"), state.path()));
    assert!(
        kept.output.contains("it was recorded in another PID namespace"),
        "{kept:?}"
    );
    assert!(
        kept.output.contains("0 processes killed, 1 live run left alone"),
        "{kept:?}"
    );
    // The advice in the message works.
    assert!(
        kept.output.contains("`ostler sweep --app test --forget-elsewhere`"),
        "{kept:?}"
    );
    let forgotten = swept(sweep_by(&program("ostler"), state.path()).arg("--forget-elsewhere"));
    assert!(
        forgotten
            .output
            .starts_with("test: 1 dead run removed, 0 processes killed, 1 live run left alone"),
        "{forgotten:?}"
    );
    assert_eq!(
        here.poll(std::time::Duration::ZERO, |event| event["event"] == "worker.exited"),
        None
    );
    here.stop_cleanly();
}

/// A container whose first process is the host, restarted with the state that it left. All its
/// processes ended with the host, so its run can be swept from anywhere.
#[test]
fn run_whose_host_was_pid_1_of_its_namespace_is_swept() {
    let container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if unshared(&container[1..]).is_none() {
        return;
    }
    let pools = |tag: &str| {
        let ready = "ready = { line = \"ready to serve\" }";
        pool("daemon+daemon-naked+say-out+sleep", tag, ready)
    };
    let mut dead = Up::start_with(pools, |command| wrapped(command, &container));
    dead.wait_for_event("pool.ready");
    await_count(&dead.tag, "all processes", |count| count == 3);
    let [host] = ostler_tests::world::children(dead.pid())[..] else {
        panic!("no pid 1")
    };
    send(host, Signal::SIGKILL);
    dead.end(SOON);
    let text = sweep(&dead.state());
    assert!(
        text.starts_with("test: 1 dead run removed, 0 processes killed"),
        "{text}"
    );
    dead.assert_nothing_left();
}

/// A guardian in another namespace gives its worker a grace. A sweep in this one neither waits for
/// that nor ends the worker.
#[test]
fn sweep_does_not_wait_for_another_namespace() {
    let container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if unshared(&container[1..]).is_none() {
        return;
    }
    let keys = "ready = { line = \"ready to serve\" }\nhost_death = { signal = \"TERM\", grace = \"1h\" }";
    let mut there = Up::start_with(
        |tag| pool("ignore-term+say-out+sleep", tag, keys),
        |command| {
            let outlived = ["sh", "-c", "\"$0\" \"$@\"; sleep 3600"];
            wrapped(command, &[&container[..], &outlived].concat());
        },
    );
    there.wait_for_event("pool.ready");
    let only_child = |of: u32| match ostler_tests::world::children(of)[..] {
        [child] => child,
        ref children => panic!("the children of {of}: {children:?}"),
    };
    let first = only_child(there.pid());
    let host = only_child(first);
    let before = pids(&there.tag);
    send(host, Signal::SIGKILL);
    let deadline = Instant::now() + SOON;
    // Wait until it is reaped: the other threads of a zombie may still hold the lock.
    while std::path::Path::new(&format!("/proc/{host}")).exists() {
        assert!(Instant::now() < deadline, "the host is still running");
        std::thread::yield_now();
    }
    let begun = Instant::now();
    let kept = swept(sweep_by(&program("ostler"), &there.state()).arg("--forget-elsewhere"));
    let took = begun.elapsed();
    assert!(took < ostler::sweep::SWEEP_LIMIT, "{took:?}");
    assert!(
        kept.output
            .contains("is kept for the next sweep: its guardian or a sitter lives in another PID namespace"),
        "{kept:?}"
    );
    assert_eq!(pids(&there.tag), before);
    send(first, Signal::SIGKILL);
    there.end(SOON);
    await_count(&there.tag, "gone", |count| count == 0);
    // A run of a version without that lock may be alive; the user says that it is not.
    without_guardians_lock(&there.state());
    let kept = swept(&mut sweep_by(&program("ostler"), &there.state()));
    assert!(
        kept.output.contains("`ostler sweep --app test --forget-elsewhere`"),
        "{kept:?}"
    );
    let forgotten = swept(sweep_by(&program("ostler"), &there.state()).arg("--forget-elsewhere"));
    assert!(
        forgotten.output.starts_with("test: 1 dead run removed"),
        "{forgotten:?}"
    );
    there.assert_nothing_left();
}
