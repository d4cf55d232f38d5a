//! Workers that are called over HTTP.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use ostler::{PoolSpec, Port, Ports, Ready, Reason};
use ostler_serve::http::{Http, HttpService, Version};
use ostler_serve::{CallError, CallOptions, Lost, ServeSpec};
use serde_json::Value;
use tower_service::Service as _;

use crate::scene::{Scene, request, wait_until};

pub(crate) fn web(spec: &mut PoolSpec) {
    spec.worker.ports = Ports::One(Port::Any);
    spec.worker.ready = Some(Ready::http("/healthz"));
}

async fn scene(workers: u32, serve: ServeSpec) -> Scene {
    Scene::start("http", workers, serve, web).await
}

fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let request = Request::post(path).body(Full::from(body.to_string()));
    request.expect("a request")
}

/// The service's answer, read to its end.
async fn answer(service: &mut HttpService, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    let response = service.call(request).await.expect("it never fails");
    let status = response.status();
    let body = response.into_body().collect().await.expect("the whole body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_answer_and_the_worker_is_free_when_the_body_was_read() {
    for version in [Version::Http1, Version::Http2] {
        let scene = scene(2, ServeSpec::default()).await;
        let mut service = scene.serving.http_with(Http::new(version));
        for key in 0..20 {
            let (status, body) = answer(&mut service, post("/", &request(key, "echo"))).await;
            assert_eq!((status, &body["key"]), (StatusCode::OK, &key.into()));
            assert_eq!(scene.serving.state().in_flight, 0);
        }
        let response = service
            .call(post("/", &request(20, "echo")))
            .await
            .expect("it never fails");
        assert_eq!(
            scene.serving.state().in_flight,
            u64::from(!hyper::body::Body::is_end_stream(response.body()))
        );
        drop(response);
        scene.at_full_strength().await;
        scene.end().await;
    }
}

/// Ready-made layers go around a pool as around any other service.
#[tokio::test(flavor = "multi_thread")]
async fn tower_layers_go_around_a_pool() {
    use tower::ServiceExt as _;

    let scene = scene(2, ServeSpec::default()).await;
    let service = tower::ServiceBuilder::new()
        .timeout(ostler_tests::SOON)
        .concurrency_limit(2)
        .map_request(|key: u64| post("/", &request(key, "echo")))
        .service(scene.serving.http());
    let calls = (0..8).map(|key| service.clone().oneshot(key)).map(|call| async {
        let answer = call.await.expect("an answer in time");
        // A worker is free again when the body was read.
        answer.into_body().collect().await.expect("the whole body").to_bytes()
    });
    for (key, body) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["key"], key);
    }
    scene.end().await;
}

/// With HTTP/1.1: a call over HTTP/2 can cross the GOAWAY, and then its outcome is unknown. How
/// such a connection is made again is tested in `ostler-serve/src/http/connection.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_closes_the_connection_after_each_answer_is_connected_to_again() {
    let scene = scene(1, ServeSpec::default()).await;
    let mut service = scene.serving.http();
    let before = scene.pids();
    for key in 0..20 {
        let (status, body) = answer(&mut service, post("/close", &request(key, "echo"))).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    assert_eq!((scene.pids(), scene.executed()), (before, (0..20).collect()));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_versions_have_connections_of_their_own_to_one_worker() {
    let scene = scene(1, ServeSpec::default()).await;
    let (http1, http2) = (scene.serving.http(), scene.serving.http_with(Http::new(Version::Http2)));
    for key in 0..4 {
        for (service, version) in [(&http1, hyper::Version::HTTP_11), (&http2, hyper::Version::HTTP_2)] {
            let response = service.send(post("/", &request(key, "echo"))).await.expect("an answer");
            assert_eq!(response.version(), version);
            response.into_body().collect().await.expect("the whole body");
        }
    }
    scene.at_full_strength().await;
    scene.end().await;
}

/// HTTP/1.1 has one call at a time on a connection, and the first call's body has no end.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_does_not_wait_for_the_body_of_another_one() {
    let serve = ServeSpec::default()
        .concurrency(2)
        .on_cancel(ostler_serve::OnCancel::Reuse);
    let scene = scene(1, serve).await;
    let service = scene.serving.http();
    let mut dripping = service.send(post("/", &request(0, "drip"))).await.expect("it drips");
    dripping.body_mut().frame().await.expect("a piece").expect("a piece");
    for key in 1..5 {
        let mut service = service.clone();
        let answered = answer(&mut service, post("/", &request(key, "echo")));
        let answered = tokio::time::timeout(ostler_tests::SOON, answered);
        let (status, body) = answered.await.expect("it does not wait");
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    drop(dripping);
    scene.at_full_strength().await;
    scene.end().await;
}

/// The worker has seen the head of the request, and may have acted on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_body_fails_after_its_head_was_sent_is_not_refused() {
    for version in [Version::Http1, Version::Http2] {
        let scene = scene(1, ServeSpec::default()).await;
        let service = scene.serving.http_with(Http::new(version));
        let (fail, fails) = tokio::sync::oneshot::channel::<()>();
        let body = futures_util::stream::once(async move {
            drop(fails.await);
            Err::<hyper::body::Frame<Bytes>, _>(std::io::Error::other("the caller's file can't be read"))
        });
        let request = Request::post("/early/1").body(http_body_util::StreamBody::new(body));
        let call = tokio::spawn(async move { service.send(request.expect("a request")).await.map(drop) });
        wait_until("the worker acts", || scene.executed() == [1]).await;
        drop(fail);
        let error = call.await.expect("no panic").expect_err("its body fails");
        assert!(matches!(error, CallError::Unknown(_)), "{version:?}: {error}");
        scene.at_full_strength().await;
        assert_eq!(scene.serving.state().breaker, ostler_serve::BreakerState::Closed);
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_own_deadline_is_for_the_whole_body() {
    let scene = scene(1, ServeSpec::default()).await;
    let mut drips = post("/", &request(1, "drip"));
    drips
        .extensions_mut()
        .insert(CallOptions::new().timeout(Duration::from_millis(300)));
    let response = scene.serving.http().send(drips).await.expect("it begins in time");
    let read = tokio::time::timeout(ostler_tests::SOON, response.into_body().collect()).await;
    let cut_off = read.expect("it ends").expect_err("it has no end of its own");
    assert!(matches!(cut_off.0.cause, Lost::Deadline { .. }), "{cut_off}");
    scene.at_full_strength().await;
    scene.end().await;
}

/// Runs calls of all kinds in another process, whose environment names a proxy.
#[test]
fn a_proxy_variable_is_never_obeyed() {
    let proxy = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    proxy.set_nonblocking(true).expect("it can be set");
    let address = format!("http://{}", proxy.local_addr().expect("an address"));
    for test in [
        "http::both_versions_answer_and_the_worker_is_free_when_the_body_was_read",
        "grpc::all_four_kinds_of_call_are_answered",
    ] {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--test-threads=1"]);
        for name in ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"] {
            command.env(name, &address).env(name.to_uppercase(), &address);
        }
        let output = command
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    let connected = proxy.accept().map(|(_, peer)| peer);
    assert!(connected.is_err(), "a connection to the proxy from {connected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_an_answer_are_problems() {
    let scene = scene(1, ServeSpec::default()).await;
    let mut service = scene.serving.http();
    let (status, problem) = answer(&mut service, post("/", &request(1, "crash"))).await;
    assert_eq!(
        (status, &problem["outcome"], &problem["failure"]),
        (StatusCode::BAD_GATEWAY, &"unknown".into(), &"killed".into())
    );
    assert_eq!(problem["stderr"][0], "Traceback: this request crashes the worker");

    let mut hangs = post("/", &request(2, "hang"));
    hangs
        .extensions_mut()
        .insert(CallOptions::new().timeout(Duration::from_millis(300)));
    let (status, problem) = answer(&mut service, hangs).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::GATEWAY_TIMEOUT, &"deadline".into())
    );

    scene.at_full_strength().await;
    let lease = scene.serving.checkout().await.expect("the worker");
    let mut late = post("/", &request(3, "echo"));
    late.extensions_mut()
        .insert(CallOptions::new().timeout(Duration::from_millis(50)));
    let (status, problem) = answer(&mut service, late).await;
    assert_eq!(
        (status, &problem["outcome"], &problem["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"refused".into(), &"expired".into())
    );
    drop(lease);
    assert_eq!(scene.executed(), [1, 2]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_ends_in_an_error_with_what_the_worker_died_of() {
    let scene = scene(1, ServeSpec::default()).await;
    let service = scene.serving.http();
    let response = service
        .send(post("/", &request(1, "half")))
        .await
        .expect("the answer begins");
    let mut body = response.into_body();
    let cut_off = loop {
        match body.frame().await.expect("no normal end") {
            Ok(_) => {}
            Err(cut_off) => break cut_off.0,
        }
    };
    assert!(body.frame().await.is_none(), "nothing follows an error");
    assert_eq!(cut_off.cause, Lost::Worker, "{cut_off}");
    let failure = cut_off.failure.expect("the worker's failure");
    assert_eq!(
        (failure.reason, &failure.stderr_tail[0][..]),
        (Reason::Exited, "it ends in the middle of an answer")
    );
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_dropped_cancels_and_the_worker_is_replaced() {
    let scene = scene(1, ServeSpec::default()).await;
    let before = scene.pids();
    let service = scene.serving.http();
    let mut response = service.send(post("/", &request(1, "drip"))).await.expect("it drips");
    response.body_mut().frame().await.expect("a piece").expect("a piece");
    assert_eq!(scene.serving.state().in_flight, 1);
    drop(response);
    let (status, _) = answer(&mut service.clone(), post("/", &request(2, "echo"))).await;
    assert_eq!(status, StatusCode::OK);
    assert_ne!(scene.pids(), before);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_is_lost_is_tried_again_and_a_post_is_not() {
    let scene = scene(2, ServeSpec::default()).await;
    let service = scene.serving.http();
    // Each worker's connection is open, and each worker is stopped, so that calls are sent and not
    // answered.
    let leases = [
        scene.serving.checkout().await.expect("a worker"),
        scene.serving.checkout().await.expect("a worker"),
    ];
    for lease in leases {
        let health = Request::get("/healthz").body(Empty::<Bytes>::new()).expect("a request");
        let response = lease.http().send(health).await.expect("an answer");
        response.into_body().collect().await.expect("the whole body");
        let pid = lease.worker().pid().expect("a process");
        ostler_tests::send(pid, nix::sys::signal::Signal::SIGSTOP);
    }
    let get = tokio::spawn({
        let service = service.clone();
        async move {
            let health = Request::get("/healthz").body(Empty::<Bytes>::new()).expect("a request");
            service.send(health).await.map(|response| response.status())
        }
    });
    let post = tokio::spawn({
        let service = service.clone();
        async move {
            service
                .send(post("/", &request(1, "echo")))
                .await
                .map(|response| response.status())
        }
    });
    wait_until("both are sent", || scene.serving.state().in_flight == 2).await;
    for pid in scene.pids() {
        ostler_tests::send(pid, nix::sys::signal::Signal::SIGKILL);
    }
    assert_eq!(get.await.expect("no panic").expect("it is tried again"), StatusCode::OK);
    let lost = post.await.expect("no panic").expect_err("it is not tried again");
    assert!(
        matches!(&lost, CallError::Unknown(unknown) if unknown.cause == Lost::Worker),
        "{lost}"
    );
    assert_eq!(scene.executed(), [0u64; 0]);
    scene.at_full_strength().await;
    scene.end().await;
}
