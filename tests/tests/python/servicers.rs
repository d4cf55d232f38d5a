//! Generated servicers in Python, called by the client that tonic generated from the same `.proto`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ostler_python::{Python, Transport};
use ostler_serve::OnCancel;
use ostler_serve::stdio::{ExceptionClass, WorkerException};
use ostler_tests::greeter::{greet, named};
use ostler_tests::helloworld::greeter_client::GreeterClient;
use tonic::{Code, Request};

use crate::scene::{Scene, of_this_checkout, repository, until, with_packages};

/// What grpcio's compiler makes of the `.proto`.
fn generate(python: &Path, folder: &Path) {
    let protos = repository().join("tests/proto");
    let made = Command::new(python)
        .args(["-m", "grpc_tools.protoc", "helloworld.proto"])
        .arg(format!("-I{}", protos.display()))
        .arg(format!("--python_out={}", folder.display()))
        .arg(format!("--grpc_python_out={}", folder.display()))
        .status();
    assert!(made.expect("the compiler runs").success());
}

/// The worker and the folder of its generated code. `None`: grpcio can't be fetched.
fn greeter(kind: &str) -> Option<(Python, tempfile::TempDir)> {
    let file: PathBuf = repository().join("python/tests/workers/greeter.py");
    let python = with_packages(of_this_checkout(Python::new(file)).transport(Transport::Grpc))?;
    let folder = tempfile::tempdir().expect("a folder");
    generate(&python.prepare(&mut |_| {}).expect("it is there"), folder.path());
    let arguments = [folder.path().display().to_string(), kind.to_owned()];
    Some((python.arguments(arguments), folder))
}

async fn a_servicer_is_called_by_its_generated_client(kind: &str) {
    let Some((python, _folder)) = greeter(kind) else { return };
    // A handler that is cancelled comes back by itself, and keeps its worker.
    let scene = Scene::start_with(python, |spec| spec.serve.on_cancel = OnCancel::Reuse).await;
    let before = scene.pids();
    let mut client = GreeterClient::new(scene.pool.grpc());
    greet(&mut client).await;
    let mut timed = Request::new(named("remaining"));
    timed.set_timeout(Duration::from_secs(60));
    let reply = client.say_hello(timed).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "Hello True", "the caller's deadline is visible");

    for (name, class, code) in [
        ("ValueError", ExceptionClass::Value, Code::InvalidArgument),
        ("SystemExit", ExceptionClass::Exit, Code::Unknown),
    ] {
        let status = client.say_hello(named(name)).await.expect_err("it raises");
        let exception = WorkerException::of(&status).unwrap_or_else(|| panic!("{status:?}"));
        assert_eq!((exception.class(), status.code()), (class, code), "{status:?}");
        assert!(exception.traceback.contains("greeter.py"), "{exception:?}");
    }
    let own = client.say_hello(named("own")).await.expect_err("its own status");
    assert_eq!((own.code(), own.message()), (Code::AlreadyExists, "its own status"));
    assert!(WorkerException::of(&own).is_none(), "{own:?}");

    let mut endless = Request::new(named("endless"));
    endless.set_timeout(Duration::from_millis(500));
    client.say_hello(endless).await.expect_err("the deadline passes");
    until("the handler has noticed", || {
        scene.bed.history().contains("endless is over")
    })
    .await;
    let reply = client.say_hello(named("Ada")).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "Hello Ada");
    assert_eq!(scene.pids(), before, "it is the same worker all the time");
    drop(client);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_servicer_is_called_by_its_generated_client() {
    a_servicer_is_called_by_its_generated_client("sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_async_servicer_is_called_by_its_generated_client() {
    a_servicer_is_called_by_its_generated_client("async").await;
}
