//! `ostler::testing`: what it offers an app's tests, and that it fails them when it should.

use std::time::Duration;

use ostler::testing::TestBed;
use ostler::{EventKind, Pool, PoolEnd, PoolSpec, Reason, Restart, StopSpec};
use ostler_tests::scene::get;

/// What a task panicked with.
async fn panic_of(task: impl Future<Output = ()> + Send + 'static) -> String {
    let error = tokio::spawn(task).await.expect_err("a test that has to fail passes");
    match error.into_panic().downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .expect("a panic with a message")
            .to_string(),
    }
}

/// A pool of this one worker in an instance of its own, which is stopped.
async fn run_to_the_end(bed: &TestBed, spec: PoolSpec) -> PoolEnd {
    let ostler = bed.builder().start().await.unwrap();
    let pool = ostler.add_pool(spec.restart(Restart::Temporary)).await.unwrap();
    let end = bed.within("the end of the pool", pool.wait_stopped()).await;
    ostler.stop().await.unwrap();
    end
}

async fn killed(bed: &mut TestBed, pool: &Pool) {
    bed.from_now();
    let pid = pool.worker(0).unwrap().pid().unwrap();
    ostler_tests::send(pid, nix::sys::signal::Signal::SIGKILL);
    bed.event("p/0", EventKind::WorkerReady).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_replaced_and_nothing_is_left() {
    let mut bed = TestBed::new();
    let ostler = bed.builder().start().await.unwrap();
    let spec = bed.fake_worker().stderr("loading").http().pool("p");
    let pool = ostler.add_pool(spec).await.unwrap();
    bed.event("p", EventKind::PoolReady).await;
    let worker = pool.worker(0).unwrap();
    assert_eq!(get(worker.addr().unwrap()).unwrap(), "p/0#1");
    bed.allow_failures("p/0");
    killed(&mut bed, &pool).await;
    assert_eq!(get(worker.addr().unwrap()).unwrap(), "p/0#2");
    ostler.stop().await.unwrap();
    let history = bed.history();
    for part in [
        "p/0#1 worker.ready",
        "p/0#1 stderr: loading",
        "killed",
        "p/0#2 worker.released",
        "run.stopped",
    ] {
        assert!(history.contains(part), "no {part} in\n{history}");
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unexpected_failure_fails_the_test_with_the_history() {
    let bed = TestBed::new();
    let spec = bed.fake_worker().stderr("no model").exit_with(7).pool("p");
    run_to_the_end(&bed, spec).await;
    let message = panic_of(bed.finish()).await;
    for part in ["unexpected: p/0#1 worker.failed", "status 7", "p/0#1 stderr: no model"] {
        assert!(message.contains(part), "no {part} in\n{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_still_runs_fails_the_test() {
    let mut bed = TestBed::new();
    let ostler = bed.builder().start().await.unwrap();
    ostler.add_pool(bed.fake_worker().pool("p")).await.unwrap();
    bed.event("p/0", EventKind::WorkerReady).await;
    bed.set_deadline(Duration::from_millis(50));
    let finished = panic_of(async move {
        let _instance = ostler;
        bed.finish().await;
    });
    let message = finished.await;
    for part in [
        "an instance still runs",
        "not released: p/0#1",
        "a process of p/0#1 is left",
    ] {
        assert!(message.contains(part), "no {part} in\n{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_left_fails_the_test() {
    let bed = TestBed::new();
    let ostler = bed.builder().start().await.unwrap();
    let marker = format!("OSTLER_RUN_{}", ostler.run_id());
    ostler.stop().await.unwrap();
    let mut command = std::process::Command::new("sleep");
    let command = ostler_tests::scene::killed_with_the_test(command.arg("600").env(marker, "p/3#1"));
    let mut left = { command }.spawn().unwrap();
    // setpriv(1) has become sleep(1), which has the marker in its environment.
    let message = panic_of(bed.finish()).await;
    left.kill().unwrap();
    left.wait().unwrap();
    assert!(message.contains("a process of p/3#1 is left"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_does_not_finish_its_bed_fails() {
    let message = panic_of(async { drop(TestBed::new()) }).await;
    assert!(message.contains("without finish()"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_not_come_fails_the_test_in_time() {
    let mut bed = TestBed::new();
    bed.set_deadline(Duration::from_millis(50));
    let message = panic_of(async move {
        bed.event("p", EventKind::PoolReady).await;
    });
    let message = message.await;
    assert!(message.contains("no pool.ready of p within 50ms"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fake_worker_behaves_as_the_test_chose() {
    let mut bed = TestBed::new();
    bed.allow_failures("p");
    let worker = bed.fake_worker();
    let short = StopSpec::term(Duration::from_millis(100));

    let ends = [
        (worker.clone().exit_with(0), "status 0"),
        (worker.clone().exit_with(9), "status 9"),
        (worker.clone().exit_after(Duration::from_millis(1), 3), "status 3"),
        (worker.clone().abort(), "ABRT"),
    ];
    for (worker, end) in ends {
        run_to_the_end(&bed, worker.pool("p")).await;
        let failed = bed.event("p/0", EventKind::WorkerFailed).await;
        assert!(failed.facts.exit.unwrap().to_string().contains(end), "{failed:?}");
    }

    let never = worker
        .clone()
        .never_ready()
        .pool("p")
        .start_timeout(Duration::from_millis(100));
    run_to_the_end(&bed, never).await;
    let failed = bed.event("p/0", EventKind::WorkerFailed).await;
    assert_eq!(failed.facts.reason, Some(Reason::ReadyTimeout));

    bed.from_now();
    let ostler = bed.builder().start().await.unwrap();
    let stubborn = worker
        .clone()
        .ignore_term()
        .flood(1 << 20)
        .hold_port()
        .pool("p")
        .stop(short);
    let pool = ostler.add_pool(stubborn).await.unwrap();
    bed.event("p/0", EventKind::WorkerReady).await;
    assert_eq!(get(pool.worker(0).unwrap().addr().unwrap()).unwrap(), "p/0#1");
    ostler.stop().await.unwrap();
    let exited = bed.event("p/0", EventKind::WorkerExited).await;
    assert!(exited.facts.exit.unwrap().to_string().contains("KILL"), "{exited:?}");

    bed.finish().await;
}

/// The table in the documentation of `ostler::testing`.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_stands_still_while_a_test_bed_waits() {
    let mut bed = TestBed::new();
    let ostler = bed.within("the start", bed.builder().start()).await.unwrap();
    let spec = bed.fake_worker().ready_after(Duration::from_millis(50)).pool("p");
    // Each would be over at once if the clock advanced.
    let spec = spec.start_timeout(Duration::from_secs(1));
    let before = tokio::time::Instant::now();
    let pool = bed.within("the pool's start", ostler.add_pool(spec)).await.unwrap();
    bed.event("p/0", EventKind::WorkerReady).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    let worker = pool.worker(0).unwrap();
    bed.within("the restart", worker.restart()).await.unwrap();
    bed.within("the new worker", worker.ready()).await.unwrap();
    bed.within("the stop", ostler.stop()).await.unwrap();
    bed.finish().await;
}

/// A backoff passes when the test says so.
#[tokio::test(start_paused = true)]
async fn advancing_a_paused_clock_ends_a_backoff() {
    let mut bed = TestBed::new();
    bed.allow_failures("p");
    let ostler = bed.within("the start", bed.builder().start()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let spec = bed
        .fake_worker()
        .exit_with(1)
        .pool("p")
        .backoff(ostler::Backoff::new(hour, hour));
    bed.within("the pool's start", ostler.add_pool(spec)).await.unwrap();
    bed.event("p/0", EventKind::WorkerRestarting).await;
    tokio::time::advance(2 * hour).await;
    let second = bed
        .event_where("second incarnation", |event| {
            event.incarnation.is_some_and(|of| of.0 == 2)
        })
        .await;
    assert_eq!(second.kind, EventKind::WorkerReserved);
    bed.within("the stop", ostler.stop()).await.unwrap();
    bed.finish().await;
}
