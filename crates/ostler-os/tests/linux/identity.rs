//! Process identities and verified signals.

use std::fs;
use std::os::unix::process::CommandExt;
use std::time::Instant;

use ostler_core::signal::Signal;
use ostler_os::holders::describe_processes;
use ostler_os::identity::{self, Delivery, ProcessHandle, ProcessIdentity, SignalError, Unverifiable, Verified};
use ostler_os::{procfile, tree};

use crate::common::{
    END_OF_MAIN_THREAD, Troupe, UNPRIVILEGED, handle_of, is_root, run_unprivileged, soon, test_attribution, until,
    until_main_thread_ended,
};

#[test]
fn living_process_is_the_same_until_it_ends() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let identity = identity::of(pid).expect("readable").expect("alive");
    let Verified::Same(handle) = identity::verify(&identity).expect("readable") else {
        panic!("process is running")
    };
    assert_eq!(handle.identity(), identity);
    assert_eq!(
        handle.signal(Signal::KILL, &test_attribution()).expect("permitted"),
        Delivery::Sent
    );
    assert!(handle.wait_until(soon()).expect("polled"));
    // A zombie that is not reaped yet counts as gone.
    assert!(matches!(identity::verify(&identity).expect("readable"), Verified::Gone));
    assert!(identity::of(pid).expect("readable").is_none());
    troupe.assert_none_left();
    assert!(matches!(identity::verify(&identity).expect("readable"), Verified::Gone));
}

#[test]
fn pid_of_another_process_counts_as_reused() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let now = identity::of(pid).expect("readable").expect("alive");
    let before = ProcessIdentity {
        start_time: now.start_time - 1,
        ..now
    };
    assert!(matches!(identity::verify(&before).expect("readable"), Verified::Reused));
    assert!(
        !handle_of(pid).has_ended().expect("readable"),
        "the other process must survive"
    );
}

/// Immediate reuse of a pid, if possible within one tick of start times, on machines where the test
/// may choose the next pid. The inode number of the pidfd distinguishes the two; without it,
/// kernels leave 10 ms in which they are indistinguishable.
#[test]
fn pid_reused_by_the_kernel_is_recognised() {
    let mut reused = 0;
    for _ in 0..40 {
        let mut troupe = Troupe::new();
        let first = troupe.spawn(troupe.command("sleep", &["600"]));
        let identity = identity::of(first).expect("readable").expect("alive");
        if identity.pidfd_inode == 0 {
            return println!("skipped: pidfds of this kernel have no inodes of their own");
        }
        handle_of(first)
            .signal(Signal::KILL, &test_attribution())
            .expect("permitted");
        until("the pid is free", || {
            troupe.reap();
            !fs::exists(format!("/proc/{first}")).expect("readable")
        });
        if fs::write("/proc/sys/kernel/ns_last_pid", (first - 1).to_string()).is_err() {
            return println!("skipped: ns_last_pid is not writable");
        }
        // Another process of the machine may take the pid between the write and the spawn; then the
        // next round tries again.
        let second = troupe.spawn(troupe.command("sleep", &["600"]));
        if second != first {
            continue;
        }
        reused += 1;
        let now = identity::of(second).expect("readable").expect("alive");
        assert!(!identity.is_same_as(&now));
        assert!(matches!(
            identity::verify(&identity).expect("readable"),
            Verified::Reused
        ));
        assert!(!handle_of(second).has_ended().expect("readable"));
        if now.start_time == identity.start_time {
            return;
        }
    }
    assert!(reused > 0, "no pid was reused");
    println!("{reused} pids were reused, none within one tick");
}

/// Fields unknown to the recorder are not compared; the known ones suffice.
#[test]
fn unknown_fields_of_an_identity_are_not_compared() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let whole = identity::of(pid).expect("readable").expect("alive");
    let same = |identity: &ProcessIdentity| matches!(identity::verify(identity).expect("readable"), Verified::Same(_));
    let without_inode = ProcessIdentity {
        pidfd_inode: 0,
        ..whole
    };
    let without_time = ProcessIdentity { start_time: 0, ..whole };
    let without_both = ProcessIdentity {
        start_time: 0,
        ..without_inode
    };
    assert!(same(&whole) && same(&without_inode));
    assert!(whole.is_same_as(&without_inode) && without_time.is_same_as(&without_inode));
    assert!(matches!(
        identity::verify(&without_both).expect("readable"),
        Verified::Unknown(Unverifiable::NoStartTime)
    ));
    if whole.pidfd_inode != 0 {
        assert!(same(&without_time));
        let other = ProcessIdentity {
            pidfd_inode: whole.pidfd_inode + 1,
            ..without_time
        };
        assert!(matches!(identity::verify(&other).expect("readable"), Verified::Reused));
    }
}

/// What is only watched is identified by its pidfd alone, if that is known.
#[test]
fn the_end_of_a_process_is_watched_without_proc() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    let whole = identity::of(pid).expect("readable").expect("alive");
    let watch = |identity: &ProcessIdentity| identity::verify_to_watch(identity).expect("readable");
    let without_inode = ProcessIdentity {
        pidfd_inode: 0,
        ..whole
    };
    let another_time = ProcessIdentity {
        start_time: whole.start_time - 1,
        ..whole
    };
    assert!(matches!(watch(&whole), Verified::Same(_)));
    assert!(matches!(watch(&without_inode), Verified::Same(_)));
    let by_time = watch(&ProcessIdentity {
        pidfd_inode: 0,
        ..another_time
    });
    assert!(matches!(by_time, Verified::Reused));
    if whole.pidfd_inode != 0 {
        assert!(matches!(watch(&another_time), Verified::Same(_)), "/proc was read");
        let another = ProcessIdentity {
            pidfd_inode: whole.pidfd_inode + 1,
            ..whole
        };
        assert!(matches!(watch(&another), Verified::Reused));
    }
    let handle = handle_of(pid);
    handle.signal(Signal::KILL, &test_attribution()).expect("permitted");
    assert!(handle.wait_until(soon()).expect("polled"));
    assert!(matches!(watch(&whole), Verified::Gone));
    troupe.assert_none_left();
    assert!(matches!(watch(&whole), Verified::Gone));
}

#[test]
fn another_boot_is_gone_and_another_namespace_is_unknown() {
    let us = identity::of(std::process::id() as i32)
        .expect("readable")
        .expect("alive");
    let other_boot = ProcessIdentity {
        boot_id: uuid::Uuid::from_u128(1),
        ..us
    };
    assert!(matches!(
        identity::verify(&other_boot).expect("readable"),
        Verified::Gone
    ));
    let elsewhere = ProcessIdentity {
        pid_namespace: us.pid_namespace + 1,
        ..us
    };
    assert!(matches!(
        identity::verify(&elsewhere).expect("readable"),
        Verified::Unknown(Unverifiable::ForeignNamespace)
    ));
}

#[test]
fn thread_id_is_not_a_process() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (_keep, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        sender
            .send(rustix::thread::gettid().as_raw_nonzero().get())
            .expect("sent");
        let _ = wait.recv();
    });
    let tid = receiver.recv().expect("sent");
    assert!(ProcessHandle::open(tid).expect("readable").is_none());
    assert!(ProcessHandle::open(0).expect("readable").is_none());
    assert!(ProcessHandle::open(-1).expect("readable").is_none());
}

#[test]
fn process_whose_main_thread_exited_is_alive() {
    let mut troupe = Troupe::new();
    let (pid, _) = troupe.python(&format!("said = 'up'\n{END_OF_MAIN_THREAD}"));
    until_main_thread_ended(pid);
    let handle = handle_of(pid);
    assert!(!handle.has_ended().expect("readable"));
    assert!(matches!(
        identity::verify(&handle.identity()).expect("readable"),
        Verified::Same(_)
    ));
    handle.signal(Signal::KILL, &test_attribution()).expect("permitted");
    assert!(handle.wait_until(soon()).expect("polled"));
    troupe.assert_none_left();
}

/// Regression: it was described as a zombie without memory and command line, and never counted as
/// stopped.
#[test]
fn process_whose_main_thread_exited_is_described_by_another_thread() {
    if is_root() {
        run_unprivileged("identity::process_whose_main_thread_exited_is_described_by_another_thread");
    }
    let mut troupe = Troupe::new();
    let (pid, _) = troupe.python(&format!("said = 'up'\n{END_OF_MAIN_THREAD}"));
    until_main_thread_ended(pid);
    until("the other thread sleeps", || {
        let stat = procfile::stat(pid).expect("readable").expect("alive");
        assert!(stat.resident_pages > 0 && stat.state != 'Z', "{stat:?}");
        stat.state == 'S'
    });
    let described = describe_processes(&[pid], soon());
    assert!(described[0].command.contains("pthread_exit"), "{}", described[0]);
    let main = pid.to_string();
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).expect("readable").flatten();
    let other = threads
        .find(|thread| thread.file_name() != *main)
        .expect("alive")
        .path();
    let channel = fs::read_to_string(other.join("wchan")).expect("readable");
    assert_eq!(described[0].wait_channel.clone().unwrap_or("0".to_owned()), channel);

    handle_of(pid)
        .signal(Signal::STOP, &test_attribution())
        .expect("permitted");
    until("it is stopped", || {
        procfile::stat(pid)
            .expect("readable")
            .is_some_and(|stat| stat.state == 'T')
    });
}

#[test]
fn wait_ends_at_its_deadline() {
    let mut troupe = Troupe::new();
    let pid = troupe.spawn(troupe.command("sleep", &["600"]));
    assert!(!handle_of(pid).wait_until(Instant::now()).expect("polled"));
}

#[test]
fn process_of_another_user_is_reported_as_such() {
    if is_root() {
        run_unprivileged("identity::process_of_another_user_is_reported_as_such");
        return;
    }
    let init = handle_of(1);
    let refused = init.signal(Signal::TERM, &test_attribution());
    assert!(
        matches!(refused, Err(SignalError::NotPermitted { identity }) if identity == init.identity()),
        "{refused:?}"
    );
}

#[test]
fn identities_survive_json() {
    let us = identity::of(std::process::id() as i32)
        .expect("readable")
        .expect("alive");
    let text = serde_json::to_string(&us).expect("written");
    assert_eq!(serde_json::from_str::<ProcessIdentity>(&text).expect("read"), us);
}

#[test]
fn tree_is_found_across_forks_and_sessions() {
    let mut troupe = Troupe::new();
    let script = "sleep 600 & setsid sh -c 'sleep 600 & echo up; wait' & wait";
    let (root, line) = troupe.spawn_and_read_line(troupe.command("sh", &["-c", script]));
    assert_eq!(line, "up");
    let all = tree::descendants(root).expect("readable");
    until("both sleeps have started", || {
        tree::descendants(root).expect("readable").len() == 3
    });
    for pid in &all {
        assert!(tree::is_descendant(*pid, root).expect("readable"));
        assert!(tree::is_descendant(*pid, std::process::id() as i32).expect("readable"));
    }
    assert!(!tree::is_descendant(root, root).expect("readable"));
    assert!(!tree::is_descendant(1, root).expect("readable"));
    let usage = tree::usage(root).expect("readable");
    assert_eq!(usage.processes, 3);
    assert!(usage.resident_bytes > 3 * 4096);
    assert_eq!(tree::descendants(i32::MAX).expect("readable"), Vec::<i32>::new());
}

#[test]
fn root_may_signal_a_process_of_another_user() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut troupe = Troupe::new();
    let mut command = troupe.command("sleep", &["600"]);
    command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    let pid = troupe.spawn(command);
    let handle = handle_of(pid);
    handle.signal(Signal::TERM, &test_attribution()).expect("permitted");
    assert!(handle.wait_until(soon()).expect("polled"));
}

#[test]
fn own_identity_equals_the_one_read_from_outside() {
    let read = identity::of(std::process::id() as i32)
        .expect("readable")
        .expect("alive");
    assert_eq!(identity::own().expect("this machine allows it"), read);
}

/// Without a free descriptor pidfd_open fails, and the error used to blame /proc.
#[test]
fn failed_pidfd_open_is_not_blamed_on_proc() {
    const INNER: &str = "OSTLER_TEST_NO_DESCRIPTORS";
    if std::env::var_os(INNER).is_none() {
        let name = "identity::failed_pidfd_open_is_not_blamed_on_proc";
        let status = std::process::Command::new(std::env::current_exe().expect("this test binary"))
            .args(["--exact", "--nocapture", name])
            .env(INNER, "1")
            .status()
            .expect("running this program");
        assert!(status.success());
        return;
    }
    identity::here().expect("readable");
    let (_, hard) = ostler_os::limits::descriptors();
    let no_more = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(hard),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, no_more).expect("lowered");
    let error = identity::own().expect_err("no descriptor is left");
    assert!(matches!(error, identity::NoOwnIdentity::Pidfd(_)), "{error}");
    assert!(error.to_string().contains("pidfd_open"), "{error}");
}
