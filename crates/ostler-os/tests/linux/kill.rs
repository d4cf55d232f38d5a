//! Killing what is not ours by birth: trees that do their worst, and survivors with a name.

use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::identity::ProcessIdentity;
use ostler_os::kill::{Why, kill_all, kill_trees};
use ostler_os::procfile;

use crate::common::{Troupe, handle_of, is_root, run_as_nobody, run_as_nobody_after, soon, test_attribution, until};

fn identity(pid: i32) -> ProcessIdentity {
    handle_of(pid).identity()
}

#[test]
fn all_are_killed_before_any_is_waited_for() {
    let mut troupe = Troupe::new();
    let identities: Vec<_> = (0..200)
        .map(|_| identity(troupe.spawn(troupe.command("sh", &["-c", "trap '' TERM INT HUP; sleep 600"]))))
        .collect();
    let report = kill_all(&identities, &test_attribution(), soon());
    assert!(report.is_clean(), "{:?}", report.survivors);
    assert_eq!(report.killed.len(), 200, "more than the pidfds that are kept open");
    // Their sleeps are left: kill_all takes exactly whom it is given.
    let left = troupe.living();
    assert!(kill_all(&left, &test_attribution(), soon()).is_clean());
    troupe.assert_none_left();
}

#[test]
fn strangers_and_the_gone_are_reported_and_not_touched() {
    let mut troupe = Troupe::new();
    let alive = identity(troupe.spawn(troupe.command("sleep", &["600"])));
    let stranger = ProcessIdentity {
        start_time: alive.start_time - 1,
        ..alive
    };
    let nobody = ProcessIdentity { pid: i32::MAX, ..alive };
    let elsewhere = ProcessIdentity {
        pid_namespace: alive.pid_namespace + 1,
        ..alive
    };
    let report = kill_trees(&[stranger, nobody, elsewhere], &test_attribution(), soon());
    assert_eq!(report.already_gone, vec![stranger, nobody]);
    assert_eq!(report.survivors.len(), 1);
    assert!(matches!(report.survivors[0].why, Why::Unverifiable(_)));
    assert_eq!(
        report.survivors[0].holder, None,
        "a pid of another namespace is not named here"
    );
    assert!(!handle_of(alive.pid).has_ended().expect("readable"));
    let state = procfile::stat(alive.pid).expect("readable").expect("alive").state;
    assert_ne!(state, 'T', "nor was it stopped");
}

#[test]
fn a_tree_that_forks_while_it_is_killed_is_gone_whole() {
    let mut troupe = Troupe::new();
    let script = "
import os, signal, sys, time
for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print('up')
while True:
    if os.fork() == 0:
        os.setsid()
        while True: time.sleep(600)
    time.sleep(0.002)
";
    for _ in 0..5 {
        let (root, _) = troupe.python(script);
        let report = kill_trees(&[identity(root)], &test_attribution(), soon());
        assert!(report.is_clean(), "{:?}", report.survivors);
        troupe.assert_none_left();
    }
}

#[test]
fn grandchildren_in_sessions_of_their_own_go_with_the_root() {
    let mut troupe = Troupe::new();
    let script = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 600 & sleep 600 & echo up; wait\" & wait";
    let (root, _) = troupe.spawn_and_hear(troupe.command("sh", &["-c", script]));
    let report = kill_trees(&[identity(root)], &test_attribution(), soon());
    assert!(report.is_clean() && report.killed.len() >= 3, "{report:?}");
    troupe.assert_none_left();
}

#[test]
fn a_stopped_process_is_killed_too() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let stop = Signal::from_number(19).expect("SIGSTOP");
    handle_of(pid).signal(stop, &test_attribution()).expect("permitted");
    assert!(kill_trees(&[identity(pid)], &test_attribution(), soon()).is_clean());
    troupe.assert_none_left();
}

/// The worst that a dead run's record could ask for: a root whose tree holds us.
#[test]
fn we_are_spared_in_the_tree_of_another() {
    const INNER: &str = "OSTLER_TEST_KILLS_ITS_PARENT";
    if std::env::var_os(INNER).is_some() {
        let parent = std::os::unix::process::parent_id() as i32;
        let report = kill_trees(&[identity(parent)], &test_attribution(), soon());
        println!("killed {}", report.killed.len());
        return;
    }
    let mut troupe = Troupe::new();
    let tests = std::env::current_exe().expect("we have a program");
    // A shell that runs the inner test as its child, not in its own place.
    let script = "sleep 600 & \"$0\" --exact kill::we_are_spared_in_the_tree_of_another --nocapture; exit";
    let mut command = troupe.command("sh", &["-c", script]);
    let said = tempfile::NamedTempFile::new().expect("a file");
    command
        .arg(tests)
        .env(INNER, "1")
        .stdout(said.reopen().expect("opened"));
    troupe.spawn(command);
    until("the inner test has said how it went", || {
        let said = std::fs::read_to_string(said.path()).expect("readable");
        assert!(!said.contains("1 failed"), "{said}");
        said.contains("killed 2") && said.contains("1 passed")
    });
    troupe.assert_none_left();
}

/// A killed child under a stopped tracer with PTRACE_O_TRACEEXIT does not end, and the tracer is named.
#[test]
fn a_traced_process_is_named_with_its_tracer() {
    let mut troupe = Troupe::new();
    let script = "
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
victim = os.fork()
if victim == 0:
    while True: time.sleep(600)
PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x4206, 0x40
if libc.ptrace(PTRACE_SEIZE, victim, 0, PTRACE_O_TRACEEXIT) != 0:
    print('refused'); sys.exit()
print(victim)
while True: time.sleep(600)
";
    let (tracer, line) = troupe.python(script);
    let Ok(victim) = line.parse::<i32>() else {
        println!("skipped: this machine forbids ptrace");
        return;
    };
    let deadline = Instant::now() + Duration::from_millis(200);
    let report = kill_all(&[identity(victim)], &test_attribution(), deadline);
    assert_eq!(report.survivors.len(), 1, "{report:?}");
    assert_eq!(report.survivors[0].why, Why::Traced { by: tracer });
    let text = report.survivors[0].to_string();
    assert!(text.contains(&format!("traced by pid {tracer}")), "{text}");
    // With its tracer gone it ends.
    assert!(kill_all(&[identity(tracer)], &test_attribution(), soon()).is_clean());
    troupe.assert_none_left();
}

#[test]
fn a_process_of_another_user_survives_by_name() {
    if is_root() {
        run_as_nobody("kill::a_process_of_another_user_survives_by_name");
        return;
    }
    let start = Instant::now();
    // kill_all, not kill_trees: the tree of init is everybody, us included.
    let report = kill_all(&[identity(1)], &test_attribution(), soon());
    assert_eq!(report.survivors.len(), 1);
    assert_eq!(report.survivors[0].why, Why::NotPermitted);
    assert_eq!(
        report.survivors[0]
            .holder
            .as_ref()
            .map(|holder| (holder.pid, holder.uid)),
        Some((1, 0))
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "nobody waits for whom it may not kill"
    );
}

/// With `hidepid=1`: one descendant that /proc keeps from us hides none of the others, and is told of.
#[test]
fn who_is_kept_from_us_hides_nobody_else() {
    if is_root() {
        let mount = "mount -t proc -o hidepid=1 proc /proc";
        return run_as_nobody_after(mount, "kill::who_is_kept_from_us_hides_nobody_else");
    }
    if procfile::stat(1).is_ok() {
        return println!("skipped: a /proc of its own takes root");
    }
    let mut troupe = Troupe::new();
    let script = "import ctypes, os, signal
def below(change):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        change()
        os.write(w, b'x')
        while True: signal.pause()
    os.read(r, 1)
    return pid
kept = below(lambda: ctypes.CDLL(None).prctl(4, 0, 0, 0, 0))
print(kept, below(os.setsid))
while True: signal.pause()";
    let (root, told) = troupe.python(script);
    let pids: Vec<i32> = told.split(' ').map(|pid| pid.parse().expect("a pid")).collect();
    let (kept, shown) = (pids[0], identity(pids[1]));
    let report = kill_trees(&[identity(root)], &test_attribution(), soon());
    let kept_pid = rustix::process::Pid::from_raw(kept).expect("a pid");
    // Ours by birth, and not reaped by anybody whom we know: it is there to be killed as long as it is not.
    rustix::process::kill_process(kept_pid, rustix::process::Signal::KILL).expect("it was left");
    assert!(report.killed.contains(&shown), "{report:?}");
    let left: Vec<String> = report.left().collect();
    assert!(
        !report.is_clean() && left[0].contains(&format!("pid {kept}")),
        "{left:?}"
    );
    troupe.assert_none_left();
}

#[test]
fn a_deadline_in_the_past_kills_and_does_not_wait() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let start = Instant::now();
    let _ = kill_all(&[identity(pid)], &test_attribution(), start);
    assert!(start.elapsed() < Duration::from_secs(5));
    until("killed all the same", || {
        procfile::stat(pid)
            .expect("readable")
            .is_none_or(|stat| stat.has_ended())
    });
}
