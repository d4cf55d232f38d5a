//! From the request to the worker's program, and every way in which that fails.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use ostler_core::signal::Signal;
use ostler_os::guardian::{GuardianEvent, OrderError, SpawnStep};
use ostler_os::identity::{self, here};
use rustix::io::Errno;

use crate::support::{Bench, line, parent, request, rest, shell, stat, with_output, write_script};

#[tokio::test]
async fn exit_status_is_reported() {
    let mut bench = Bench::launch().await;
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 77", Some(77), None),
        ("kill -11 $$", None, Some(11)),
    ] {
        bench.start(0, 1, shell(script)).await;
        let (status, killed, how) = bench.gone(0, 1).await;
        assert_eq!((status.code(), status.signal()), (code, signal));
        assert_eq!((killed, how.refused, how.strays), (0, false, false));
    }
    bench.quit().await;
}

#[tokio::test]
async fn worker_is_identified_by_pid_and_start_time() {
    let mut bench = Bench::launch().await;
    bench
        .guardian
        .spawn(3, 9, shell("sleep 1000"))
        .expect("queuing the request");
    let (worker, reported_sitter) = match bench.next().await {
        GuardianEvent::Spawned {
            slot: 3,
            incarnation: 9,
            worker,
            sitter,
            in_cgroup: false,
        } => (worker, sitter),
        other => panic!("{other:?}"),
    };
    let (pid, start) = (worker.pid as i32, worker.start_time);
    assert_eq!(stat(pid)[19], start.to_string());
    let seen = identity::of(pid).expect("readable").expect("alive");
    assert_eq!(
        worker.identity(here().expect("readable")),
        seen,
        "including the inode number"
    );
    let sitter = parent(pid);
    assert_eq!(reported_sitter.pid as i32, sitter);
    let seen = identity::of(sitter).expect("readable").expect("alive");
    assert_eq!(reported_sitter.identity(here().expect("readable")), seen);
    assert_eq!(
        parent(sitter),
        bench.guardian.pid() as i32,
        "the worker's parent is a sitter"
    );
    bench.guardian.census().expect("queuing the request");
    match bench.next().await {
        GuardianEvent::Census {
            sitters,
            strays,
            strays_total: 0,
        } => {
            assert_eq!((sitters, strays), (vec![(3, sitter as u32)], vec![]));
        }
        other => panic!("{other:?}"),
    }
    bench.kill(3, 9);
    assert_eq!(bench.gone(3, 9).await.0.signal(), Some(9));
    bench.quit().await;
}

#[tokio::test]
async fn failed_exec_has_its_step_and_error() {
    let mut bench = Bench::launch().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "not a program").expect("writing a file");
    let script = directory.path().join("script");
    write_script(&script, "#!/nowhere/interpreter\n");
    let mut astray = shell("true");
    astray.cwd = Some("/nowhere".into());
    let mut not_a_directory = shell("true");
    not_a_directory.cwd = Some(plain.clone());
    let text = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let cases = [
        (request("/nowhere/program", &[]), SpawnStep::Exec, Errno::NOENT),
        (request(&text(&plain), &[]), SpawnStep::Exec, Errno::ACCESS),
        (request(&text(&script), &[]), SpawnStep::Exec, Errno::NOENT),
        (astray, SpawnStep::Directory, Errno::NOENT),
        (not_a_directory, SpawnStep::Directory, Errno::NOTDIR),
    ];
    for (request, step, errno) in cases {
        assert_eq!(bench.fail(0, request).await, (step, errno.raw_os_error()));
    }
    bench.start(0, 2, shell("exit 5")).await;
    assert_eq!(bench.gone(0, 2).await.0.code(), Some(5), "the slot is usable again");
    bench.quit().await;
}

#[tokio::test]
async fn slot_holds_one_tree_at_a_time() {
    let mut bench = Bench::launch().await;
    bench.start(0, 1, shell("sleep 1000")).await;
    bench.guardian.spawn(0, 2, shell("true")).expect("queuing the request");
    match bench.next().await {
        GuardianEvent::SpawnFailed {
            incarnation: 2,
            step: SpawnStep::Slot,
            errno,
            ..
        } => {
            assert_eq!(errno, Errno::BUSY.raw_os_error());
        }
        other => panic!("{other:?}"),
    }
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    bench.quit().await;
}

#[tokio::test]
async fn closed_slot_has_no_sitter_and_can_be_reused() {
    let mut bench = Bench::launch().await;
    let worker = bench.start(0, 1, shell("sleep 1000")).await as i32;
    let sitter = parent(worker);
    bench.guardian.close(&[0]).expect("queuing the request");
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    assert_eq!(bench.next().await, GuardianEvent::Closed { slot: 0 });
    crate::support::assert_gone(sitter);
    bench.guardian.close(&[0]).expect("queuing the request");
    assert_eq!(
        bench.next().await,
        GuardianEvent::Closed { slot: 0 },
        "closing twice is allowed"
    );
    let again = bench.start(0, 2, shell("sleep 1000")).await as i32;
    assert_ne!(parent(again), sitter);
    bench.kill(0, 2);
    bench.gone(0, 2).await;
    bench.quit().await;
}

#[tokio::test]
async fn one_sitter_serves_a_slot_two_hundred_times() {
    let mut bench = Bench::launch().await;
    let mut sitter = None;
    for incarnation in 1..=200 {
        bench.start(0, incarnation, shell("read line; exit 0")).await;
        let (status, ..) = bench.gone(0, incarnation).await;
        assert_eq!(status.code(), Some(0));
        bench.guardian.census().expect("queuing the request");
        let now = bench.until(|event| match event {
            GuardianEvent::Census {
                sitters,
                strays_total: 0,
                ..
            } => Some(sitters.clone()),
            _ => None,
        });
        let now = now.await;
        assert_eq!(*sitter.get_or_insert_with(|| now.clone()), now);
    }
    let (_, pid) = sitter.expect("reading the census")[0];
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the sitter's descriptors")
        .count();
    assert_eq!(
        open, 7,
        "four of /dev/null (one in place of a lock), orders, events, signals: no other descriptor is open"
    );
    bench.quit().await;
}

#[tokio::test]
async fn environment_of_a_mebibyte_is_passed() {
    let mut bench = Bench::launch().await;
    let value = "x".repeat(100_000);
    let mut spawn_request = shell("echo ${#V0} ${#V9}; env | wc -c");
    spawn_request
        .env
        .extend((0..10).map(|n| (format!("V{n}").into(), value.clone().into())));
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let text = rest(output).await;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("100000 100000"));
    assert!(
        lines
            .next()
            .expect("size of the environment")
            .trim()
            .parse::<usize>()
            .expect("number")
            > 1_000_000
    );
    bench.gone(0, 1).await;

    let mut too_much = shell("true");
    too_much.env.push(("V".into(), "x".repeat(5 << 20).into()));
    assert_eq!(
        bench.fail(0, too_much).await,
        (SpawnStep::Exec, Errno::TOOBIG.raw_os_error())
    );
    bench.quit().await;
}

#[tokio::test]
async fn listening_sockets_are_passed_in_order_after_the_standard_three() {
    let mut bench = Bench::launch().await;
    let listeners: Vec<TcpListener> = (0..5)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("bound"))
        .collect();
    let ports: Vec<String> = listeners
        .iter()
        .map(|l| l.local_addr().expect("local address").port().to_string())
        .collect();
    let mut spawn_request = crate::support::python(
        "import os, socket\n\
         print(os.environ['LISTEN_PID'] == str(os.getpid()), os.environ['LISTEN_FDS'])\n\
         print(*[socket.socket(fileno=fd).getsockname()[1] for fd in range(3, 8)])\n\
         print(*sorted(int(fd) for fd in os.listdir('/proc/self/fd')))",
    );
    spawn_request.env.push(("LISTEN_FDS".into(), "5".into()));
    spawn_request.env.push(("LISTEN_PID".into(), "1".into()));
    spawn_request.listen = listeners.into_iter().map(OwnedFd::from).collect();
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let (first, output) = line(output).await;
    assert_eq!(first, "True 5");
    assert_eq!(line(output).await.0, ports.join(" "));
    assert!(bench.gone(0, 1).await.0.success());
    bench.quit().await;
}

#[tokio::test]
async fn request_that_cannot_be_sent_is_refused_immediately() {
    let bench = Bench::launch().await;
    let refused = bench.guardian.spawn(u32::MAX, 1, shell("true"));
    assert!(matches!(refused, Err(OrderError::SlotRange { .. })), "{refused:?}");
    let mut crowded = shell("true");
    crowded.listen = (0..65).map(|_| crate::support::null()).collect();
    let refused = bench.guardian.spawn(0, 1, crowded);
    assert!(
        matches!(refused, Err(OrderError::TooManyListeners { count: 65 })),
        "{refused:?}"
    );
    bench.quit().await;
}

#[tokio::test]
async fn stop_during_exec_ends_the_worker() {
    let mut bench = Bench::launch().await;
    for incarnation in 1..=50 {
        bench
            .guardian
            .spawn(0, incarnation, shell("sleep 1000"))
            .expect("queuing the request");
        bench
            .guardian
            .end(0, incarnation, Signal::TERM, Duration::from_secs(15))
            .expect("queuing the request");
        let (status, ..) = bench.gone(0, incarnation).await;
        assert_eq!(status.signal(), Some(15));
    }
    bench.quit().await;
}

#[tokio::test]
async fn halted_worker_is_killed_after_its_grace() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = shell("trap 'kill -STOP $$' TERM; echo ready; while true; do sleep 0.01; done");
    let output = with_output(&mut spawn_request);
    let worker = bench.start(0, 1, spawn_request).await as i32;
    let _output = line(output).await;
    bench.term(0, 1, Duration::from_millis(100));
    let (status, ..) = bench.gone(0, 1).await;
    assert_eq!(
        status.signal(),
        Some(9),
        "it stops itself when it receives TERM; KILL ends it immediately"
    );
    crate::support::assert_gone(worker);
    bench.quit().await;
}

#[tokio::test]
async fn a_pipe_becomes_stdin_with_and_without_listening_sockets() {
    let mut bench = Bench::launch().await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    for listen in [vec![], vec![OwnedFd::from(listener)]] {
        let mut cat = shell("read line; echo \"got $line\"; read line || echo end");
        let output = with_output(&mut cat);
        let (stdin, mut to_worker) = std::io::pipe().expect("a pipe");
        cat.stdin = Some(stdin.into());
        cat.listen = listen;
        bench.start(0, 1, cat).await;
        std::io::Write::write_all(&mut to_worker, b"hello\n").expect("the worker reads");
        let (first, output) = line(output).await;
        drop(to_worker);
        let (second, _) = line(output).await;
        assert_eq!((first.as_str(), second.as_str()), ("got hello", "end"));
        bench.gone(0, 1).await;
    }
    bench.quit().await;
}
