//! Killing processes that are not our children: trees that resist, and survivors with a reason.

use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::identity::ProcessIdentity;
use ostler_os::kill::{Why, kill_all, kill_trees};
use ostler_os::procfile;

use crate::common::{
    Troupe, handle_of, is_root, run_unprivileged, run_unprivileged_after, soon, test_attribution, until,
};

fn identity(pid: i32) -> ProcessIdentity {
    handle_of(pid).identity()
}

#[test]
fn all_are_killed_before_waiting_for_any() {
    let mut troupe = Troupe::new();
    let identities: Vec<_> = (0..200)
        .map(|_| identity(troupe.spawn(troupe.command("sh", &["-c", "trap '' TERM INT HUP; sleep 600"]))))
        .collect();
    let report = kill_all(&identities, &test_attribution(), soon());
    assert!(report.is_clean(), "{:?}", report.survivors);
    assert_eq!(report.killed.len(), 200, "more than the number of pidfds kept open");
    // Their sleeps are left, because kill_all kills exactly the given processes.
    let left = troupe.living();
    assert!(kill_all(&left, &test_attribution(), soon()).is_clean());
    troupe.assert_none_left();
}

#[test]
fn foreign_and_missing_processes_are_reported_and_not_touched() {
    let mut troupe = Troupe::new();
    let alive = identity(troupe.spawn(troupe.command("sleep", &["600"])));
    let foreign = ProcessIdentity {
        start_time: alive.start_time - 1,
        ..alive
    };
    let missing = ProcessIdentity { pid: i32::MAX, ..alive };
    let elsewhere = ProcessIdentity {
        pid_namespace: alive.pid_namespace + 1,
        ..alive
    };
    let report = kill_trees(&[foreign, missing, elsewhere], &test_attribution(), soon());
    assert_eq!(report.already_gone, vec![foreign, missing]);
    assert_eq!(report.survivors.len(), 1);
    assert!(matches!(report.survivors[0].why, Why::Unverifiable(_)));
    assert_eq!(
        report.survivors[0].holder, None,
        "a pid of another namespace means nothing here"
    );
    assert!(!handle_of(alive.pid).has_ended().expect("readable"));
    let state = procfile::stat(alive.pid).expect("readable").expect("alive").state;
    assert_ne!(state, 'T', "it must not be stopped either");
}

#[test]
fn tree_that_forks_while_being_killed_is_gone_completely() {
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
fn grandchildren_in_other_sessions_are_killed_with_the_root() {
    let mut troupe = Troupe::new();
    let script = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 600 & sleep 600 & echo up; wait\" & wait";
    let (root, _) = troupe.spawn_and_read_line(troupe.command("sh", &["-c", script]));
    let report = kill_trees(&[identity(root)], &test_attribution(), soon());
    assert!(report.is_clean() && report.killed.len() >= 3, "{report:?}");
    troupe.assert_none_left();
}

#[test]
fn stopped_process_is_killed_too() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let stop = Signal::from_number(19).expect("SIGSTOP");
    handle_of(pid).signal(stop, &test_attribution()).expect("permitted");
    assert!(kill_trees(&[identity(pid)], &test_attribution(), soon()).is_clean());
    troupe.assert_none_left();
}

/// The worst case of a dead run's record: a root whose tree contains this process.
#[test]
fn own_process_is_spared_in_a_killed_tree() {
    const INNER: &str = "OSTLER_TEST_KILLS_ITS_PARENT";
    if std::env::var_os(INNER).is_some() {
        let parent = std::os::unix::process::parent_id() as i32;
        let report = kill_trees(&[identity(parent)], &test_attribution(), soon());
        println!("killed {}", report.killed.len());
        return;
    }
    let mut troupe = Troupe::new();
    let tests = std::env::current_exe().expect("path of this program");
    // A shell that runs the inner test as its child, without exec.
    let script = "sleep 600 & \"$0\" --exact kill::own_process_is_spared_in_a_killed_tree --nocapture; exit";
    let mut command = troupe.command("sh", &["-c", script]);
    let said = tempfile::NamedTempFile::new().expect("temporary file");
    command
        .arg(tests)
        .env(INNER, "1")
        .stdout(said.reopen().expect("opened"));
    troupe.spawn(command);
    until("the inner test has printed its result", || {
        let said = std::fs::read_to_string(said.path()).expect("readable");
        assert!(!said.contains("1 failed"), "{said}");
        said.contains("killed 2") && said.contains("1 passed")
    });
    troupe.assert_none_left();
}

/// A killed child of a stopped tracer with PTRACE_O_TRACEEXIT does not end, and the tracer is
/// named.
#[test]
fn traced_process_is_named_with_its_tracer() {
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
        println!("skipped: ptrace is not permitted");
        return;
    };
    let deadline = Instant::now() + Duration::from_millis(200);
    let report = kill_all(&[identity(victim)], &test_attribution(), deadline);
    assert_eq!(report.survivors.len(), 1, "{report:?}");
    assert_eq!(report.survivors[0].why, Why::Traced { by: tracer });
    let text = report.survivors[0].to_string();
    assert!(text.contains(&format!("traced by pid {tracer}")), "{text}");
    // Without its tracer it ends.
    assert!(kill_all(&[identity(tracer)], &test_attribution(), soon()).is_clean());
    troupe.assert_none_left();
}

#[test]
fn process_of_another_user_survives_and_is_named() {
    if is_root() {
        run_unprivileged("kill::process_of_another_user_survives_and_is_named");
        return;
    }
    let start = Instant::now();
    // kill_all and not kill_trees: the tree of init contains every process, including this one.
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
        "no wait for a process that may not be killed"
    );
}

/// With `hidepid=1`: a descendant hidden by /proc does not hide the others, and is reported.
#[test]
fn hidden_process_does_not_hide_others() {
    if is_root() {
        let mount = "mount -t proc -o hidepid=1 proc /proc";
        return run_unprivileged_after(mount, "kill::hidden_process_does_not_hide_others");
    }
    if procfile::stat(1).is_ok() {
        return println!("skipped: mounting /proc needs root");
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
    let (root, line) = troupe.python(script);
    let pids: Vec<i32> = line.split(' ').map(|pid| pid.parse().expect("valid pid")).collect();
    let (kept, shown) = (pids[0], identity(pids[1]));
    let report = kill_trees(&[identity(root)], &test_attribution(), soon());
    let kept_pid = rustix::process::Pid::from_raw(kept).expect("valid pid");
    // A child of the script that no process reaps, so it can be killed as long as it exists.
    rustix::process::kill_process(kept_pid, rustix::process::Signal::KILL).expect("the hidden process must be left");
    assert!(report.killed.contains(&shown), "{report:?}");
    let left: Vec<String> = report.left().collect();
    assert!(
        !report.is_clean() && left[0].contains(&format!("pid {kept}")),
        "{left:?}"
    );
    troupe.assert_none_left();
}

#[test]
fn past_deadline_kills_without_waiting() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let start = Instant::now();
    let _ = kill_all(&[identity(pid)], &test_attribution(), start);
    assert!(start.elapsed() < Duration::from_secs(5));
    until("the process is killed", || {
        procfile::stat(pid)
            .expect("readable")
            .is_none_or(|stat| stat.has_ended())
    });
}
