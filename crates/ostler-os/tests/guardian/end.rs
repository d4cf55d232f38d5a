//! Ending a worker: its grace, its process group, and the trees that resist.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::guardian::{GuardianEvent, SignalCause};

use crate::support::{Bench, alive, assert_gone, line, pids, python, shell, with_output};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_worker_that_obeys_ends_by_its_signal() {
    let mut bench = Bench::launch().await;
    bench.start(0, 1, shell("sleep 1000")).await;
    bench.term(0, 1, LONG);
    match bench.next().await {
        GuardianEvent::Signalled {
            slot: 0,
            incarnation: 1,
            signal: Signal::TERM,
            cause: SignalCause::Stop,
        } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.gone(0, 1).await.0.signal(), Some(15));
    bench.quit().await;
}

#[tokio::test]
async fn a_worker_that_does_not_obey_is_killed_when_its_grace_is_over() {
    let mut bench = Bench::launch().await;
    let mut wanted = shell("trap '' TERM; echo ready; while true; do sleep 1000; done");
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let _output = line(output).await;
    let begun = Instant::now();
    bench.term(0, 1, SHORT);
    let mut causes = Vec::new();
    loop {
        match bench.next().await {
            GuardianEvent::Signalled { signal, cause, .. } => causes.push((signal, cause)),
            GuardianEvent::Exited { status, .. } => assert_eq!(status.signal(), Some(9)),
            GuardianEvent::TreeGone { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() >= SHORT, "it has its whole grace");
    assert_eq!(
        causes,
        [
            (Signal::TERM, SignalCause::Stop),
            (Signal::KILL, SignalCause::GraceOver)
        ]
    );
    bench.quit().await;
}

#[tokio::test]
async fn others_of_the_group_have_the_rest_of_the_grace() {
    let mut bench = Bench::launch().await;
    let mut wanted = python(
        "import os, signal, sys, time\n\
         if os.fork() == 0:\n\
         \tdef leave(*_):\n\
         \t\tfor _ in range(40): time.sleep(0.005)\n\
         \t\tos.write(1, b'done\\n'); os._exit(0)\n\
         \tsignal.signal(signal.SIGTERM, leave)\n\
         \tprint('ready', flush=True)\n\
         \twhile True: signal.pause()\n\
         signal.pause()",
    );
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let (_, output) = line(output).await;
    bench.term(0, 1, LONG);
    let (status, killed, _) = bench.gone(0, 1).await;
    assert_eq!(
        (status.signal(), killed),
        (Some(15), 0),
        "the leader obeyed at once, its child in its time"
    );
    assert_eq!(line(output).await.0, "done");
    bench.quit().await;
}

#[tokio::test]
async fn others_of_the_group_that_do_not_obey_are_killed_when_the_grace_is_over() {
    let mut bench = Bench::launch().await;
    let mut wanted = shell("(trap '' TERM; echo ready; while true; do sleep 1000; done) & wait");
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let _output = line(output).await;
    let begun = Instant::now();
    bench.term(0, 1, SHORT);
    let mut told = Vec::new();
    loop {
        match bench.next().await {
            GuardianEvent::Signalled { signal, cause, .. } => told.push((signal, cause)),
            GuardianEvent::Exited { status, .. } => assert_eq!(status.signal(), Some(15), "the leader obeyed"),
            GuardianEvent::TreeGone { killed, .. } => break assert!(killed >= 1),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() >= SHORT, "they have the whole grace");
    assert_eq!(
        told,
        [
            (Signal::TERM, SignalCause::Stop),
            (Signal::KILL, SignalCause::GraceOver)
        ]
    );
    bench.quit().await;
}

#[tokio::test]
async fn who_left_the_group_has_no_grace_once_the_group_is_gone() {
    let mut bench = Bench::launch().await;
    let mut wanted = shell("setsid sh -c 'echo $$; sleep 1000' & sleep 1000");
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let (text, _output) = line(output).await;
    bench.term(0, 1, LONG);
    let (_, killed, how) = bench.gone(0, 1).await;
    assert!(killed >= 1 && how.strays);
    assert_gone(pids(&text)[0]);
    bench.quit().await;
}

/// Double fork, own session, empty environment, deaf to TERM, INT and HUP; it tells its pid and its child's.
const DAEMON: &str = "env -i /bin/sh -c '
    setsid /bin/sh -c \"
        trap : TERM INT HUP; trap \\\"\\\" TERM INT HUP
        setsid sleep 1000 & echo \\$\\$ \\$!
        while true; do sleep 1000; done
    \" & exit 0' &
";

#[tokio::test]
async fn daemons_that_cut_every_tie_die_with_the_worker() {
    let mut bench = Bench::launch().await;
    // However the worker ends: by its own exit, by KILL, by TERM.
    for (incarnation, end) in [(1, "exit 0"), (2, "sleep 1000"), (3, "sleep 1000")] {
        let mut wanted = shell(&format!("{DAEMON} read nothing; {end}"));
        // It ends by itself only after the daemon has spoken.
        wanted.program = "/bin/sh".into();
        wanted.argv[2] = format!("{{ {DAEMON} }} | {{ read pids; echo $pids; {end}; }}").into();
        let output = with_output(&mut wanted);
        bench.start(0, incarnation, wanted).await;
        let (text, _output) = line(output).await;
        match incarnation {
            2 => bench.kill(0, incarnation),
            3 => bench.term(0, incarnation, SHORT),
            _ => {}
        }
        bench.gone(0, incarnation).await;
        let daemons = pids(&text);
        assert_eq!(daemons.len(), 2);
        for pid in daemons {
            assert!(!alive(pid), "TreeGone was told while {pid} lived");
        }
    }
    bench.quit().await;
}

#[tokio::test]
async fn a_tree_of_many_groups_is_gone_when_it_is_told() {
    let mut bench = Bench::launch().await;
    let mut wanted = python(
        "import os, signal, time\n\
         for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n\
         r, w = os.pipe()\n\
         def tree(depth):\n\
         \tos.write(w, f'{os.getpid()} '.encode())\n\
         \tfor _ in range(3 if depth else 0):\n\
         \t\tif os.fork() == 0:\n\
         \t\t\tos.setpgid(0, 0) if depth % 2 else os.setsid()\n\
         \t\t\ttree(depth - 1)\n\
         \t\t\twhile True: signal.pause()\n\
         tree(4)\n\
         text = b''\n\
         while len(text.split()) < 121 or not text.endswith(b' '): text += os.read(r, 4096)\n\
         print(text.decode(), flush=True)\n\
         while True: signal.pause()",
    );
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let (text, _output) = line(output).await;
    let tree = pids(&text);
    assert_eq!(tree.len(), 121);
    bench.term(0, 1, SHORT);
    let (_, _, how) = bench.gone(0, 1).await;
    assert!(how.strays && !how.refused);
    for pid in tree {
        assert!(!alive(pid), "TreeGone was told while {pid} lived");
    }
    bench.quit().await;
}

#[tokio::test]
async fn children_that_fork_while_they_are_killed_do_not_get_away() {
    let mut bench = Bench::launch().await;
    // Each generation forks the next, leaves its session, and ends: a moving target, four times over.
    let mut wanted = python(
        "import os, signal, time\n\
         for _ in range(4):\n\
         \tif os.fork() == 0:\n\
         \t\twhile True:\n\
         \t\t\tif os.fork(): os._exit(0)\n\
         \t\t\tos.setsid()\n\
         print('ready', flush=True)\n\
         signal.pause()",
    );
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let _output = line(output).await;
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    bench.quit().await;
}

#[tokio::test]
async fn a_repeated_order_can_only_hasten_the_end() {
    let mut bench = Bench::launch().await;
    let mut wanted = shell("trap '' TERM; echo ready; while true; do sleep 1000; done");
    let output = with_output(&mut wanted);
    bench.start(0, 1, wanted).await;
    let _output = line(output).await;
    bench.term(0, 1, LONG);
    bench.term(0, 1, LONG);
    bench.guardian.end(0, 7, Signal::KILL, Duration::ZERO).expect("taken");
    bench.guardian.query(0).expect("taken");
    let mut signals = 0;
    loop {
        match bench.next().await {
            GuardianEvent::Signalled { .. } => signals += 1,
            GuardianEvent::Children { total, .. } => {
                break assert!(total >= 1, "another incarnation's end changes nothing");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(signals, 1, "TERM is sent once");
    bench.term(0, 1, SHORT);
    assert_eq!(bench.gone(0, 1).await.0.signal(), Some(9));
    bench.term(0, 1, SHORT);
    bench.quit().await;
}

#[tokio::test]
async fn a_tree_that_a_stopped_tracer_holds_is_named_and_goes_in_the_end() {
    let mut bench = Bench::launch().await;
    // A tracer outside the tree, which seizes the worker with PTRACE_O_TRACEEXIT and is then stopped: the kill leaves
    // the worker half dead until the tracer ends.
    let mut wanted = shell("echo ready; while true; do sleep 1000; done");
    let output = with_output(&mut wanted);
    let worker = bench.start(0, 1, wanted).await as i32;
    let _output = line(output).await;
    let script = format!(
        "import ctypes, os, signal\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         libc.ptrace.argtypes = [ctypes.c_long] * 4\n\
         done = libc.ptrace(0x4206, {worker}, 0, 0x40)\n\
         print('\\nseized=' + str(done), flush=True)\n\
         os.kill(os.getpid(), signal.SIGSTOP)"
    );
    let mut command = std::process::Command::new("python3");
    command.args(["-c", &script]);
    let (mut tracer, output) = crate::support::Role::start(command);
    let (seized, _output) = crate::support::told(output, "seized=").await;
    if seized != "0" {
        bench.kill(0, 1);
        bench.gone(0, 1).await;
        bench.quit().await;
        return eprintln!("skipped: this system lets nobody trace here");
    }
    bench.kill(0, 1);
    bench
        .until(|event| matches!(event, GuardianEvent::Held { children: 1.., .. }).then_some(()))
        .await;
    bench.guardian.query(0).expect("taken");
    let named = bench.until(|event| match event {
        GuardianEvent::Children { named, .. } => Some(named.clone()),
        _ => None,
    });
    assert!(
        named.await.iter().any(|child| child.pid as i32 == worker),
        "what is held can be named"
    );
    tracer.kill();
    bench.gone(0, 1).await;
    assert_gone(worker);
    bench.quit().await;
}
