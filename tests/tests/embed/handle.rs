//! Dropped handles, ended runtimes and abandoned starts leave nothing behind.

use std::error::Error as _;
use std::time::Duration;

use ostler::{EventKind, Ostler, StartError};
use ostler_core::chain::chain;
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
async fn dropped_handle_leaves_nothing_within_a_second() {
    let place = Place::new();
    let (ostler, mut seen) = begun(&place).await;
    let pool = ostler.pools().remove(0);
    drop(ostler);
    place.assert_gone(A_SECOND);
    seen.until_run_stopped().await;
    seen.assert_balanced();
    assert_eq!(seen.count(EventKind::CleanupOrphansFound), 0);
    assert_no_runs(&place.state());
    // Keeping a pool's handle keeps nothing running, and its methods do not hang.
    in_time(pool.wait_stopped()).await;
    in_time(pool.stop()).await;
    in_time(pool.restart_worker(0)).await.unwrap_err();
}

#[test]
fn runtime_ends_before_the_handle() {
    let place = Place::new();
    let runtime = runtime();
    let (ostler, seen) = runtime.block_on(begun(&place));
    drop(runtime);
    place.assert_gone(A_SECOND);
    drop((ostler, seen));
    assert_swept(&place);
}

#[test]
fn runtime_ends_right_after_the_handle() {
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
fn handle_is_dropped_long_after_the_runtime() {
    let place = Place::new();
    let runtime = runtime();
    let (ostler, _seen) = runtime.block_on(begun(&place));
    runtime.shutdown_background();
    drop(ostler);
    place.assert_gone(A_SECOND);
    assert_swept(&place);
}

/// A runtime that ended in the middle of an operation may leave the run's directory, which the next
/// start removes. A thread that the runtime did not wait for may still be removing it: until it is
/// done, the run counts as live.
fn assert_swept(place: &Place) {
    let left = run_directories(&place.state()).len() as u64;
    let deadline = std::time::Instant::now() + ostler_tests::SOON;
    let start_and_stop = async || {
        let (ostler, _) = start(place).await;
        let swept = ostler.swept().clone();
        in_time(ostler.stop()).await.unwrap();
        swept
    };
    loop {
        let swept = runtime().block_on(start_and_stop());
        assert!(swept.runs <= left, "{swept:?} of {left}");
        assert_eq!(swept.killed, Vec::<String>::new());
        if swept.live == 0 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{swept:?}");
    }
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_start_leaves_nothing() {
    let place = Place::new();
    for step in 0..60 {
        let starting = place.builder().start();
        let abandoned = tokio::time::timeout(Duration::from_micros(step * 250), starting).await;
        drop(abandoned);
    }
    // The abandoned start continues in the background to its end, and does not affect a running
    // instance.
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
async fn abandoned_stop_kills() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", WORST);
    spec.worker.stop.grace = Duration::from_secs(3600);
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    let stopping = tokio::spawn(async move { ostler.stop().await });
    seen.kind(EventKind::WorkerStopping).await;
    stopping.abort();
    seen.until_run_stopped().await;
    seen.assert_balanced();
    place.assert_gone(A_SECOND);
    assert_no_runs(&place.state());
}

#[test]
fn a_runtime_without_timers_or_io_is_refused_with_what_to_do() {
    let place = Place::new();
    let built = |builder: &mut Builder| builder.build().unwrap();
    let runtimes = [
        ("no timers", built(Builder::new_current_thread().enable_io())),
        ("no I/O", built(Builder::new_current_thread().enable_time())),
        ("neither", built(&mut Builder::new_multi_thread())),
    ];
    for (what, runtime) in runtimes {
        let error = runtime.block_on(place.builder().start()).unwrap_err();
        assert!(matches!(error, StartError::Runtime), "{what}: {error}");
        assert!(error.to_string().contains("enable_all"), "{error}");
        place.assert_nothing_left();
    }
    let error = futures_util::FutureExt::now_or_never(place.builder().start());
    assert!(matches!(error, Some(Err(StartError::Runtime))), "no runtime at all");
    place.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_is_refused_with_what_to_do() {
    let place = Place::new();
    let error = place.builder().start().await.unwrap_err();
    assert!(matches!(error, StartError::PausedClock), "{error}");
    assert!(error.to_string().contains("TestBed"), "{error}");
    place.assert_nothing_left();
    // Nothing is wrong with it once it runs.
    tokio::time::resume();
    let ostler = in_time(place.builder().start()).await.unwrap();
    in_time(ostler.stop()).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_start_leaves_nothing() {
    let place = Place::new();
    let missing = place.builder().guardian_program("/nonexistent/guardian").start();
    let error = in_time(missing).await.unwrap_err();
    assert!(matches!(error, StartError::Root { .. }), "{error}");
    let text = chain(&error);
    assert!(text.contains("/nonexistent/guardian"), "{text}");
    assert_eq!(
        text.matches("/nonexistent/guardian").count(),
        1,
        "each cause is named once: {text}"
    );
    place.assert_nothing_left();

    let file = place.state().join("file");
    std::fs::create_dir_all(place.state()).unwrap();
    std::fs::write(&file, "").unwrap();
    let error = in_time(Ostler::builder(place.app()).state_dir(&file).start())
        .await
        .unwrap_err();
    let is_directory = matches!(error, StartError::Directory(_) | StartError::RunDirectory { .. });
    assert!(is_directory, "{error}");
    let text = chain(&error);
    assert!(text.contains("file"), "the error names the path: {text}");
    assert!(
        !error.to_string().contains(&error.source().unwrap().to_string()),
        "it does not repeat its source"
    );
    place.assert_nothing_left();
}
