//! Guardians and sitters that are alive but do nothing, because they are stopped or hang.

use std::time::Duration;

use nix::sys::signal::Signal;
use ostler::{Backoff, EventKind, PoolSpec, Restart};
use ostler_tests::tracer::Tracer;
use ostler_tests::{SOON, send};

use super::guardian::{alive, all_back, begun, guardian, sitters};
use super::scene::{Place, in_time, start, stop};

/// Only the kernel is left to wake them up.
#[tokio::test(flavor = "multi_thread")]
async fn sitters_are_halted_and_the_guardian_is_killed() {
    let place = Place::new();
    let (ostler, pool, mut seen) = begun(&place, 3).await;
    let (old, lost) = (alive(&place.tag), guardian(&ostler));
    for sitter in sitters(lost) {
        send(sitter, Signal::SIGSTOP);
    }
    send(lost, Signal::SIGKILL);
    seen.kind(EventKind::GuardianLost).await;
    all_back(&place, &pool, &mut seen, &old).await;
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guardian_and_sitters_are_halted_and_the_instance_is_dropped() {
    let place = Place::new();
    let (ostler, pool, _seen) = begun(&place, 3).await;
    let guardian = guardian(&ostler);
    for process in sitters(guardian).into_iter().chain([guardian]) {
        send(process, Signal::SIGSTOP);
    }
    drop((ostler, pool));
    place.assert_gone(SOON);
}

/// It cannot confirm that it has nothing left, so the stop must not claim it. The stop kills it and
/// waits for its sitters to end.
#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_guardian_does_not_count_as_empty() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "sleep");
    spec.backoff = Some(Backoff::new(SOON * 100, SOON * 100));
    let pool = ostler.pool_from(spec).start().await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    send(pool.workers()[0].pid.unwrap(), Signal::SIGKILL);
    seen.kind(EventKind::WorkerReleased).await;
    let guardian = guardian(&ostler);
    let idle = sitters(guardian);
    assert_eq!(idle.len(), 1);
    // A stopped guardian would be continued.
    let Some(_tracer) = Tracer::of(guardian.cast_signed()) else {
        stop(&place, ostler, &mut seen).await;
        return eprintln!("skipped: ptrace is not permitted");
    };
    send(idle[0], Signal::SIGSTOP);
    let error = in_time(ostler.stop()).await.expect_err("the stop must not be clean");
    assert!(error.report.unseen[0].contains("guardian"), "{error}");
    seen.until_run_stopped().await;
    assert_eq!(seen.count(EventKind::CleanupSuccess), 0, "{}", seen.story());
    place.assert_gone(Duration::ZERO);
    // The run is kept for the next sweep.
    let (next, mut seen) = start(&place).await;
    assert_eq!(
        (next.swept().runs, next.swept().killed.len()),
        (1, 0),
        "{:?}",
        next.swept()
    );
    let pool = next.pool_from(place.pool("p", "sleep")).start().await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    stop(&place, next, &mut seen).await;
}

/// Restarts a worker while `disturb` keeps its guardian from serving. The worker must not be
/// blamed: it may not fail once.
async fn restart_with_disturbed_guardian<T>(disturb: impl FnOnce(u32) -> Option<T>, is_replaced: bool) {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "sleep");
    spec.intensity = 0;
    let pool = ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    let worker = pool.workers()[0].pid.unwrap();
    let Some(_disturbed) = disturb(guardian(&ostler)) else {
        stop(&place, ostler, &mut seen).await;
        return eprintln!("skipped: ptrace is not permitted");
    };
    let restarted = pool.worker(0).unwrap().restart().await;
    if is_replaced {
        // Whether the order succeeded does not matter: the guardian that received it is replaced.
        seen.kind(EventKind::GuardianLost).await;
    } else {
        restarted.unwrap();
        assert_eq!(seen.count(EventKind::WorkerFailed), 0, "{}", seen.story());
    }
    in_time(pool.wait_ready()).await.unwrap();
    assert_ne!(pool.workers()[0].pid, Some(worker));
    assert_eq!(seen.count(EventKind::GuardianLost), usize::from(is_replaced));
    assert_eq!(seen.count(EventKind::WorkerGaveUp), 0, "{}", seen.story());
    stop(&place, ostler, &mut seen).await;
}

/// Any process of the same user can stop the guardian.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_guardian_is_continued_and_no_worker_is_blamed() {
    let stop = |guardian| {
        send(guardian, Signal::SIGSTOP);
        Some(())
    };
    restart_with_disturbed_guardian(stop, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_guardian_is_replaced_and_no_worker_is_blamed() {
    let hang = |guardian: u32| Tracer::of(guardian.cast_signed());
    restart_with_disturbed_guardian(hang, true).await;
}

/// Regression: a worker that stops its sitter and exits used to stay ready until the run
/// ended.
#[tokio::test(flavor = "multi_thread")]
async fn end_of_a_worker_that_stopped_its_sitter_is_noticed() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let script = "sleep 1.5; kill -STOP $PPID; exit 3";
    let mut spec = PoolSpec::new("p", ["sh", "-c", script, "sh", &place.tag]);
    spec.restart = Restart::Temporary;
    let pool = ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::WorkerReleased).await;
    drop(pool);
    stop(&place, ostler, &mut seen).await;
}
