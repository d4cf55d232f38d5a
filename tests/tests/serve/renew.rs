//! Workers are replaced while calls go on: recycled, all in turn, and when the pool is resized.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler::{Cause, EventItem, EventKind, PoolError, Stdin};
use ostler_serve::{Adapter, Attempt, BoxError, CallError, Fault, Recycle, Refused, ServeSpec, ServingPool, Worker};
use ostler_tests::{halt, send};
use serde_json::Value;

use ostler_serve::stdio::StdioError;

use crate::scene::{Scene, request, wait_until};

async fn scene(workers: u32, serve: ServeSpec) -> Scene {
    Scene::start("packet", workers, serve, |spec| spec.worker.stdin = Stdin::Pipe).await
}

/// Callers that call all the time; each call has to be answered. Meanwhile the smallest number of
/// workers that could be called is noted.
struct Load {
    over: Arc<AtomicBool>,
    least: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    fn start(serving: &ServingPool, callers: u64) -> Self {
        let (over, least) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
        let caller = |caller: u64| {
            let (client, over) = (serving.stdio::<Value, Value>(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut calls = 0;
                while !over.load(Ordering::Relaxed) {
                    let body = request(caller * 1_000_000 + calls, "echo");
                    client.call(&body).await.expect("each call is answered");
                    calls += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                calls
            })
        };
        let mut tasks: Vec<_> = (1..=callers).map(caller).collect();
        let (serving, seen, ended) = (serving.clone(), Arc::clone(&least), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                seen.fetch_min(serving.state().usable, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            0
        }));
        Self { over, least, tasks }
    }

    /// Ends it. Returns the number of calls and the least number of usable workers.
    async fn end(self) -> (u64, usize) {
        self.over.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for task in self.tasks {
            calls += task.await.expect("no caller panics");
        }
        (calls, self.least.load(Ordering::Relaxed))
    }
}

fn incarnations(scene: &Scene) -> Vec<u64> {
    let workers = scene.pool.workers();
    workers
        .iter()
        .filter_map(|worker| Some(worker.incarnation?.0))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_call_and_no_worker_is_missing() {
    let scene = scene(3, ServeSpec::default()).await;
    let before: BTreeSet<u32> = scene.pids().into_iter().collect();
    let load = Load::start(&scene.serving, 6);
    scene.serving.rolling_restart().await.expect("all become ready");
    let (calls, least) = load.end().await;
    assert!(calls > 0);
    assert_eq!(least, 3, "at no moment fewer than the pool has");
    assert_eq!(scene.pool.size(), 3);
    assert_eq!(incarnations(&scene), [2, 2, 2]);
    assert!(scene.pids().iter().all(|pid| !before.contains(pid)));
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_surge_one_worker_is_missing_and_no_call_is_lost() {
    let serve = ServeSpec::default().recycle(Recycle::default().surge(0));
    let scene = scene(2, serve).await;
    let load = Load::start(&scene.serving, 4);
    scene.serving.rolling_restart().await.expect("all become ready");
    let (_, least) = load.end().await;
    assert_eq!(least, 1);
    assert_eq!(incarnations(&scene), [2, 2]);
    scene.at_full_strength().await;
    scene.end().await;
}

/// Says whether workers can start. Those that run are not touched.
struct Switch(tempfile::TempDir);

impl Switch {
    /// They can.
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("off")
    }

    fn off(&self) {
        std::fs::write(self.file(), "").expect("a file");
    }

    fn on(&self) {
        std::fs::remove_file(self.file()).expect("it is there");
    }

    fn decides_starts_of(&self, spec: &mut ostler::PoolSpec) {
        let script = format!("test ! -e {} && exec sleep 1000", self.file().display());
        let command = ["sh", "-c", &script, &self.0.path().display().to_string()];
        spec.worker.command = command.map(str::to_owned).to_vec();
        spec.worker.ready = Some(ostler::Ready::After(Duration::from_millis(100)));
    }
}

/// A pool may start its workers again and again forever; what waits for all of them must not.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_ends_with_the_first_worker_that_does_not_come_back() {
    for surge in [0, 1] {
        let serve = ServeSpec::default().recycle(Recycle::default().surge(surge));
        let switch = Switch::new();
        let scene = Scene::start("packet", 2, serve, |spec| {
            switch.decides_starts_of(spec);
            spec.worker.min_uptime = Duration::from_millis(200);
            spec.backoff = Some(ostler::Backoff::new(
                Duration::from_millis(50),
                Duration::from_millis(200),
            ));
        })
        .await;
        switch.off();
        let restarted = tokio::time::timeout(ostler_tests::SOON, scene.serving.rolling_restart()).await;
        let error = restarted.expect("it ends").expect_err("a worker fails");
        let PoolError::NotReady { failure, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(failure.is_some(), "{error}");
        switch.on();
        scene.at_full_strength().await;
        assert_eq!(scene.pool.size(), 2, "no stand-in is left");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recycled_worker_has_a_stand_in_and_its_draining_is_an_event() {
    let serve = ServeSpec::default().recycle(Recycle::default().requests(40).jitter(0.0));
    let scene = scene(2, serve).await;
    let mut drained = scene.events().kinds([EventKind::WorkerDraining]);
    let load = Load::start(&scene.serving, 4);
    let recycled = async {
        loop {
            let event = drained
                .recv()
                .await
                .and_then(EventItem::event)
                .expect("the run goes on");
            if event.facts.cause == Some(Cause::RecycleRequests) {
                break;
            }
        }
    };
    let soon = tokio::time::timeout(ostler_tests::SOON, recycled).await;
    soon.expect("a worker is recycled");
    wait_until("it has been replaced", || {
        incarnations(&scene).iter().any(|incarnation| *incarnation > 1)
    })
    .await;
    let (_, least) = load.end().await;
    assert!(least >= 2, "{least} were usable");
    wait_until("the stand-ins are gone", || scene.pool.size() == 2).await;
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_recycled_when_it_is_old() {
    let serve = ServeSpec::default().recycle(Recycle::default().age(Duration::from_millis(500)));
    let scene = scene(1, serve).await;
    let mut drained = scene.events().kinds([EventKind::WorkerDraining]);
    let event = tokio::time::timeout(ostler_tests::SOON, drained.recv()).await;
    let event = event
        .expect("it becomes old")
        .and_then(EventItem::event)
        .expect("the run goes on");
    assert_eq!(event.facts.cause, Some(Cause::RecycleAge));
    scene.end().await;
}

/// A stand-in that fails is no reason to end a worker that serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_on_while_its_stand_ins_fail() {
    let serve = ServeSpec::default().recycle(Recycle::default().age(Duration::from_millis(500)).jitter(0.0));
    let switch = Switch::new();
    let scene = Scene::start("packet", 2, serve, |spec| switch.decides_starts_of(spec)).await;
    switch.off();
    let before = scene.pids();
    let mut events = scene.events().kinds([EventKind::WorkerFailed]);
    for _ in 0..3 {
        let event = tokio::time::timeout(ostler_tests::SOON, events.recv()).await;
        let event = event
            .expect("it is tried")
            .and_then(EventItem::event)
            .expect("the run goes on");
        assert_eq!(
            event.worker.as_ref().map(|worker| worker.index),
            Some(2),
            "the stand-in"
        );
        assert!(scene.serving.state().usable >= 2, "{:?}", scene.serving.state());
    }
    assert_eq!(scene.pids()[..2], before);
    switch.on();
    wait_until("they are recycled", || {
        incarnations(&scene).iter().take(2).all(|incarnation| *incarnation > 1)
    })
    .await;
    scene.end().await;
}

/// It is in the middle of a conversation, and between two calls of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_leased_is_replaced_after_its_lease() {
    for how in ["replace", "resize", "rolling restart"] {
        let scene = scene(1, ServeSpec::default()).await;
        let before = scene.pids();
        let lease = scene.serving.checkout().await.expect("the worker");
        let talk = lease.stdio::<Value, Value>();
        talk.call(&request(0, "echo")).await.expect("an answer");
        let mut drained = scene.events().kinds([EventKind::WorkerDraining]);
        let serving = scene.serving.clone();
        let change = tokio::spawn(async move {
            match how {
                "replace" => serving.replace(0),
                "resize" => serving.resize(0).await.expect("it shrinks"),
                _ => serving.rolling_restart().await.expect("it is restarted"),
            }
        });
        let draining = tokio::time::timeout(ostler_tests::SOON, drained.recv()).await;
        draining.expect("it drains").expect("the run goes on");
        // Longer than a restart takes, and much shorter than `drain_timeout`.
        for key in 1..6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            talk.call(&request(key, "echo"))
                .await
                .expect("the conversation goes on");
        }
        assert!(scene.pids().contains(&before[0]), "{how}");
        drop((talk, lease));
        wait_until("it is replaced", || !scene.pids().contains(&before[0])).await;
        change.await.expect("no panic");
        scene.at_full_strength().await;
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_limit_and_says_that_the_worker_was_stopped() {
    let serve = ServeSpec::default().drain_timeout(Duration::from_millis(300));
    let scene = scene(1, serve).await;
    let client = scene.serving.stdio::<Value, Value>();
    let call = tokio::spawn(async move { client.call(&request(1, "hang")).await });
    wait_until("it hangs", || scene.executed() == [1]).await;
    let begun = std::time::Instant::now();
    scene.serving.replace(0);
    let error = call.await.expect("no panic").expect_err("it never answers");
    let StdioError::Call(CallError::Unknown(unknown)) = &error else {
        panic!("{error}")
    };
    assert_eq!(unknown.name(), "worker_stopped", "{unknown}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    scene.at_full_strength().await;
    assert_eq!(incarnations(&scene), [2]);
    scene.end().await;
}

/// Workers and host are suspended in the middle of a drain, as by `docker pause`: the calls have
/// their time, of which the workers share one.
#[tokio::test]
async fn a_drain_of_a_suspended_host_is_extended() {
    for (how, workers) in [("replace", 1), ("resize", 2)] {
        let limit = Duration::from_millis(1500);
        let scene = scene(workers, ServeSpec::default().drain_timeout(limit)).await;
        scene.at_full_strength().await;
        let call = |key| {
            let client = scene.serving.stdio::<Value, Value>();
            tokio::spawn(async move { client.call(&request(key, "sleep")).await })
        };
        let calls: Vec<_> = (0..u64::from(workers)).map(call).collect();
        scene.pids().into_iter().for_each(halt);
        // Only calls that a worker has are drained.
        let sent = u64::from(workers);
        wait_until("the calls are sent", || scene.serving.state().in_flight == sent).await;
        let serving = scene.serving.clone();
        let change = tokio::spawn(async move {
            match how {
                "replace" => serving.replace(0),
                _ => serving.resize(0).await.expect("it shrinks"),
            }
        });
        wait_until("the drain begins", || scene.serving.state().usable == 0).await;
        // The runtime stands still: this is what is tested.
        std::thread::sleep(limit * 2);
        for pid in scene.pids() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            send(pid, Signal::SIGCONT);
        }
        for call in calls {
            call.await.expect("no panic").expect("an answer");
        }
        change.await.expect("no panic");
        scene.at_full_strength().await;
        scene.end().await;
    }
}

/// Its workers crash, its breaker is open, its queue is full, and its starts fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pool_does_not_affect_another_one() {
    let scene = scene(2, ServeSpec::default()).await;
    let serve = ServeSpec::default().queue(ostler_serve::QueueSpec::default().max(1));
    let broken = scene.beside("broken", serve, &["sh", "-c", "exit 1"]).await;
    let crashing = scene.beside_worker("crashing", "packet", ServeSpec::default()).await;
    let crashes = crashing.stdio::<Value, Value>();
    for key in 1_000..1_005 {
        crashes.call(&request(key, "crash")).await.expect_err("it crashes");
    }
    assert_eq!(crashing.state().breaker, ostler_serve::BreakerState::Open);
    let waits = broken.stdio::<Value, Value>();
    let waits = tokio::spawn(async move { waits.call(&request(2_000, "echo")).await });
    wait_until("it waits", || broken.state().queued == 1).await;
    let before = scene.pids();
    let load = Load::start(&scene.serving, 4);
    let full = broken.checkout().await.expect_err("its queue is full");
    assert!(matches!(full, Refused::Saturated { queued: 1, limit: 1 }), "{full}");
    wait_until("hundreds of calls are answered", || scene.executed().len() > 500).await;
    let (_, least) = load.end().await;
    assert_eq!((least, scene.pids()), (2, before));
    assert_eq!(scene.serving.state().breaker, ostler_serve::BreakerState::Closed);
    waits.abort();
    scene.at_full_strength().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resized_up_and_down_the_pool_loses_no_call() {
    let scene = scene(2, ServeSpec::default()).await;
    let load = Load::start(&scene.serving, 4);
    for workers in [4, 1, 3, 2] {
        scene.serving.resize(workers).await.expect("it has room");
        let expected = workers as usize;
        wait_until("all are usable", || scene.serving.state().usable == expected).await;
    }
    load.end().await;
    scene.at_full_strength().await;
    scene.end().await;
}

/// A race: a worker that must be replaced ends by itself, and its successor would be restarted in
/// its place.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_process_that_was_chosen_is_restarted() {
    let scene = scene(1, ServeSpec::default()).await;
    let worker = scene.pool.worker(0).expect("one worker");
    let first = worker.incarnation().expect("it runs");
    ostler_tests::send(scene.pids()[0], nix::sys::signal::Signal::SIGKILL);
    wait_until("its successor is usable", || {
        worker.incarnation() != Some(first) && scene.serving.state().usable == 1
    })
    .await;
    let second = worker.incarnation().expect("it runs");
    let successor = scene.pids();
    assert!(!worker.restart_if(first).await.expect("it can be asked"));
    assert_eq!(scene.pids(), successor);
    assert!(worker.restart_if(second).await.expect("it is restarted"));
    wait_until("it is usable again", || {
        worker.incarnation() != Some(second) && scene.serving.state().usable == 1
    })
    .await;
    scene.at_full_strength().await;
    scene.end().await;
}

/// An adapter whose requests are never sent.
struct NeverSent;

impl Adapter for NeverSent {
    type Connection = ();
    type Request = ();
    type Response = ();

    async fn connect(&self, _: &Arc<Worker>) -> Result<(), BoxError> {
        Ok(())
    }

    async fn call(&self, (): &(), request: (), _: &Attempt) -> Result<(), Fault<()>> {
        let error = "it is never sent".into();
        Err(Fault::NotSent { request, error })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_is_no_request_to_recycle_for() {
    let serve = ServeSpec::default()
        .recycle(Recycle::default().requests(3).jitter(0.0))
        .breaker(ostler_serve::Breaker::default().failures(0));
    let scene = scene(1, serve).await;
    let client = scene.serving.client(NeverSent);
    for _ in 0..10 {
        let error = client.call(()).await.expect_err("it is never sent");
        assert!(
            matches!(error, CallError::Refused(Refused::Unreachable { .. })),
            "{error}"
        );
    }
    let lease = scene.serving.checkout().await.expect("it is free");
    assert_eq!((lease.worker().served(), lease.who().incarnation.0), (0, 1));
    drop(lease);
    let client = scene.serving.stdio::<Value, Value>();
    for key in 0..3 {
        client.call(&request(key, "echo")).await.expect("an answer");
    }
    wait_until("it is recycled", || incarnations(&scene) == [2]).await;
    wait_until("the stand-in is gone", || scene.pool.size() == 1).await;
    scene.at_full_strength().await;
    scene.end().await;
}
