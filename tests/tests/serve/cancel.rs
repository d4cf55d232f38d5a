//! Futures of a serving pool that are dropped: a change of the pool goes on, a call is given up,
//! and the pool is whole afterwards.

use std::time::Duration;

use ostler::{EventItem, EventKind, Stdin};
use ostler_serve::{Recycle, ServeSpec};
use ostler_tests::cancel::{drop_after, drop_once};
use serde_json::Value;

use crate::scene::{Scene, request, wait_until};

async fn scene(workers: u32, serve: ServeSpec) -> Scene {
    Scene::start("packet", workers, serve, |spec| spec.worker.stdin = Stdin::Pipe).await
}

fn incarnations(scene: &Scene) -> Vec<u64> {
    let workers = scene.pool.workers();
    workers
        .iter()
        .map(|worker| worker.incarnation.map_or(0, |incarnation| incarnation.0))
        .collect()
}

/// The pool has this many workers, and each serves a call.
async fn serves_with(scene: &Scene, workers: usize) {
    wait_until("its size", || scene.pool.size() == workers).await;
    scene.at_full_strength().await;
    let client = scene.serving.stdio::<Value, Value>();
    let calls = (0..workers as u64).map(|key| {
        let client = client.clone();
        async move { client.call(&request(key, "echo")).await.expect("answered") }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_that_is_dropped_goes_on() {
    let scene = scene(2, ServeSpec::default()).await;
    for polls in 0.. {
        // Up, and down again, where calls are waited for.
        let ready = [4, 1].map(|size| (size, drop_after(polls, scene.serving.resize(size))));
        let mut was_ready = true;
        for (size, dropped) in ready {
            let before = scene.pool.size();
            was_ready &= dropped.await.is_some();
            let after = if polls == 0 { before } else { size as usize };
            serves_with(&scene, after).await;
        }
        scene.serving.resize(2).await.expect("a later one works");
        serves_with(&scene, 2).await;
        if was_ready {
            break;
        }
    }
    scene.end().await;
}

/// All workers are later ones, and there are as many as before.
async fn replaced(scene: &Scene, before: &[u64]) {
    wait_until("all are replaced", || {
        let now = incarnations(scene);
        now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now > before)
    })
    .await;
    serves_with(scene, before.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_that_is_dropped_restarts_all() {
    for surge in [0, 1] {
        let scene = scene(2, ServeSpec::default().recycle(Recycle::default().surge(surge))).await;
        for polls in 0.. {
            let before = incarnations(&scene);
            let ready = drop_after(polls, scene.serving.rolling_restart()).await.is_some();
            if polls > 0 {
                replaced(&scene, &before).await;
            }
            let before = incarnations(&scene);
            scene.serving.rolling_restart().await.expect("a later one works");
            replaced(&scene, &before).await;
            if ready {
                assert!(polls > 1, "it never waited");
                break;
            }
        }
        scene.end().await;
    }
}

/// In the middle: a worker drains, and its call is answered although no one waits for the restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_that_is_dropped_while_a_worker_drains_restarts_all() {
    for surge in [0, 1] {
        let scene = scene(2, ServeSpec::default().recycle(Recycle::default().surge(surge))).await;
        let before = incarnations(&scene);
        let leases = [
            scene.serving.checkout().await.expect("a worker"),
            scene.serving.checkout().await.expect("the other"),
        ];
        let mut draining = scene.events().kinds([EventKind::WorkerDraining]);
        let drained = drop_once(draining.recv(), scene.serving.rolling_restart()).await;
        assert!(drained.and_then(EventItem::event).is_some());
        assert!(incarnations(&scene).contains(&1), "it was over");
        drop(leases);
        replaced(&scene, &before).await;
        scene.end().await;
    }
}

/// One that waits in the queue leaves it, and one that has got a worker gives it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_is_dropped_takes_no_worker() {
    let scene = scene(1, ServeSpec::default()).await;
    for polls in 0..3 {
        let held = scene.serving.checkout().await.expect("the worker");
        let client = held.stdio::<Value, Value>();
        assert!(drop_after(polls.min(1), scene.serving.checkout()).await.is_none());
        assert_eq!(scene.serving.state().queued, 0);
        client
            .call(&request(polls as u64, "echo"))
            .await
            .expect("it is untouched");
        drop((held, client));
        drop(drop_after(polls, scene.serving.checkout()).await);
        serves_with(&scene, 1).await;
    }
    assert_eq!(incarnations(&scene), [1]);
    scene.end().await;
}

/// A call is given up with its future; a worker in the middle of it is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_at_any_await_leaves_the_pool_whole() {
    let scene = scene(1, ServeSpec::default()).await;
    let client = scene.serving.stdio::<Value, Value>();
    for polls in 0.. {
        // So long that it can't be answered while the future is polled, on whatever busy machine.
        let mut body = request(1_000 + polls as u64, "sleep");
        body["ms"] = 500.into();
        let ready = drop_after(polls, client.call(&body)).await.is_some();
        serves_with(&scene, 1).await;
        if ready {
            assert!(polls > 1, "it never waited");
            break;
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_figures_that_is_dropped_changes_nothing() {
    let scene = scene(1, ServeSpec::default()).await;
    for polls in 0..4 {
        let asked = scene.serving.figures(0, Duration::from_millis(100));
        drop(drop_after(polls, asked).await);
        serves_with(&scene, 1).await;
    }
    assert_eq!(incarnations(&scene), [1]);
    scene.end().await;
}
