//! Workers that are called over their stdin and stdout.

use std::time::Duration;

use ostler::{PoolSpec, Reason, Stdin, chain};
use ostler_serve::stdio::StdioError;
use ostler_serve::{
    Affinity, Breaker, BreakerState, CallError, CallOptions, Lost, OnCancel, Recycle, Refused, ServeSpec, Sessions,
};
use ostler_tests::SOON;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::scene::{Scene, request, wait_until};

fn piped(spec: &mut PoolSpec) {
    spec.worker.stdin = Stdin::Pipe;
}

async fn scene(workers: u32, serve: ServeSpec) -> Scene {
    Scene::start("packet", workers, serve, piped).await
}

fn unknown(error: StdioError) -> ostler_serve::Unknown {
    match error {
        StdioError::Call(CallError::Unknown(unknown)) => unknown,
        other => panic!("the outcome is not unknown: {other}"),
    }
}

fn refused(error: StdioError) -> Refused {
    match error {
        StdioError::Call(CallError::Refused(refused)) => refused,
        other => panic!("it is not refused: {other}"),
    }
}

/// A limit that is beyond the clock is none.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_limits_are_no_limits() {
    let serve = ServeSpec::default().timeout(Duration::MAX).drain_timeout(Duration::MAX);
    let scene = scene(2, serve).await;
    drop(scene.serving.checkout().await.expect("a lease"));
    let answer = scene.serving.stdio::<Value, Value>().call(&request(1, "echo")).await;
    assert_eq!(answer.expect("an answer")["key"], 1);
    scene.serving.resize(1).await.expect("it shrinks");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_framings_answer_and_an_exception_is_typed() {
    for framing in ["packet", "json"] {
        let scene = Scene::start(framing, 2, ServeSpec::default(), piped).await;
        let packet = scene.serving.stdio::<Value, Value>();
        let json = scene.serving.json_lines::<Value, Value>();
        for key in 0..10 {
            let body = request(key, "echo");
            let answer = if framing == "packet" {
                packet.call(&body).await
            } else {
                json.call(&body).await
            };
            assert_eq!(answer.expect("an answer")["key"], key);
        }
        let body = request(10, "raise");
        let error = if framing == "packet" {
            packet.call(&body).await
        } else {
            json.call(&body).await
        };
        let Err(StdioError::Worker(exception)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(exception.to_string(), "KeyError: no such key");
        assert!(exception.is_a("LookupError") && !exception.is_a("ValueError") && exception.executed);
        assert_eq!(scene.executed(), (0..11).collect::<Vec<_>>());
        scene.at_full_strength().await;
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_calls_are_in_flight_at_one_worker_as_concurrency_says() {
    let serve = ServeSpec::default().concurrency(8);
    let scene = scene(1, serve).await;
    let client = scene.serving.stdio::<Value, Value>();
    let begin = Instant::now();
    let calls = (0..8).map(|key| {
        let client = client.clone();
        async move { client.call(&json!({"key": key, "do": "sleep", "ms": 500})).await }
    });
    for (key, answer) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(
            answer.expect("an answer")["key"],
            key,
            "each caller gets its own answer"
        );
    }
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "one after the other would take 4 s"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_an_unknown_outcome_with_what_the_worker_died_of() {
    let scene = scene(2, ServeSpec::default()).await;
    let client = scene.serving.stdio::<Value, Value>();
    let unknown = unknown(client.call(&request(1, "crash")).await.expect_err("it crashes"));
    let failure = unknown.failure.as_ref().expect("the worker's failure");
    assert_eq!(
        (failure.reason, &unknown.cause),
        (Reason::Killed, &Lost::Worker),
        "{unknown}"
    );
    assert_eq!(failure.stderr_tail, ["Traceback: this request crashes the worker"]);
    assert!(chain(&unknown).contains("ABRT"), "{unknown}");
    scene.at_full_strength().await;
    assert_eq!(scene.executed(), [1], "it is not tried again unasked");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crashes_workers_is_tried_twice_and_then_refused() {
    let scene = scene(2, ServeSpec::default()).await;
    let client = scene.serving.stdio::<Value, Value>();
    let options = CallOptions::new().idempotent().key("poison");
    let first = client.call_with(&request(1, "crash"), &options).await;
    assert_eq!(unknown(first.expect_err("it crashes")).cause, Lost::Worker);
    let second = refused(
        client
            .call_with(&request(1, "crash"), &options)
            .await
            .expect_err("it is known"),
    );
    assert!(matches!(second, Refused::Poisoned { crashes: 2 }), "{second}");
    assert_eq!(scene.executed(), [1, 1]);
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_expires_in_the_queue_is_never_sent() {
    let scene = scene(1, ServeSpec::default()).await;
    let client = scene.serving.stdio::<Value, Value>();
    let lease = scene.serving.checkout().await.expect("the worker");
    let options = CallOptions::new().timeout(Duration::from_millis(50));
    let expired = refused(
        client
            .call_with(&request(1, "echo"), &options)
            .await
            .expect_err("no worker is free"),
    );
    assert!(matches!(expired, Refused::Expired { .. }), "{expired}");
    drop(lease);
    client.call(&request(2, "echo")).await.expect("the worker is free");
    assert_eq!(scene.executed(), [2]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_an_empty_pool_waits_until_the_pool_grows_or_the_call_expires() {
    let scene = scene(0, ServeSpec::default()).await;
    let client = scene.serving.stdio::<Value, Value>();
    let options = CallOptions::new().timeout(Duration::from_millis(50));
    let expired = refused(
        client
            .call_with(&request(1, "echo"), &options)
            .await
            .expect_err("there is no worker"),
    );
    assert!(matches!(expired, Refused::Expired { .. }), "{expired}");
    let waiting = tokio::spawn(async move { client.call(&request(2, "echo")).await });
    wait_until("it is queued", || scene.serving.state().queued == 1).await;
    scene.serving.resize(1).await.expect("it grows");
    waiting.await.expect("no panic").expect("an answer");
    assert_eq!(scene.executed(), [2]);
    scene.end().await;
}

/// A worker is free, and what is sent to it would be too late: the worker would be replaced for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_deadline_has_passed_is_never_sent_though_a_worker_is_free() {
    let scene = scene(1, ServeSpec::default()).await;
    let before = scene.pids();
    let client = scene.serving.stdio::<Value, Value>();
    let past = CallOptions::new().deadline(Instant::now());
    let lease = scene.serving.checkout().await.expect("the worker");
    let leased = lease.stdio::<Value, Value>();
    let error = leased
        .call_with(&request(1, "echo"), &past)
        .await
        .expect_err("too late");
    assert!(matches!(refused(error), Refused::Expired { .. }));
    drop((leased, lease));
    let error = client
        .call_with(&request(2, "echo"), &past)
        .await
        .expect_err("too late");
    assert!(matches!(refused(error), Refused::Expired { .. }));
    // More than a clock can show is no deadline.
    let patient = CallOptions::new().timeout(Duration::MAX);
    client
        .call_with(&request(3, "echo"), &patient)
        .await
        .expect("an answer");
    assert_eq!((scene.pids(), scene.executed()), (before, vec![3]));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_is_replaced_at_the_deadline() {
    let scene = scene(1, ServeSpec::default()).await;
    let before = scene.pids();
    let client = scene.serving.stdio::<Value, Value>();
    let options = CallOptions::new().timeout(Duration::from_millis(300));
    let unknown = unknown(
        client
            .call_with(&request(1, "hang"), &options)
            .await
            .expect_err("it hangs"),
    );
    assert!(
        matches!(unknown.cause, Lost::Deadline { sent_for } if sent_for >= Duration::from_millis(100)),
        "{unknown}"
    );
    client.call(&request(2, "echo")).await.expect("the replacement answers");
    assert_ne!(scene.pids(), before);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_and_text_between_answers_have_names_of_their_own() {
    let scene = scene(1, ServeSpec::default()).await;
    let client = scene.serving.stdio::<Value, Value>();
    let noise = unknown(client.call(&request(1, "noise")).await.expect_err("that is no frame"));
    assert!(chain(&noise).contains("does the worker print to stdout?"), "{noise}");
    let half = unknown(client.call(&request(2, "half")).await.expect_err("it is cut off"));
    assert_eq!(
        half.failure.as_ref().map(|failure| failure.reason),
        Some(Reason::Exited),
        "{half}"
    );
    let text = half.to_string();
    assert!(text.contains("ended within a frame"), "{text}");
    client.call(&request(3, "echo")).await.expect("the replacement answers");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_caller_gave_up_is_replaced_or_used_on_as_the_pool_says() {
    for on_cancel in [OnCancel::Replace, OnCancel::Reuse] {
        let serve = ServeSpec::default().on_cancel(on_cancel);
        let scene = scene(1, serve).await;
        let before = scene.pids();
        let client = scene.serving.stdio::<Value, Value>();
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.call(&json!({"key": 1, "do": "sleep", "ms": 300})).await }
        });
        wait_until("the call is executed", || scene.executed() == [1]).await;
        call.abort();
        let answer = client.call(&request(2, "echo")).await.expect("an answer");
        assert_eq!(answer["key"], 2, "not the answer of the call that was given up");
        assert_eq!(scene.pids() == before, on_cancel == OnCancel::Reuse, "{on_cancel:?}");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_others_away_and_ends_with_its_holder() {
    let scene = scene(1, ServeSpec::default()).await;
    let before = scene.pids();
    let lease = scene.serving.checkout().await.expect("the worker");
    assert_eq!(lease.worker().pid().map(|pid| vec![pid]), Some(before.clone()));
    let talk = lease.stdio::<Value, Value>();
    for key in 0..3 {
        talk.call(&request(key, "echo")).await.expect("an answer");
    }
    let other = scene.serving.stdio::<Value, Value>();
    let options = CallOptions::new().timeout(Duration::from_millis(50));
    refused(
        other
            .call_with(&request(9, "echo"), &options)
            .await
            .expect_err("it is leased"),
    );
    drop((talk, lease));
    other.call(&request(3, "echo")).await.expect("it is free");
    assert_eq!(
        scene.pids(),
        before,
        "a lease that ends between two calls leaves the worker as it is"
    );

    let serving = scene.serving.clone();
    let holder = tokio::spawn(async move {
        let lease = serving.checkout().await.expect("the worker");
        let _exchange = lease.exchange();
        panic!("the holder dies in the middle of an exchange");
    });
    assert!(holder.await.expect_err("it panics").is_panic());
    other.call(&request(4, "echo")).await.expect("the replacement answers");
    let after = scene.pids();
    assert_ne!(after, before, "a worker in the middle of something is not used on");
    scene.serving.checkout().await.expect("the worker").discard();
    other.call(&request(5, "echo")).await.expect("the replacement answers");
    assert_ne!(scene.pids(), after);
    assert_eq!(scene.executed(), [0, 1, 2, 3, 4, 5]);
    scene.end().await;
}

#[test]
fn a_lease_ends_with_the_runtime_of_its_holder_and_with_its_aborted_task() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let scene = runtime.block_on(scene(1, ServeSpec::default()));
    for dies in ["runtime", "task"] {
        let before = scene.pids();
        let holders = tokio::runtime::Runtime::new().expect("a runtime");
        let (begun, begins) = std::sync::mpsc::channel();
        let serving = scene.serving.clone();
        let holder = holders.spawn(async move {
            let lease = serving.checkout().await.expect("the worker");
            let _exchange = lease.exchange();
            begun.send(()).expect("it is waited for");
            std::future::pending::<()>().await;
        });
        begins.recv().expect("it has the worker");
        assert_eq!(scene.serving.state().in_flight, 1);
        match dies {
            "task" => holder.abort(),
            _ => drop(holders),
        }
        let client = scene.serving.stdio::<Value, Value>();
        runtime
            .block_on(client.call(&request(1, "echo")))
            .expect("the replacement answers");
        assert_ne!(scene.pids(), before, "{dies}: it was in the middle of something");
    }
    runtime.block_on(scene.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_sessions_that_fail_fast_are_limited_and_lost_with_a_worker_that_is_drained() {
    let serve = ServeSpec::default().sessions(Sessions::default().affinity(Affinity::StrictFailFast).max(1));
    let scene = scene(2, serve).await;
    let session = scene.serving.session("a");
    let client = session.stdio::<Value, Value>();
    client.call(&request(0, "echo")).await.expect("an answer");
    let lease = session.checkout().await.expect("its worker is free");
    let index = lease.who().id.index;
    let busy = refused(client.call(&request(1, "echo")).await.expect_err("its worker is busy"));
    assert!(
        matches!(&busy, Refused::SessionBusy { session, worker } if session == "a" && worker == lease.who()),
        "{busy}"
    );
    let other = scene.serving.session("b").stdio::<Value, Value>();
    let many = refused(other.call(&request(2, "echo")).await.expect_err("there is one session"));
    assert!(matches!(many, Refused::TooManySessions { limit: 1 }), "{many}");
    drop(lease);
    scene.serving.replace(index);
    let lost = refused(
        client
            .call(&request(3, "echo"))
            .await
            .expect_err("its worker is drained"),
    );
    assert!(
        matches!(&lost, Refused::SessionLost(lost) if lost.worker.id.index == index && lost.failure.is_none()),
        "{lost}"
    );
    client.call(&request(4, "echo")).await.expect("another worker");
    assert_eq!(scene.executed(), [0, 4]);
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_session_keeps_its_worker_and_is_lost_with_it() {
    let serve = ServeSpec::default().sessions(Sessions::default().affinity(Affinity::StrictQueue));
    let scene = scene(4, serve).await;
    let session = scene.serving.session("user-42").stdio::<Value, Value>();
    let own = session.call(&request(0, "echo")).await.expect("an answer")["pid"].clone();
    for key in 1..8 {
        assert_eq!(
            session.call(&request(key, "echo")).await.expect("an answer")["pid"],
            own
        );
    }
    unknown(session.call(&request(8, "crash")).await.expect_err("it crashes"));
    let lost = refused(session.call(&request(9, "echo")).await.expect_err("its worker is gone"));
    let Refused::SessionLost(lost) = lost else {
        panic!("{lost}")
    };
    assert_eq!(lost.failure.map(|failure| failure.reason), Some(Reason::Killed));
    session
        .call(&request(10, "echo"))
        .await
        .expect("it is bound to another worker");
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_while_workers_crash_and_closes_when_one_answers() {
    let serve = ServeSpec::default().breaker(Breaker::default().failures(2).open(Duration::from_millis(500)));
    let scene = scene(1, serve).await;
    let client = scene.serving.stdio::<Value, Value>();
    for key in 0..2 {
        unknown(client.call(&request(key, "crash")).await.expect_err("it crashes"));
    }
    assert_eq!(scene.serving.state().breaker, BreakerState::Open);
    let open = refused(client.call(&request(9, "echo")).await.expect_err("the breaker is open"));
    assert!(matches!(open, Refused::BreakerOpen { .. }), "{open}");
    let deadline = Instant::now() + SOON;
    while client.call(&request(2, "echo")).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.serving.state().breaker, BreakerState::Closed);
    assert_eq!(scene.executed(), [0, 1, 2]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_recycled_after_its_requests_and_no_call_notices() {
    // With a stand-in, a worker serves on until that is ready.
    let recycle = Recycle::default().requests(5).jitter(0.0).surge(0);
    let serve = ServeSpec::default().recycle(recycle).concurrency(2);
    let scene = scene(2, serve).await;
    let client = scene.serving.stdio::<Value, Value>();
    let mut served: std::collections::BTreeMap<u64, u32> = std::collections::BTreeMap::new();
    for key in 0..40 {
        let answer = client.call(&request(key, "echo")).await.expect("an answer");
        *served.entry(answer["pid"].as_u64().expect("a pid")).or_default() += 1;
    }
    assert!(served.values().all(|calls| *calls <= 5), "{served:?}");
    assert!(served.len() >= 8, "{served:?}");
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pipe_the_error_says_what_to_set() {
    // One that lives without stdin: the others end, and never get ready.
    let idle = |spec: &mut PoolSpec| spec.worker.command = vec!["sleep".to_owned(), "600".to_owned()];
    let scene = Scene::start("packet", 1, ServeSpec::default(), idle).await;
    let client = scene.serving.stdio::<Value, Value>();
    let error = client.call(&request(0, "echo")).await.expect_err("it has no stdin");
    assert!(chain(&error).contains("set stdin = \"pipe\""), "{error}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaks_memory_is_recycled() {
    let serve = ServeSpec::default().recycle(Recycle::default().memory(100 << 20));
    let scene = scene(1, serve).await;
    let before = scene.pids();
    let client = scene.serving.stdio::<Value, Value>();
    client.call(&request(0, "echo")).await.expect("an answer");
    client.call(&request(1, "leak")).await.expect("an answer");
    wait_until("it is replaced", || scene.pids().len() == 1 && scene.pids() != before).await;
    client.call(&request(2, "echo")).await.expect("the replacement answers");
    assert_eq!(scene.executed(), [0, 1, 2]);
    scene.at_full_strength().await;
    scene.end().await;
}
