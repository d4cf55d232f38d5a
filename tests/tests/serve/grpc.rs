//! Workers that are gRPC servers, called by a client that tonic generated from a public `.proto`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use ostler::{Health, PoolSpec, Port, Ports, Ready};
use ostler_serve::grpc::{FAILURE, GrpcService, OUTCOME, REASON, STDERR, WORKER};
use ostler_serve::{BreakerState, CallOptions, OnCancel, ServeSpec};
use ostler_tests::greeter::greet;
use ostler_tests::helloworld::greeter_client::GreeterClient;
use ostler_tests::route_guide::route_guide_client::RouteGuideClient;
use ostler_tests::route_guide::{Point, Rectangle, RouteNote};
use tonic::{Code, Request, Status};

use crate::scene::{Scene, wait_until};

pub(crate) fn served(spec: &mut PoolSpec) {
    spec.worker.ports = Ports::One(Port::Unix);
    spec.worker.ready = Some(Ready::grpc());
}

async fn scene(workers: u32, serve: ServeSpec) -> (Scene, RouteGuideClient<GrpcService>) {
    let scene = Scene::start("grpc", workers, serve, served).await;
    let client = RouteGuideClient::new(scene.serving.grpc());
    (scene, client)
}

pub(crate) fn point(key: i32, what: i32) -> Point {
    Point {
        latitude: key,
        longitude: what,
    }
}

fn fact<'a>(status: &'a Status, name: &str) -> &'a str {
    let value = status.metadata().get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// How many connections a worker has accepted at its Unix socket: `/proc/net/unix` lists their ends
/// by the socket's path, with the state 3 (connected).
fn accepted(scene: &Scene, index: u32) -> usize {
    let socket = scene
        .serving
        .pool()
        .worker(index)
        .ok()
        .and_then(|worker| worker.socket());
    let Some(path) = socket.and_then(|path| path.to_str().map(str::to_owned)) else {
        return 0;
    };
    let table = std::fs::read_to_string("/proc/net/unix").expect("the table of Unix sockets");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.get(5) == Some(&"03") && fields.last() == Some(&path.as_str()))
        .count()
}

/// Nothing is called before: the connection does not wait for the first call, and is the one that
/// calls use.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_connected_to_as_soon_as_it_is_ready() {
    let (scene, mut client) = scene(2, ServeSpec::default()).await;
    let each_has_one = || (0..2).all(|index| accepted(&scene, index) == 1);
    wait_until("the workers are connected to", each_has_one).await;
    for key in 0..8 {
        client.get_feature(point(key, 0)).await.expect("a feature");
    }
    wait_until("calls use these connections", each_has_one).await;
    let victim = scene.pids()[0];
    ostler_tests::send(victim, nix::sys::signal::Signal::SIGKILL);
    wait_until("there is a replacement", || !scene.pids().contains(&victim)).await;
    scene.at_full_strength().await;
    wait_until("the replacement is connected to", each_has_one).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_four_kinds_of_call_are_answered() {
    let (scene, mut client) = scene(2, ServeSpec::default()).await;
    let feature = client.get_feature(point(0, 0)).await.expect("a feature").into_inner();
    assert_eq!(feature.location, Some(point(0, 0)));

    let area = Rectangle {
        lo: Some(point(1, 0)),
        hi: Some(point(1000, 0)),
    };
    let features = client.list_features(area).await.expect("features").into_inner();
    assert_eq!(scene.serving.state().in_flight, 1, "a stream keeps its worker");
    let features: Vec<_> = features.collect().await;
    assert_eq!(features.iter().filter(|feature| feature.is_ok()).count(), 1000);
    wait_until("its end frees it", || scene.serving.state().in_flight == 0).await;

    let points = futures_util::stream::iter((2..102).map(|key| point(key, 0)));
    let summary = client.record_route(points).await.expect("a summary").into_inner();
    assert_eq!(summary.point_count, 100);

    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let notes = futures_util::stream::unfold(receiver, |mut receiver| async {
        let note: Option<RouteNote> = receiver.recv().await;
        note.map(|note| (note, receiver))
    });
    let mut chat = client.route_chat(notes).await.expect("a chat").into_inner();
    for nth in 0..50 {
        let note = RouteNote {
            location: None,
            message: format!("note {nth}"),
        };
        sender.send(note.clone()).await.expect("it goes out");
        assert_eq!(
            chat.message().await.expect("no error"),
            Some(note),
            "each before the next is sent"
        );
    }
    drop(sender);
    assert_eq!(chat.message().await.expect("a normal end"), None);
    assert_eq!(scene.executed(), (0..102).collect::<Vec<_>>());
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_helloworld_is_served_by_its_generated_client() {
    let (scene, _) = scene(2, ServeSpec::default()).await;
    let mut client = GreeterClient::new(scene.serving.grpc());
    greet(&mut client).await;
    scene.at_full_strength().await;
    scene.end().await;
}

/// Its port is up, and the service behind it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_when_its_service_is_and_not_with_its_port() {
    let started = std::time::Instant::now();
    let scene = Scene::start("grpc", 1, ServeSpec::default(), |spec| {
        served(spec);
        spec.worker.env.insert("HEALTH_AFTER_MS".into(), "400".into());
    })
    .await;
    assert!(started.elapsed() >= Duration::from_millis(400));
    scene.end().await;

    let never = |spec: &mut PoolSpec| {
        served(spec);
        spec.worker.env.insert("HEALTH_AFTER_MS".into(), "3600000".into());
        spec.worker.start_timeout = Duration::from_secs(1);
        spec.intensity = 0;
    };
    let (failure, report) = Scene::never_ready("grpc", never).await;
    assert_eq!(failure.reason, ostler::Reason::ReadyTimeout);
    assert!(failure.message.contains("grpc.health.v1: NOT_SERVING"), "{failure}");
    assert!(report.orphans.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_says_that_it_is_unwell_is_replaced() {
    let scene = Scene::start("grpc", 1, ServeSpec::default(), |spec| {
        served(spec);
        spec.worker.health = Some(Health::grpc("").every(Duration::from_millis(20)).misses(2));
    })
    .await;
    let before = scene.pids();
    let mut client = RouteGuideClient::new(scene.serving.grpc());
    client.get_feature(point(1, -3)).await.expect("it still answers");
    wait_until("it is replaced", || {
        scene.pids().first().is_some_and(|pid| *pid != before[0])
    })
    .await;
    let failure = scene.pool.workers()[0].last_failure.clone().expect("a failure");
    assert_eq!(failure.reason, ostler::Reason::HealthCheckFailed);
    assert!(failure.message.contains("NOT_SERVING"), "{failure}");
    scene.at_full_strength().await;
    scene.end().await;
}

/// An answer that comes after its deadline is not taken for that of the next call.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_reaches_no_one() {
    // The timeout is not the call's own deadline: the server would keep that, too, and might be the
    // first to.
    let serve = ServeSpec::default()
        .on_cancel(OnCancel::Reuse)
        .timeout(Duration::from_millis(100));
    let (scene, mut client) = scene(1, serve).await;
    let status = client.get_feature(point(1, 300)).await.expect_err("it is late");
    assert_eq!(fact(&status, REASON), "deadline");
    assert!(
        status.message().contains("no answer came within the deadline"),
        "{status}"
    );
    let mut next = Request::new(point(2, 0));
    next.set_timeout(ostler_tests::SOON);
    let next = client.get_feature(next).await.expect("an answer").into_inner();
    assert_eq!(next.location, Some(point(2, 0)));
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_a_status_with_the_facts_in_its_metadata() {
    let (scene, mut client) = scene(1, ServeSpec::default()).await;
    let status = client.get_feature(point(1, -1)).await.expect_err("it crashes");
    assert_eq!(
        (status.code(), fact(&status, OUTCOME), fact(&status, REASON)),
        (Code::Unknown, "unknown", "worker_lost")
    );
    assert_eq!((fact(&status, WORKER), fact(&status, FAILURE)), ("serve/0#1", "killed"));
    let stderr = status
        .metadata()
        .get_bin(STDERR)
        .expect("its stderr")
        .to_bytes()
        .expect("bytes");
    assert_eq!(stderr, "Traceback: this request crashes the worker");
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_off_ends_in_an_error() {
    let (scene, mut client) = scene(1, ServeSpec::default()).await;
    let area = Rectangle {
        lo: Some(point(1, 0)),
        hi: Some(point(-10, 0)),
    };
    let features = client.list_features(area).await.expect("features").into_inner();
    let features: Vec<_> = features.collect().await;
    let (first, rest) = features.split_at(10);
    assert!(
        first.iter().all(Result::is_ok) && rest.iter().all(Result::is_err),
        "{features:?}"
    );
    let last = rest.first().expect("no normal end");
    let status = last.as_ref().expect_err("no normal end");
    assert_eq!(
        (fact(status, OUTCOME), fact(status, FAILURE)),
        ("unknown", "exited"),
        "{status}"
    );
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_is_read_passed_on_and_kept() {
    let (scene, mut client) = scene(1, ServeSpec::default()).await;
    let mut request = Request::new(point(1, 0));
    request.set_timeout(Duration::from_secs(20));
    let response = client.get_feature(request).await.expect("a feature");
    let seen = response
        .metadata()
        .get("timeout-seen")
        .expect("a timeout")
        .to_str()
        .expect("text");
    assert!(
        seen.ends_with('u') && seen < "20000000u" && seen > "19000000u",
        "{seen}"
    );

    // The earlier of two deadlines counts, and reaches the worker.
    for (timeout, option) in [(20, 40), (40, 20)] {
        let mut request = Request::new(point(1, 0));
        request.set_timeout(Duration::from_secs(timeout));
        let options = CallOptions::new().timeout(Duration::from_secs(option));
        request.extensions_mut().insert(options);
        let response = client.get_feature(request).await.expect("a feature");
        let seen = response.metadata().get("timeout-seen").expect("a timeout");
        let seen = seen.to_str().expect("text");
        assert!(seen < "20000000u" && seen > "19000000u", "{seen}");
    }
    let mut request = Request::new(point(1, 0));
    request
        .extensions_mut()
        .insert(CallOptions::new().timeout(Duration::from_secs(20)));
    let response = client.get_feature(request).await.expect("a feature");
    assert!(
        response.metadata().contains_key("timeout-seen"),
        "one that is no header"
    );

    let mut request = Request::new(point(2, -2));
    request.set_timeout(Duration::from_millis(300));
    let status = client.get_feature(request).await.expect_err("it never answers");
    // A server of tonic keeps the deadline, too, and may be the first to say so.
    let ours = (status.code(), fact(&status, OUTCOME)) == (Code::DeadlineExceeded, "unknown");
    let workers = status.code() == Code::Cancelled && status.message() == "Timeout expired";
    assert!(ours || workers, "{status}");

    scene.at_full_strength().await;
    let lease = scene.serving.checkout().await.expect("the worker");
    let mut request = Request::new(point(3, 0));
    request.set_timeout(Duration::from_millis(50));
    let status = client.get_feature(request).await.expect_err("no worker is free");
    assert_eq!(
        (status.code(), fact(&status, OUTCOME)),
        (Code::DeadlineExceeded, "refused"),
        "{status}"
    );
    drop(lease);
    let executed: BTreeSet<u64> = scene.executed().into_iter().collect();
    assert!(!executed.contains(&3), "{executed:?}");
    scene.end().await;
}

/// Its answers are not read, so the worker does not read, and the caller is not asked for more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_for_its_reader_in_both_directions() {
    /// Much more than what is buffered on the way.
    const MANY: u64 = 10_000;
    let (scene, mut client) = scene(1, ServeSpec::default()).await;
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let notes = futures_util::stream::iter(0..MANY).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        RouteNote {
            location: None,
            message: "x".repeat(64 << 10),
        }
    });
    let mut chat = client.route_chat(notes).await.expect("a chat").into_inner();
    chat.message().await.expect("no error").expect("a first answer");
    // It stands still when nothing is asked for in a second.
    let deadline = tokio::time::Instant::now() + ostler_tests::SOON;
    loop {
        let before = asked.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if asked.load(Ordering::Relaxed) == before {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{before} notes, and it goes on");
    }
    let asked_for = asked.load(Ordering::Relaxed);
    assert!(
        asked_for < MANY / 2,
        "{asked_for} notes were taken, and one answer was read"
    );
    for _ in 0..1000 {
        chat.message().await.expect("no error").expect("it goes on");
    }
    drop(chat);
    scene.at_full_strength().await;
    scene.end().await;
}

/// The worker is lost after its answer has begun: that counts like one that is lost before.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_streams_crash_workers_is_poison_and_opens_the_breaker() {
    let serve = ServeSpec::default().breaker(
        ostler_serve::Breaker::default()
            .failures(2)
            .open(Duration::from_millis(50)),
    );
    let (scene, mut client) = scene(1, serve).await;
    let area = || {
        let mut request = Request::new(Rectangle {
            lo: Some(point(1, 0)),
            hi: Some(point(-1, 0)),
        });
        request.extensions_mut().insert(CallOptions::new().key("poison"));
        request
    };
    for _ in 0..2 {
        let features = client.list_features(area()).await.expect("features").into_inner();
        let features: Vec<_> = features.collect().await;
        assert!(features.iter().any(Result::is_err), "{features:?}");
    }
    assert_ne!(scene.serving.state().breaker, BreakerState::Closed);
    scene.at_full_strength().await;
    let status = client.list_features(area()).await.expect_err("it is known");
    assert_eq!(fact(&status, REASON), "poisoned", "{status}");
    assert_eq!(scene.executed(), [1, 1]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_is_reset_and_others_on_the_connection_go_on() {
    let serve = ServeSpec::default().concurrency(10).on_cancel(OnCancel::Reuse);
    let (scene, client) = scene(1, serve).await;
    let before = scene.pids();
    let call = |key, what| {
        let mut client = client.clone();
        tokio::spawn(async move { client.get_feature(point(key, what)).await })
    };
    let (dropped, kept) = (call(1, -2), call(2, 500));
    wait_until("both are executed", || scene.executed().len() == 2).await;
    dropped.abort();
    wait_until("the worker sees the reset", || scene.executed().contains(&1_000_001)).await;
    kept.await.expect("no panic").expect("it is answered");
    scene.at_full_strength().await;
    assert_eq!(scene.pids(), before);
    scene.end().await;
}
