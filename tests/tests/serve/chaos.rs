//! Chaos: workers are killed every 200 ms and the guardian now and then, workers are restarted in
//! turn, the pool grows and shrinks, and callers give up at random, while requests go on.
//! Afterwards what the workers have written down must agree with what callers learned.
//!
//! `OSTLER_TEST_LONG=1` makes 10,000 requests from 50 callers with ten seeds for each protocol.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::Request;
use nix::sys::signal::Signal;
use ostler::{PoolSpec, Stdin};
use ostler_serve::{Breaker, CallError, ServeSpec, ServingPool};
use ostler_tests::route_guide::route_guide_client::RouteGuideClient;
use ostler_tests::world::{long_form, rounds};

use crate::scene::{Scene, request};
use crate::{grpc, http};

/// What a caller learned of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Outcome {
    Answered,
    Refused,
    Unknown,
    /// The caller gave up, and learned nothing.
    GaveUp,
}

/// Makes one call, which takes `ms` milliseconds at the worker.
async fn call(serving: &ServingPool, protocol: &str, key: u64, ms: u64) -> Outcome {
    match protocol {
        "packet" => {
            let body = serde_json::json!({"key": key, "do": "sleep", "ms": ms});
            let answer = serving.stdio::<_, serde_json::Value>().call(&body).await;
            match answer {
                Ok(answer) => {
                    assert_eq!(answer["key"], key, "the answer of another call");
                    Outcome::Answered
                }
                Err(ostler_serve::stdio::StdioError::Call(error)) => of(&error),
                Err(other) => panic!("{other}"),
            }
        }
        "http" => {
            let body = http_body_util::Full::<hyper::body::Bytes>::from(request_body(key, ms));
            let request = Request::post("/").body(body).expect("a request");
            match serving.http().send(request).await {
                Ok(response) => match http_body_util::BodyExt::collect(response.into_body()).await {
                    Ok(_) => Outcome::Answered,
                    Err(cut_off) => of(&cut_off.0.into()),
                },
                Err(error) => of(&error),
            }
        }
        _ => {
            let key = i32::try_from(key).expect("small");
            let point = grpc::point(key, i32::try_from(ms).expect("small"));
            match RouteGuideClient::new(serving.grpc()).get_feature(point).await {
                Ok(response) => {
                    let location = response.into_inner().location.expect("a location");
                    assert_eq!(location.latitude, key, "the answer of another call");
                    Outcome::Answered
                }
                Err(status) => {
                    let outcome = status.metadata().get(ostler_serve::grpc::OUTCOME);
                    match outcome.and_then(|outcome| outcome.to_str().ok()) {
                        Some("refused") => Outcome::Refused,
                        Some("unknown") => Outcome::Unknown,
                        _ => panic!("a status without an outcome: {status:?}"),
                    }
                }
            }
        }
    }
}

fn request_body(key: u64, ms: u64) -> String {
    let mut body = request(key, "sleep");
    body["ms"] = ms.into();
    body.to_string()
}

fn of(error: &CallError) -> Outcome {
    if error.is_refused() {
        Outcome::Refused
    } else {
        Outcome::Unknown
    }
}

fn prepare(protocol: &'static str) -> impl FnOnce(&mut PoolSpec) {
    move |spec| match protocol {
        "packet" => spec.worker.stdin = Stdin::Pipe,
        "http" => http::web(spec),
        _ => grpc::served(spec),
    }
}

/// How long the circuit breaker refuses calls.
const BREAKER_OPEN: Duration = Duration::from_millis(50);

async fn run(protocol: &'static str, seed: u64, callers: u64, requests: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let serve = ServeSpec::default()
        .concurrency(random.u32(1..=3))
        .breaker(Breaker::default().open(BREAKER_OPEN))
        .drain_timeout(Duration::from_secs(2));
    let scene = Arc::new(Scene::start(protocol, 4, serve, prepare(protocol)).await);
    let over = Arc::new(AtomicBool::new(false));
    let all_faults = Arc::new(AtomicBool::new(false));
    let faults = fault(
        Arc::clone(&scene),
        Arc::clone(&over),
        Arc::clone(&all_faults),
        random.fork(),
    );
    let faults = tokio::spawn(faults);
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (serving, next, mut random) = (scene.serving.clone(), Arc::clone(&next), random.fork());
            let all_faults = Arc::clone(&all_faults);
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                loop {
                    if next.load(Ordering::Relaxed) >= requests && all_faults.load(Ordering::Relaxed) {
                        return outcomes;
                    }
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    let patience = if random.u8(0..10) == 0 {
                        random.u64(0..20)
                    } else {
                        60_000
                    };
                    let patience = Duration::from_millis(patience);
                    let outcome = tokio::time::timeout(patience, call(&serving, protocol, key, random.u64(0..10)));
                    let outcome = outcome.await.unwrap_or(Outcome::GaveUp);
                    outcomes.push((key, outcome));
                    if outcome == Outcome::Refused {
                        // As a caller does who hears that the circuit breaker is open: many of them
                        // at once would use up all requests before it closes.
                        tokio::time::sleep(BREAKER_OPEN).await;
                    }
                }
            })
        })
        .collect();
    let mut outcomes = HashMap::new();
    for task in tasks {
        outcomes.extend(task.await.expect("no caller panics"));
    }
    over.store(true, Ordering::Relaxed);
    faults.await.expect("no panic");
    scene.at_full_strength().await;
    let mut counts: HashMap<Outcome, u64> = HashMap::new();
    outcomes
        .values()
        .for_each(|outcome| *counts.entry(*outcome).or_default() += 1);
    println!("{protocol}, seed {seed}: {counts:?}");
    let requests = next.load(Ordering::Relaxed);
    assert_eq!(outcomes.len() as u64, requests, "each request has one outcome");
    let mut executed: HashMap<u64, u32> = HashMap::new();
    scene
        .executed()
        .into_iter()
        .for_each(|key| *executed.entry(key).or_default() += 1);
    for (key, outcome) in &outcomes {
        let times = executed.get(key).copied().unwrap_or(0);
        let agrees = match outcome {
            Outcome::Answered => times == 1,
            Outcome::Refused => times == 0,
            Outcome::Unknown | Outcome::GaveUp => times <= 1,
        };
        assert!(
            agrees,
            "{protocol}, seed {seed}: request {key} was {outcome:?} and executed {times} times"
        );
    }
    assert!(
        counts
            .get(&Outcome::Answered)
            .is_some_and(|answered| *answered > requests / 4),
        "{counts:?}"
    );
    let scene = Arc::into_inner(scene).expect("no task holds it");
    scene.end().await;
}

/// Kills a worker every 200 ms and the guardian twice; meanwhile all workers are restarted in turn
/// once, and the pool grows and shrinks again. Notes when all of that has happened.
async fn fault(scene: Arc<Scene>, over: Arc<AtomicBool>, all: Arc<AtomicBool>, mut random: fastrand::Rng) {
    let mut changes = Vec::new();
    let mut change = |restart: bool, workers| {
        let serving = scene.serving.clone();
        changes.push(tokio::spawn(async move {
            // The faults may make it fail, which is for its caller to see.
            drop(match restart {
                true => serving.rolling_restart().await,
                false => serving.resize(workers).await,
            });
        }));
    };
    let mut guardians = 0;
    for nth in 1u32.. {
        all.store(guardians == 2, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        if over.load(Ordering::Relaxed) {
            break;
        }
        match nth {
            2 => change(false, 5),
            // Without a guardian at this moment, it is tried again.
            3 | 9.. if guardians < 1 + u32::from(nth >= 9) => guardians += u32::from(scene.kill_guardian()),
            4 => change(true, 0),
            6 => change(false, 4),
            _ => {
                let pids = scene.pids();
                if let Some(pid) = random.choice(&pids) {
                    ostler_tests::send(*pid, Signal::SIGKILL);
                }
            }
        }
    }
    assert_eq!(guardians, 2, "the guardian is killed twice");
    for change in changes {
        let done = tokio::time::timeout(LONGEST_CHANGE, change).await;
        done.expect("a change of the pool ends").expect("no panic");
    }
}

/// The longest time for what is still under way when the calls are over.
const LONGEST_CHANGE: Duration = Duration::from_secs(60);

async fn seeds(protocol: &'static str) {
    let (callers, requests) = if long_form() { (50, 10_000) } else { (20, 600) };
    for seed in 0..u64::from(rounds(1, 10)) {
        run(protocol, seed, callers, requests).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stdio_calls_have_one_outcome_each() {
    seeds("packet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_calls_have_one_outcome_each() {
    seeds("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_have_one_outcome_each() {
    seeds("grpc").await;
}
