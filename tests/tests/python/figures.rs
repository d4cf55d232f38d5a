//! What workers say about themselves, also while they are busy.

use std::time::Duration;

use ostler_python::Python;
use ostler_serve::{FiguresError, WorkerFigures};

use crate::scene::{Scene, everything, over_both_transports};

const WITHIN: Duration = Duration::from_secs(20);

/// The figures of the moment when the worker has so many requests in flight.
async fn figures_with(scene: &Scene, in_flight: u64) -> WorkerFigures {
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        let figures = scene.pool.figures(0, WITHIN).await.expect("figures");
        if figures.in_flight == in_flight {
            return figures;
        }
        assert!(tokio::time::Instant::now() < deadline, "{figures:?}");
    }
}

async fn a_busy_worker_reports_its_memory(python: Python) {
    let scene = Scene::start(python).await;
    let idle = scene.pool.figures(0, WITHIN).await.expect("figures");
    assert_eq!((idle.in_flight, idle.lent), (0, 0), "{idle:?}");
    // The interpreter alone takes several MiB, and the whole tree no less than its one process.
    assert!(idle.resident > 2 << 20, "{idle:?}");

    let gate = tempfile::tempdir().expect("a folder");
    let path = gate.path().join("open").display().to_string();
    let (pool, waits) = (scene.pool.clone(), path.clone());
    let call = tokio::spawn(async move { pool.call::<_, String>("gate", &waits).await });
    let busy = figures_with(&scene, 1).await;
    assert_eq!(busy.served, idle.served, "it is no call");
    std::fs::write(&path, "").expect("it is written");
    call.await.expect("no panic").expect("an answer");
    assert_eq!(figures_with(&scene, 0).await.served, idle.served + 1);

    scene.pool.figures(0, Duration::MAX).await.expect("no limit");
    let none = scene.pool.figures(7, WITHIN).await;
    assert!(matches!(none, Err(FiguresError::NotReady(7))), "{none:?}");
    scene.end().await;
}

over_both_transports!(a_busy_worker_reports_its_memory);

/// A worker whose process is stopped answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_answer_is_a_timeout() {
    use nix::sys::signal::Signal;
    let scene = Scene::start(everything()).await;
    let pid = scene.pids()[0];
    ostler_tests::halt(pid);
    let within = Duration::from_millis(200);
    let silent = scene.pool.figures(0, within).await;
    assert!(matches!(silent, Err(FiguresError::Timeout(_))), "{silent:?}");
    ostler_tests::send(pid, Signal::SIGCONT);
    scene.pool.figures(0, WITHIN).await.expect("figures");
    scene.end().await;
}
