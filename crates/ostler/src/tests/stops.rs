//! Stops of a pool, in which the workers are asked to end ahead of their actors.

use super::scene::{SOON, Scene};
use crate::instance::services::StopLevel;
use crate::{EventKind, Incarnation, PoolError};

/// The workers end before their supervisors stop their actors. An actor that took its worker's end
/// for its own would be restarted by its starter, whose stop is still on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_ahead_of_its_actor_has_no_successor() {
    const WORKERS: u32 = 20;
    let mut scene = Scene::start().await;
    // Without a backoff, a successor would come at once.
    let spec = Scene::spec("exec sleep 1000").workers(WORKERS);
    let spec = spec.intensity(WORKERS, std::time::Duration::from_secs(60));
    let pool = scene.ostler.pool_from(spec).start().await.unwrap();
    scene.wait_for_kind(EventKind::PoolReady).await;
    // What a stop of the instance does before it reaches the pool's supervisor.
    pool.shared.services.raise_stop_level(StopLevel::Ordered);
    pool.shared.stop_ahead();
    for _ in 0..WORKERS {
        scene.wait_for_kind(EventKind::WorkerReleased).await;
    }
    let successor = scene.wait_for_kind(EventKind::WorkerReserved);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(100), successor);
    assert!(waited.await.is_err(), "a successor");
    tokio::time::timeout(SOON, pool.stop()).await.expect("the stop ends");
    for (kind, expected) in [
        (EventKind::WorkerReserved, WORKERS as usize),
        (EventKind::WorkerReleased, WORKERS as usize),
        (EventKind::WorkerRestarting, 0),
    ] {
        assert_eq!(scene.count(kind), expected, "{}", scene.story());
    }
    scene.stop_and_check().await;
}

/// The end that the second one orders would cancel the start of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_restarts_at_once_follow_each_other() {
    let mut scene = Scene::start().await;
    let pool = scene
        .ostler
        .pool_from(Scene::spec("exec sleep 1000"))
        .start()
        .await
        .unwrap();
    scene.wait_for_kind(EventKind::PoolReady).await;
    let worker = pool.worker(0).unwrap();
    let restarts = futures_util::future::join(worker.restart(), worker.restart());
    let (first, second) = tokio::time::timeout(SOON, restarts).await.expect("both end");
    assert_eq!((first.unwrap(), second.unwrap()), (Incarnation(2), Incarnation(3)));
    scene.stop_and_check().await;
}

/// A stopped pool stays until the next one of its name, but its actors' mailboxes do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_pool_keeps_no_actor() {
    let scene = Scene::start().await;
    let spec = Scene::spec("exec sleep 1000").workers(2);
    let pool = scene.ostler.pool_from(spec).start().await.unwrap();
    pool.wait_ready().await.unwrap();
    let starter = pool.shared.starter(1).expect("it runs").cell();
    pool.stop().await;
    assert!(pool.shared.supervisor().is_none() && pool.shared.starter(1).is_none());
    assert!(matches!(pool.resize(3).await, Err(PoolError::Over { .. })));
    assert_eq!(starter.get_status(), ractor::ActorStatus::Stopped);
    assert_eq!(pool.worker(1).unwrap().state().incarnation, Some(Incarnation(1)));
    scene.stop_and_check().await;
}
