//! Nothing innocent is hurt: whoever only looks like one of a run's processes is not touched.

use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use ostler_tests::scene::{pool, pool_of, unshared, wrapped};
use ostler_tests::sweep::{sweep, sweep_by, swept, without_guardians_lock};
use ostler_tests::world::{Anatomy, Stranger, World, await_count, inside_a_pid_namespace, is_alive, kill_at_once};
use ostler_tests::{SOON, Up, config, pid_of, pids, program, run_directories, send};

/// A run of one worker whose host, guardian and sitter were killed at one moment: all that its table names is dead.
fn dead_run(change: impl FnOnce(&mut Command)) -> (Up, Anatomy, u32) {
    let mut up = Up::start_with(|tag| pool("sleep", tag, ""), change);
    let worker = pid_of(&up.wait_for_event("worker.ready"));
    let anatomy = Anatomy::of(up.pid());
    kill_at_once(&anatomy.all());
    up.end(SOON);
    await_count(&up.tag, "gone", |count| count == 0);
    (up, anatomy, worker)
}

/// A stranger that has been given this very pid, by the machine's own counter.
fn with_pid(wanted: u32) -> Stranger {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).unwrap();
        let stranger = Stranger::start(Command::new("sleep").arg("3600"));
        if stranger.pid() == wanted {
            return stranger;
        }
    }
    panic!("pid {wanted} is not given out again");
}

#[test]
fn pids_on_record_that_went_to_strangers_are_not_touched() {
    if !inside_a_pid_namespace("pids_on_record_that_went_to_strangers_are_not_touched") {
        return;
    }
    let (up, anatomy, worker) = dead_run(|_| {});
    let recorded = [worker, anatomy.guardian, anatomy.host, anatomy.sitters[0]];
    let mut strangers = recorded.map(with_pid);
    let text = sweep(&up.state());
    assert!(
        text.starts_with("test: 1 dead runs removed, 0 processes killed"),
        "{text}"
    );
    strangers.iter_mut().for_each(Stranger::assert_untouched);
    up.assert_nothing_left();
}

/// Another user's process with the command line of a worker, beside a run of a user who may not signal it.
#[test]
fn another_users_process_that_looks_like_a_worker_is_no_concern_of_a_sweep() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: another user's process takes root to start");
    }
    let (up, ..) = dead_run(|command| World::Unprivileged.apply(command));
    let look_alike = |user: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .args(["--pdeathsig", "KILL", "--"])
            .arg(up.directory.path().join("ostler-test-worker"))
            .args(["sleep", "{port}", &up.tag]);
        Stranger::start(&mut command)
    };
    // Of the very user of the run, too: a command line is no identity.
    let mut strangers = ["64111", "64110"].map(look_alike);
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
        swept.said.starts_with("test: 1 dead runs removed, 0 processes killed"),
        "{swept:?}"
    );
    strangers.iter_mut().for_each(Stranger::assert_untouched);
}

/// The name and value of the marker that a process bears.
fn marker_of(pid: u32) -> (String, String) {
    let environment = procfs::process::Process::new(i32::try_from(pid).unwrap())
        .unwrap()
        .environ()
        .unwrap();
    let marker = environment
        .into_iter()
        .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
        .find(|(name, _)| name.starts_with("OSTLER_RUN_"));
    marker.expect("a worker bears its run's marker")
}

/// In a sweep of a dead run its own marker counts, and no other: who bears a live run's is left alone, whichever value it has.
#[test]
fn the_marker_of_a_live_run_condemns_nobody_in_another_runs_sweep() {
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
        Stranger::start(&mut command)
    };
    let mut of_live = bearing(&[&live_name]);
    let of_both = bearing(&[&live_name, &dead_name]);
    let before = pids(&live.tag);
    let text = sweep(&dead.state());
    of_live.assert_untouched();
    assert!(!is_alive(of_both.pid()), "it is the dead run's as well: {text}");
    assert!(text.contains(&format!("killed pid {} ", of_both.pid())), "{text}");
    assert_eq!(pids(&live.tag), before);
    drop(of_live);
    live.stop_cleanly();
}

/// An Ostler in a worker of another, with the same app's name and a state directory of its own: it dies, comes back and sweeps,
/// and the outer's other workers don't notice; the outer dies, and all of the inner one is gone.
#[test]
fn an_ostler_inside_an_ostlers_worker() {
    const WORST: &str = "ignore-term+daemon+daemon-naked+say-out+sleep";
    let ready = "ready = { line = \"ready to serve\" }\nstop = { signal = \"TERM\", grace = \"100ms\" }";
    let inner = tempfile::tempdir().unwrap();
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
    await_count(&inner_tag, "the inner ones", |count| count == 3);
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
            // Nobody of the inner run is left to end anything: the outer's sitter has it all.
            kill_at_once(&Anatomy::of(host).all());
        } else {
            send(host, Signal::SIGKILL);
        }
        outer.wait_for("the inner one is back", SOON, |event| {
            event["event"] == "worker.ready" && event["worker"] == "inner/0"
        });
        await_count(&inner_tag, "the inner ones are back", |count| count == 3);
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

/// Two PID namespaces share a state directory: pids of the one mean other processes in the other. Live runs are known by their
/// locks; of a dead run of another namespace nobody is touched, and it is kept and told of, until somebody who knows more says
/// that the namespace is gone.
#[test]
fn a_state_directory_that_two_pid_namespaces_share() {
    if unshared(&["--pid", "--fork", "--mount-proc"]).is_none() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let shared = |command: &mut Command| {
        let file = command.get_args().nth(1).expect("its file").to_owned();
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
    await_count(&there.tag, "all there", |count| count == 2);
    let before = pids(&there.tag);
    // A run here, and a sweep here, see a live one.
    let mut here = Up::start_with(|tag| pool("sleep", tag, ""), shared);
    let at_start = here.wait_for_event("sweep.done");
    assert!(
        at_start["message"].as_str().unwrap().contains("1 live ones left alone"),
        "{at_start}"
    );
    here.wait_for_event("pool.ready");
    assert_eq!(pids(&there.tag), before);
    assert!(
        before.iter().all(|pid| u32::try_from(*pid) != Ok(pid_there)),
        "its pids are others here"
    );
    // All of it dies with its namespace's pid 1, which is the child of unshare.
    let [first] = ostler_tests::world::children(there.pid())[..] else {
        panic!("no pid 1")
    };
    send(first, Signal::SIGKILL);
    there.end(SOON);
    await_count(&there.tag, "gone", |count| count == 0);
    let kept = swept(&mut sweep_by(&program("ostler"), state.path()));
    assert!(
        kept.said.contains("it was recorded in another PID namespace"),
        "{kept:?}"
    );
    assert!(
        kept.said.contains("0 processes killed, 1 live runs left alone"),
        "{kept:?}"
    );
    // What it says is to be done is done.
    assert!(
        kept.said.contains("`ostler sweep --app test --forget-elsewhere`"),
        "{kept:?}"
    );
    let forgotten = swept(sweep_by(&program("ostler"), state.path()).arg("--forget-elsewhere"));
    assert!(
        forgotten
            .said
            .starts_with("test: 1 dead runs removed, 0 processes killed, 1 live runs left alone"),
        "{forgotten:?}"
    );
    assert_eq!(
        here.poll(std::time::Duration::ZERO, |event| event["event"] == "worker.exited"),
        None
    );
    here.stop_cleanly();
}

/// A container whose first process is the host, and which is started again beside the state that it left: with the host all of
/// it has ended, so its run can be swept from anywhere.
#[test]
fn a_run_whose_host_was_pid_1_of_another_namespace_ended_with_it() {
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
    await_count(&dead.tag, "all there", |count| count == 3);
    let [host] = ostler_tests::world::children(dead.pid())[..] else {
        panic!("no pid 1")
    };
    send(host, Signal::SIGKILL);
    dead.end(SOON);
    let text = sweep(&dead.state());
    assert!(
        text.starts_with("test: 1 dead runs removed, 0 processes killed"),
        "{text}"
    );
    dead.assert_nothing_left();
}

/// The guardian there gives a worker its grace: nobody here waits for that, or ends it.
#[test]
fn what_goes_on_in_another_namespace_holds_up_no_sweep_here() {
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
    // Not a zombie, whose other threads may have the lock still: reaped.
    while std::path::Path::new(&format!("/proc/{host}")).exists() {
        assert!(Instant::now() < deadline, "the host lives on");
        std::thread::yield_now();
    }
    let begun = Instant::now();
    let kept = swept(sweep_by(&program("ostler"), &there.state()).arg("--forget-elsewhere"));
    let took = begun.elapsed();
    assert!(took < ostler::sweep::SWEEP_LIMIT, "{took:?}");
    assert!(
        kept.said
            .contains("is kept for the next sweep: its guardian or a sitter lives in another PID namespace"),
        "{kept:?}"
    );
    assert_eq!(pids(&there.tag), before);
    send(first, Signal::SIGKILL);
    there.end(SOON);
    await_count(&there.tag, "gone", |count| count == 0);
    // As one of a version without that lock it may be alive, and whoever knows that it is not says so.
    without_guardians_lock(&there.state());
    let kept = swept(&mut sweep_by(&program("ostler"), &there.state()));
    assert!(
        kept.said.contains("`ostler sweep --app test --forget-elsewhere`"),
        "{kept:?}"
    );
    let forgotten = swept(sweep_by(&program("ostler"), &there.state()).arg("--forget-elsewhere"));
    assert!(forgotten.said.starts_with("test: 1 dead runs removed"), "{forgotten:?}");
    there.assert_nothing_left();
}
