//! The handle is dropped, the runtime goes, the start is abandoned: nothing is left.

use std::time::Duration;

use ostler::{EventKind, Ostler, StartError};
use ostler_tests::run_directories;
use tokio::runtime::{Builder, Runtime};

use super::scene::{Place, Seen, WORST, assert_no_runs, in_time, start};

const A_SECOND: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// An instance with four of the worst workers: twelve processes.
async fn begun(place: &Place) -> (Ostler, Seen) {
    let (ostler, mut seen) = start(place).await;
    let mut spec = place.pool("p", WORST);
    spec.workers = 4;
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(12);
    (ostler, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_without_a_stop_it_leaves_nothing_within_a_second() {
    let place = Place::new();
    let (ostler, mut seen) = begun(&place).await;
    let pool = ostler.pools().remove(0);
    drop(ostler);
    place.assert_gone(A_SECOND);
    seen.until_run_stopped().await;
    seen.assert_balanced();
    assert_eq!(seen.count(EventKind::CleanupOrphansFound), 0);
    assert_no_runs(&place.state());
    // A pool's handle that is kept keeps nothing alive, and none of its calls hangs.
    in_time(pool.wait_stopped()).await;
    in_time(pool.stop()).await;
    in_time(pool.restart_worker(0)).await.unwrap_err();
}

#[test]
fn the_runtime_goes_first() {
    let place = Place::new();
    let runtime = runtime();
    let (ostler, seen) = runtime.block_on(begun(&place));
    drop(runtime);
    place.assert_gone(A_SECOND);
    drop((ostler, seen));
    assert_swept(&place);
}

#[test]
fn the_handle_goes_first_and_the_runtime_at_once() {
    let place = Place::new();
    let runtime = runtime();
    let (ostler, seen) = runtime.block_on(begun(&place));
    drop(ostler);
    runtime.shutdown_background();
    place.assert_gone(A_SECOND);
    drop(seen);
    assert_swept(&place);
}

#[test]
fn the_handle_goes_when_the_runtime_is_long_gone() {
    let place = Place::new();
    let runtime = runtime();
    let (ostler, _seen) = runtime.block_on(begun(&place));
    runtime.shutdown_background();
    drop(ostler);
    place.assert_gone(A_SECOND);
    assert_swept(&place);
}

/// A runtime that went in the middle of anything may leave the run's directory: the next start removes it.
fn assert_swept(place: &Place) {
    let left = run_directories(&place.state()).len() as u64;
    runtime().block_on(async {
        let (ostler, _) = start(place).await;
        assert_eq!((ostler.swept().runs, ostler.swept().live), (left, 0));
        assert_eq!(ostler.swept().killed, Vec::<String>::new());
        in_time(ostler.stop()).await.unwrap();
    });
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_abandoned_leaves_nothing() {
    let place = Place::new();
    for step in 0..60 {
        let starting = place.builder().start();
        let abandoned = tokio::time::timeout(Duration::from_micros(step * 250), starting).await;
        drop(abandoned);
    }
    // What was abandoned goes on in the background to its end; an instance that runs is left alone by it.
    let (ostler, mut seen) = start(&place).await;
    ostler.pool_from(place.pool("p", "sleep")).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    let deadline = tokio::time::Instant::now() + ostler_tests::SOON;
    while run_directories(&place.state()).len() > 1 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            run_directories(&place.state())
        );
        tokio::task::yield_now().await;
    }
    super::scene::stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_abandoned_kills() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", WORST);
    spec.worker.stop.grace = Duration::from_secs(3600);
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    let stopping = tokio::spawn(ostler.stop());
    seen.kind(EventKind::WorkerStopping).await;
    stopping.abort();
    seen.until_run_stopped().await;
    seen.assert_balanced();
    place.assert_gone(A_SECOND);
    assert_no_runs(&place.state());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_nothing() {
    let place = Place::new();
    let missing = place.builder().guardian_program("/nonexistent/guardian").start();
    let error = in_time(missing).await.unwrap_err();
    assert!(matches!(error, StartError::Root { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/guardian"), "{error}");
    place.assert_nothing_left();

    let file = place.state().join("file");
    std::fs::create_dir_all(place.state()).unwrap();
    std::fs::write(&file, "").unwrap();
    let error = in_time(Ostler::builder(place.app()).state_dir(&file).start())
        .await
        .unwrap_err();
    assert!(error.is_store(), "{error}");
    assert!(error.to_string().contains("file"), "it names the place: {error}");
    place.assert_nothing_left();
}
