//! Stops of a pool, in which the workers are asked to end ahead of their actors.

use super::scene::{SOON, Scene};
use crate::{EventKind, Incarnation};

/// The workers end before their supervisors stop their actors. An actor that took its worker's end
/// for its own would be restarted by its starter, whose stop is still on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_ahead_of_its_actor_has_no_successor() {
    const WORKERS: u32 = 40;
    let mut scene = Scene::start().await;
    // It ends as soon as it is asked.
    let mut spec = Scene::spec("exec sleep 1000");
    spec.workers = WORKERS;
    for round in 1..=3 {
        let pool = scene.ostler.pool_from(spec.clone()).start().await.unwrap();
        pool.wait_ready().await.unwrap();
        tokio::time::timeout(SOON, pool.stop()).await.expect("the stop ends");
        scene.wait_for_kind(EventKind::PoolStopped).await;
        let expected = (round * WORKERS) as usize;
        assert_eq!(scene.count(EventKind::WorkerReserved), expected, "{}", scene.story());
        assert_eq!(scene.count(EventKind::WorkerReleased), expected, "{}", scene.story());
        assert_eq!(scene.count(EventKind::WorkerRestarting), 0, "{}", scene.story());
    }
    // Nothing is left to stop; a pool that is there at the end is stopped the same way.
    let pool = scene.ostler.pool_from(spec).start().await.unwrap();
    pool.wait_ready().await.unwrap();
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
