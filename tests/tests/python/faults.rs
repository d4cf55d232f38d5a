//! What a Python worker can do wrong: each ends in an outcome of its own, seen from the pool.

use std::time::Duration;

use ostler::testing::TestBed;
use ostler::{EventKind, Failure, PoolSpec, Reason};
use ostler_python::{Python, PythonError, Transport};
use ostler_serve::stdio::{ExceptionClass, StdioError};
use ostler_serve::{CallError, CallOptions, Lost, OnCancel};
use serde_json::{Value, json};

use crate::scene::{Scene, everything, of_this_checkout, over_both_transports, until};

over_both_transports!(
    handlers_that_leave_fork_or_close_stdout_do_not_end_their_worker,
    what_ends_a_worker_has_its_status_and_last_words,
    a_worker_that_hangs_in_native_code_is_replaced_by_its_watchdog,
    a_grace_that_is_too_short_is_named,
);

/// What the pool gave up of: a worker of this source that never gets ready.
async fn never_ready(source: &str, change: impl FnOnce(Python) -> Python) -> Failure {
    let mut bed = TestBed::new();
    let file = bed.directory().join("worker.py");
    std::fs::write(&file, source).expect("it is written");
    let mut spec: PoolSpec = change(of_this_checkout(Python::new(file)))
        .pool("py", &mut |_| {})
        .expect("an interpreter");
    spec.limit_restarts(Some(0), None);
    bed.allow_failures("py");
    let ostler = bed.builder().start().await.expect("it starts");
    let pool = ostler.add_pool(spec).await.expect("it is added");
    bed.within("the end", pool.wait_ready())
        .await
        .expect_err("it never gets ready");
    let failure = pool.workers()[0].last_failure.clone().expect("a failure");
    ostler.stop().await.expect("it stops");
    bed.finish().await;
    failure
}

const SERVE: &str = "from ostler_worker import serve\nserve.method(abs)\n";

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_start_say_why_and_what_to_do() {
    let source = format!("import no_such_module_of_ours\n{SERVE}serve.run()\n");
    let failure = never_ready(&source, |python| python).await;
    assert_eq!(failure.reason, Reason::ExitedBeforeReady);
    assert!(
        failure.message.contains("No module named 'no_such_module_of_ours'"),
        "{failure}"
    );
    let suggestion = failure.suggestion.as_str();
    assert!(
        suggestion.contains("-m pip install no_such_module_of_ours"),
        "{suggestion}"
    );

    // An environment as uv makes them has no pip.
    let folder = tempfile::tempdir().expect("a folder");
    let venv = folder.path().join("env");
    let made = std::process::Command::new("python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.expect("python3 runs").success());
    let failure = never_ready(&source, |python| python.venv(&venv)).await;
    let install = format!(
        "uv pip install --python {} no_such_module_of_ours",
        venv.join("bin/python").display()
    );
    assert!(failure.suggestion.ends_with(&install), "{failure:?}");

    // A status of 0 is no success before the worker is ready.
    let failure = never_ready(&format!("{SERVE}serve.run(load=lambda: exit(0))\n"), |python| python).await;
    assert_eq!(failure.reason, Reason::ExitedBeforeReady);
    assert!(
        failure.stderr_tail.join("\n").contains("load called sys.exit(0)"),
        "{failure:?}"
    );

    let failure = never_ready(&format!("{SERVE}serve.run(load=lambda: 1 / 0)\n"), |python| python).await;
    assert!(
        failure.message.contains("ZeroDivisionError: division by zero"),
        "{failure}"
    );

    let slow = format!("import time\n{SERVE}serve.run(load=lambda: time.sleep(600))\n");
    let failure = never_ready(&slow, |python| python.start_timeout(Duration::from_millis(700))).await;
    assert_eq!(failure.reason, Reason::ReadyTimeout, "{failure}");

    let no_grpcio = format!("import sys\nsys.modules['grpc'] = None\n{SERVE}serve.run()\n");
    let failure = never_ready(&no_grpcio, |python| python.transport(Transport::Grpc)).await;
    assert_eq!(failure.reason, Reason::ExitedBeforeReady);
    let last = failure.stderr_tail.join("\n");
    assert!(last.contains("pip install 'ostler-worker[grpc]'"), "{last}");
}

#[test]
fn a_missing_interpreter_and_a_half_made_environment_are_named_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("worker.py"), "").expect("it is written");
    let worker = || Python::new("worker.py").base(folder.path());
    let none = worker().interpreter("python9.9").pool("py", &mut |_| {});
    assert!(matches!(none, Err(PythonError::NoInterpreter(_))), "{none:?}");
    std::fs::create_dir(folder.path().join("env")).expect("a folder");
    let half = worker().venv("env").pool("py", &mut |_| {});
    assert!(matches!(half, Err(PythonError::IncompleteVenv { .. })), "{half:?}");
}

/// The worker survives what its handlers do to it, and the caller learns what it was.
async fn handlers_that_leave_fork_or_close_stdout_do_not_end_their_worker(python: Python) {
    let scene = Scene::start(python).await;
    let before = scene.pids();
    for (how, class, code) in [
        ("sys.exit", ExceptionClass::Exit, "exit"),
        ("SystemExit", ExceptionClass::Exit, "exit"),
        ("KeyboardInterrupt", ExceptionClass::Interrupt, "interrupt"),
    ] {
        for method in ["leave", "leave_later"] {
            let error = scene.pool.call::<_, ()>(method, &how).await.expect_err("it leaves");
            let exception = error.exception().unwrap_or_else(|| panic!("{error:?}"));
            assert_eq!(
                (exception.class(), exception.code.as_str()),
                (class, code),
                "{exception:?}"
            );
        }
    }
    for returns in [false, true] {
        let child: String = scene.pool.call("fork", &returns).await.expect("an answer");
        assert_eq!(child, format!("the child ended with {}", if returns { 70 } else { 0 }));
    }
    let asked = scene
        .pool
        .call::<_, ()>("ask", &())
        .await
        .expect_err("there is no terminal");
    assert_eq!(
        asked.exception().map(|exception| exception.kind.as_str()),
        Some("EOFError")
    );
    for what in ["1", "sys.stdout"] {
        assert_eq!(
            scene.pool.call::<_, String>("close", &what).await.expect("an answer"),
            what
        );
    }
    assert_eq!(scene.pids(), before, "it is the same worker all the time");
    scene.end().await;
}

/// stdout belongs to the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_or_its_child_prints_is_on_stderr() {
    let scene = Scene::start(everything()).await;
    assert_eq!(
        scene.pool.call::<_, String>("say", &"hello").await.expect("an answer"),
        "hello"
    );
    until("what was printed is on stderr", || {
        scene.bed.history().contains("stderr: from a child")
    })
    .await;
    scene.end().await;
}

/// The outcome of a call that ends its worker.
async fn ends_its_worker(python: &Python, method: &str, argument: Value) -> (Lost, Failure) {
    let mut scene = Scene::start(python.clone()).await;
    scene.bed.allow_failures("py/0");
    let error = scene
        .pool
        .call::<_, Value>(method, &argument)
        .await
        .expect_err("the worker ends");
    let StdioError::Call(CallError::Unknown(unknown)) = error else {
        panic!("{error:?}");
    };
    scene.replaced().await;
    assert_eq!(
        scene
            .pool
            .call::<_, u8>("echo", &1)
            .await
            .expect("the replacement answers"),
        1
    );
    scene.end().await;
    (unknown.cause, unknown.failure.expect("a failure").as_ref().clone())
}

async fn what_ends_a_worker_has_its_status_and_last_words(python: Python) {
    let (cause, failure) = ends_its_worker(&python, "leave", json!("os._exit")).await;
    assert_eq!((cause, failure.reason), (Lost::Worker, Reason::Exited));
    assert!(failure.message.contains("status 5"), "{failure}");
    let (cause, failure) = ends_its_worker(&python, "close", json!("all")).await;
    assert_eq!((cause, failure.reason), (Lost::Worker, Reason::Exited));
    assert!(failure.message.contains("status 74"), "{failure}");
    let last = failure.stderr_tail.join("\n");
    assert!(last.contains("closed by the worker's own code"), "{last}");
    let (cause, failure) = ends_its_worker(&python, "segfault", json!(null)).await;
    assert_eq!((cause, failure.reason), (Lost::Worker, Reason::Killed));
    assert!(failure.message.contains("SEGV"), "{failure}");
}

/// Native code that hangs: no heartbeat, with and without the interpreter's lock.
async fn a_worker_that_hangs_in_native_code_is_replaced_by_its_watchdog(python: Python) {
    for method in ["deadlock_in_native_code", "deadlock_with_the_lock"] {
        let mut scene = Scene::start_with(python.clone(), |spec| {
            spec.worker.watchdog = Some(Duration::from_secs(2));
            spec.worker.stop.grace = Duration::from_millis(300);
            spec.serve.on_cancel = OnCancel::Reuse;
        })
        .await;
        scene.bed.allow_failures("py/0");
        let options = CallOptions::new().timeout(Duration::from_secs(60));
        let error = scene
            .pool
            .call_with::<_, Value>(method, &(), &options)
            .await
            .expect_err("it hangs");
        let StdioError::Call(CallError::Unknown(unknown)) = error else {
            panic!("{error:?}");
        };
        let failure = unknown.failure.expect("a failure");
        assert_eq!(failure.reason, Reason::HeartbeatLost, "{failure}");
        scene.replaced().await;
        scene.end().await;
    }
}

/// A grace that is too short for what the worker has in flight: it ends in time, says how many
/// requests it left and where each thread was, and the caller's outcome is unknown.
async fn a_grace_that_is_too_short_is_named(python: Python) {
    let mut scene = Scene::start_with(python, |spec| {
        spec.worker.stop.grace = Duration::from_millis(800);
        spec.worker.env.insert("OSTLER_GRACE_MS".into(), "800".into());
    })
    .await;
    let pool = scene.pool.clone();
    let call = tokio::spawn(async move { pool.call::<_, Value>("deadlock_in_native_code", &()).await });
    let history = || scene.bed.history();
    until("the handler runs", || history().contains("deadlock begins")).await;
    scene.bed.from_now();
    let worker = scene.pool.pool().worker(0).expect("it is there");
    let restart = tokio::spawn(async move { worker.restart().await });
    let error = call.await.expect("no panic").expect_err("it is cut off");
    let StdioError::Call(CallError::Unknown(unknown)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(unknown.cause, Lost::Stopped, "{unknown}");
    scene.bed.event("py/0", EventKind::WorkerReady).await;
    restart.await.expect("no panic").expect("it restarts");
    let history = scene.bed.history();
    assert!(history.contains("1 requests outlast the grace of 0.8 s"), "{history}");
    assert!(history.contains("in deadlock_in_native_code"), "{history}");
    scene.end().await;
}
