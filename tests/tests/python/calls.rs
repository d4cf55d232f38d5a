//! Calls with one answer, over stdio and over gRPC: the same methods, the same types.

use std::collections::BTreeMap;
use std::time::Duration;

use ostler::PoolEnd;
use ostler::testing::TestBed;
use ostler_python::{Python, StartError};
use ostler_serve::stdio::{ExceptionClass, HostCall, StdioError, WorkerException};
use ostler_serve::{CallOptions, Lost};
use serde_json::{Value, json};

use crate::scene::{Scene, everything, of_this_checkout, over_both_transports};

over_both_transports!(
    methods_are_called_and_no_exception_ends_a_worker,
    handlers_see_deadline_session_and_trace_and_run_at_once,
    a_deadline_is_an_exception_in_the_handler_and_keeps_the_worker,
    handlers_call_functions_of_the_host,
    a_worker_that_is_killed_leaves_an_unknown_outcome,
);

fn exception(error: StdioError) -> WorkerException {
    match error {
        StdioError::Worker(exception) => *exception,
        other => panic!("no exception: {other:?}"),
    }
}

async fn methods_are_called_and_no_exception_ends_a_worker(python: Python) {
    let scene = Scene::start(python).await;
    let before = scene.pids();
    let echoed: BTreeMap<String, Vec<f64>> = scene
        .pool
        .call("echo", &json!({"a": [1.5, 2.5]}))
        .await
        .expect("an answer");
    assert_eq!(echoed["a"], [1.5, 2.5]);
    let unit: Option<u8> = scene.pool.call("echo", &()).await.expect("None");
    assert_eq!(unit, None);
    for (kind, class) in [
        ("ValueError", ExceptionClass::Value),
        ("TimeoutError", ExceptionClass::Timeout),
        ("MemoryError", ExceptionClass::Memory),
        ("Own", ExceptionClass::Value),
    ] {
        let failed = scene.pool.call::<_, Value>("fail_as", &json!([kind, "the text"])).await;
        let exception = exception(failed.expect_err("it raises"));
        assert_eq!((exception.class(), exception.message.as_str()), (class, "the text"));
        assert!(exception.traceback.contains("in fail_as"), "{}", exception.traceback);
        assert!(exception.executed && exception.code == "exception", "{exception:?}");
    }
    let missing = scene
        .pool
        .call::<_, Value>("no_such", &())
        .await
        .expect_err("there is none");
    let missing = exception(missing);
    assert_eq!((missing.code.as_str(), missing.executed), ("method_not_found", false));
    let wrong = scene.pool.call::<_, u8>("echo", &"text").await.expect_err("no number");
    assert!(matches!(wrong, StdioError::Result(_)), "{wrong:?}");
    assert_eq!(scene.pids(), before);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_starts_a_pool_and_a_failed_start_says_why() {
    let mut bed = TestBed::new();
    let ostler = bed.builder().start().await.expect("it starts");
    let pool = everything()
        .workers(2)
        .start(&ostler, "two")
        .await
        .expect("it is ready");
    assert_eq!(pool.call::<_, i32>("echo", &3).await.expect("an answer"), 3);

    let file = bed.directory().join("broken.py");
    std::fs::write(&file, "import no_such_module_of_ours\n").expect("it is written");
    bed.allow_failures("broken");
    let mut spec = of_this_checkout(ostler_python::Python::new(&file))
        .pool("broken", &mut |_| {})
        .expect("a spec");
    spec.limit_restarts(Some(0), None);
    let broken = ostler.add_pool(spec).await.expect("it is added");
    let end = bed.within("the end", broken.wait_ready()).await;
    let PoolEnd::GaveUp(Some(failure)) = end.expect_err("it can't start") else {
        panic!("it gave up of a failure");
    };
    let why = failure.to_string();
    assert!(why.contains("No module named 'no_such_module_of_ours'"), "{why}");
    let missing = ostler_python::Python::new("nothing.py").start(&ostler, "none").await;
    assert!(matches!(missing, Err(StartError::Python(_))), "{missing:?}");
    ostler.stop().await.expect("it stops");
    bed.finish().await;
}

async fn handlers_see_deadline_session_and_trace_and_run_at_once(python: Python) {
    let scene = Scene::start(python.concurrency(4)).await;
    let about = scene.pool.session("user-1").method::<(), Value>("about");
    let options = CallOptions::new().timeout(Duration::from_secs(60));
    let seen = about.call_with(&(), &options).await.expect("an answer");
    assert_eq!(seen["session"], "user-1");
    let remaining = seen["remaining"].as_f64().expect("a deadline");
    assert!(remaining > 50.0 && remaining <= 60.0, "{remaining}");
    // Four handlers wait for each other: they run at once, or never end.
    let calls = (0..4).map(|_| scene.pool.call::<_, bool>("meet", &60));
    for met in futures_util::future::join_all(calls).await {
        assert!(met.expect("an answer"));
    }
    scene.end().await;
}

async fn a_deadline_is_an_exception_in_the_handler_and_keeps_the_worker(python: Python) {
    let scene = Scene::start(python).await;
    let before = scene.pids();
    let options = CallOptions::new().timeout(Duration::from_millis(600));
    for method in ["work", "work_later"] {
        let client = scene.pool.method::<f64, String>(method);
        let error = client
            .call_with(&600.0, &options)
            .await
            .expect_err("the deadline passes");
        let exception = exception(error);
        assert_eq!(exception.code, "deadline_exceeded", "{exception:?}");
        assert_eq!(exception.class(), ExceptionClass::Timeout);
    }
    assert_eq!(scene.pids(), before, "the worker has noticed by itself and serves on");
    scene.end().await;
}

async fn handlers_call_functions_of_the_host(python: Python) {
    #[derive(Debug)]
    struct Unknown(String);
    impl std::fmt::Display for Unknown {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "no value for {}", self.0)
        }
    }
    let scene = Scene::start(python.clone()).await;
    scene.pool.offer("lookup", |key: Value, call: HostCall| async move {
        let key = key["key"].as_str().or(key.as_str()).unwrap_or_default().to_owned();
        match key.as_str() {
            "missing" => Err(Unknown(key)),
            "deadline" => Ok(format!("{:?}", call.remaining.is_some())),
            _ => Ok(format!("value of {key}")),
        }
    });
    let answer: String = scene.pool.call("look_up", &"a").await.expect("an answer");
    assert_eq!(answer, "value of a");
    let answer: String = scene.pool.call("look_up_later", &"b").await.expect("an answer");
    assert_eq!(answer, "value of b");
    let options = CallOptions::new().timeout(Duration::from_secs(60));
    let client = scene.pool.method::<&str, String>("look_up");
    assert_eq!(
        client.call_with(&"deadline", &options).await.expect("an answer"),
        "true"
    );
    let failed = exception(
        scene
            .pool
            .call::<_, Value>("look_up", &"missing")
            .await
            .expect_err("it fails"),
    );
    assert_eq!(
        (failed.kind.as_str(), failed.message.as_str()),
        ("HostError", "no value for missing")
    );
    scene.end().await;

    let scene = Scene::start(python).await;
    let failed = exception(
        scene
            .pool
            .call::<_, Value>("look_up", &"a")
            .await
            .expect_err("none is offered"),
    );
    assert!(
        failed.message.contains("the host offers no function 'lookup'"),
        "{failed:?}"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_cores_belong_to_an_index_and_survive_a_restart() {
    let python = everything().workers(3).devices(["7", "9"]).pin_to_cores();
    let scene = Scene::start(python).await;
    let placement = async |index: u32| {
        let worker = scene.pool.pool().worker(index).expect("it is there");
        let environ =
            std::fs::read(format!("/proc/{}/environ", worker.pid().expect("a pid"))).expect("its environment");
        let environ = String::from_utf8_lossy(&environ).into_owned();
        environ
            .split('\0')
            .find_map(|line| line.strip_prefix("CUDA_VISIBLE_DEVICES="))
            .map(str::to_owned)
    };
    let mut devices = Vec::new();
    for index in 0..3 {
        devices.push(placement(index).await.expect("a device"));
    }
    assert_eq!(devices, ["7", "9", "7"]);
    let allowed = allowed_cores(std::process::id());
    for (index, pid) in scene.pids().into_iter().enumerate() {
        assert_eq!(allowed_cores(pid), [allowed[index % allowed.len()]], "worker {index}");
    }
    let worker = scene.pool.pool().worker(1).expect("it is there");
    scene
        .bed
        .within("the restart", worker.restart())
        .await
        .expect("it restarts");
    scene
        .bed
        .within("ready again", worker.ready())
        .await
        .expect("it is ready");
    let pid = worker.pid().expect("a pid");
    assert_eq!(allowed_cores(pid), [allowed[1 % allowed.len()]]);
    let environ = std::fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    assert!(String::from_utf8_lossy(&environ).contains("CUDA_VISIBLE_DEVICES=9\0"));
    scene.end().await;
}

/// The cores that a process may use.
fn allowed_cores(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("a list of cores");
    let number = |text: &str| text.trim().parse::<u32>().expect("a number");
    list.split(',')
        .flat_map(|range| match range.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(range)..=number(range),
        })
        .collect()
}

async fn a_worker_that_is_killed_leaves_an_unknown_outcome(python: Python) {
    let mut scene = Scene::start(python).await;
    scene.bed.allow_failures("py/0");
    let failed = scene
        .pool
        .call::<_, Value>("leave", &"os._exit")
        .await
        .expect_err("it ends");
    let StdioError::Call(ostler_serve::CallError::Unknown(unknown)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(unknown.cause, Lost::Worker);
    scene.replaced().await;
    scene.end().await;
}
