//! How far a pool is, as its handle says it.

use ostler::{EventKind, NotRestartable, PoolEnd, PoolError, PoolPhase, PoolSpec, Port, Ready};

use super::scene::{Place, in_time, start, stop};

/// The first worker takes a directory and serves; every other one fails.
fn one_of(workers: u32, place: &Place) -> PoolSpec {
    let script = format!(
        "mkdir {}/taken || exit 3; echo up; exec sleep 600",
        place.state().display()
    );
    let mut spec = PoolSpec::new("p", ["sh", "-c", &script]);
    spec.workers = workers;
    spec.limit_restarts(None, None);
    spec.worker.ready = Some(Ready::Line("^up$".into()));
    spec.worker.output.log = false;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_with_slots_that_gave_up_is_degraded_and_never_ready() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(one_of(3, &place)).await.unwrap();
    let degraded = PoolEnd::Degraded { ready: 1, expected: 3 };
    assert_eq!(in_time(pool.wait_ready()).await, Err(degraded));
    assert_eq!(pool.phase(), PoolPhase::Degraded { ready: 1, expected: 3 });
    assert_eq!((pool.ready_workers(), pool.ready().count()), (1, 1));
    let event = seen.kind(EventKind::PoolDegraded).await;
    assert_eq!(event.facts.count, Some(1));
    assert_eq!(event.facts.message.as_deref(), Some("1 of 3 workers are ready"));
    assert_eq!(seen.count(EventKind::PoolReady), 0);
    let lost = (0..3).find(|index| pool.workers()[*index].gave_up).unwrap();
    let refused = in_time(pool.restart_worker(lost as u32)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            PoolError::NotRestartable {
                reason: NotRestartable::GaveUp,
                ..
            }
        ),
        "{refused}"
    );
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_degrades_a_pool_until_its_worker_is_ready_again() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "sleep");
    spec.workers = 2;
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    in_time(pool.restart_worker(1)).await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    assert_eq!(
        seen.count(EventKind::PoolDegraded),
        0,
        "a restart on request is no loss"
    );
    let pid = pool.worker(0).unwrap().pid().unwrap();
    ostler_tests::send(pid, nix::sys::signal::Signal::SIGKILL);
    let degraded = seen.kind(EventKind::PoolDegraded).await;
    assert_eq!(degraded.pool.as_deref(), Some("p"));
    seen.kind(EventKind::PoolReady).await;
    in_time(pool.wait_ready()).await.unwrap();
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_pool_has_one_name_however_far_it_is() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    // Stopped while it is ready.
    let pool = ostler.add_pool(place.pool("stopped", "sleep")).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let (watching, over) = (pool.clone(), pool.clone());
    let ends = tokio::spawn(async move { (watching.wait_stopped().await, watching.wait_ready().await) });
    assert_eq!(in_time(pool.stop()).await, PoolEnd::Stopped);
    assert_eq!(in_time(ends).await.unwrap(), (PoolEnd::Stopped, Err(PoolEnd::Stopped)));
    assert_eq!(over.phase(), PoolPhase::Ended(PoolEnd::Stopped));
    // It gives up, and is asked at once, when its end has begun, and when it has ended.
    let mut spec = PoolSpec::new("lost", ["sh", "-c", "exit 7"]);
    spec.limit_restarts(None, None);
    spec.worker.ready = Some(Ready::Line("never".into()));
    let pool = ostler.add_pool(spec).await.unwrap();
    let mut asked = vec![in_time(pool.wait_ready()).await.unwrap_err()];
    asked.push(in_time(pool.wait_over()).await);
    asked.push(in_time(pool.wait_ready()).await.unwrap_err());
    asked.push(in_time(pool.wait_stopped()).await);
    asked.push(in_time(pool.wait_ready()).await.unwrap_err());
    assert!(
        asked.iter().all(|end| matches!(end, PoolEnd::GaveUp(Some(_)))),
        "{asked:?}"
    );
    assert!(asked.windows(2).all(|pair| pair[0] == pair[1]), "{asked:?}");
    let refused = in_time(pool.restart_worker(0)).await.unwrap_err();
    assert!(
        matches!(
            refused,
            PoolError::NotRestartable {
                reason: NotRestartable::PoolGaveUp,
                ..
            }
        ),
        "{refused}"
    );
    in_time(ostler.stop()).await.unwrap();
    seen.until_run_stopped().await;
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_workers_than_ports_are_refused() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for port in [Port::Fixed(7001), Port::Range(7001, 7002)] {
        let refused = ostler
            .pool_from(place.pool("p", "sleep"))
            .workers(4)
            .port(port)
            .start()
            .await;
        let Err(PoolError::Invalid { problems, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(problems[0].key, "workers");
    }
    in_time(ostler.stop()).await.unwrap();
    seen.until_run_stopped().await;
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_worker_is_restarted_and_found_again() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "tcp");
    spec.workers = 3;
    spec.worker.ports = ostler::Ports::One(Port::Any);
    spec.worker.ready = Some(Ready::Probe(ostler::Probe::new(ostler::ProbeKind::Tcp)));
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let worker = pool.worker(1).unwrap();
    let (before, addr) = (worker.incarnation().unwrap(), worker.addr().unwrap());
    let restarted = in_time(worker.restart()).await.unwrap();
    assert_eq!(restarted.0, before.0 + 1);
    assert_eq!(in_time(worker.ready()).await.unwrap(), restarted);
    assert_eq!(worker.addr(), Some(addr), "a restart tries the port it had");
    std::net::TcpStream::connect(addr).unwrap();
    let picked: std::collections::BTreeSet<String> = (0..3).map(|_| pool.pick().unwrap().id().to_string()).collect();
    assert_eq!(picked.len(), 3, "each worker has its turn: {picked:?}");
    assert!(matches!(
        pool.worker(3),
        Err(PoolError::NoSuchWorker {
            index: 3,
            workers: 3,
            ..
        })
    ));
    in_time(worker.stop()).await.unwrap();
    assert!(pool.ready().all(|ready| ready.id() != worker.id()));
    assert!((0..4).all(|_| pool.pick().unwrap().id() != worker.id()));
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_sign_is_ready_once_it_has_lived_for_a_moment() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = PoolSpec::new("crashing", ["sh", "-c", "exit 7"]);
    spec.limit_restarts(None, None);
    let pool = ostler.add_pool(spec).await.unwrap();
    let end = in_time(pool.wait_ready()).await.unwrap_err();
    let PoolEnd::GaveUp(Some(failure)) = &end else {
        panic!("{end:?}");
    };
    assert_eq!(failure.reason, ostler::Reason::Exited);
    seen.kind(EventKind::PoolStopped).await;
    assert_eq!(seen.count(EventKind::WorkerReady), 0, "{}", seen.story());

    // A quick end without a failure is an end like any other.
    let spec = PoolSpec::new("done", ["true"]).restart(ostler::Restart::Transient);
    let pool = ostler.add_pool(spec).await.unwrap();
    assert_eq!(in_time(pool.wait_ready()).await, Err(PoolEnd::Finished));
    seen.kind(EventKind::PoolStopped).await;
    assert_eq!(seen.count(EventKind::WorkerReady), 0, "{}", seen.story());

    // A start is over once the worker is spawned: they are not ready one after the other.
    let spec = place.pool("many", "sleep").workers(20).max_starting(1);
    let begun = std::time::Instant::now();
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= ostler::READY_AFTER, "{took:?}");
    let first = seen.kind(EventKind::WorkerReady).await;
    let spawned = seen
        .events
        .iter()
        .filter(|event| event.kind == EventKind::WorkerSpawned)
        .count();
    assert!(
        spawned > 1,
        "{spawned} were spawned before {:?} was ready",
        first.worker
    );
    assert!(
        first.facts.elapsed >= Some(ostler::READY_AFTER),
        "{:?}",
        first.facts.elapsed
    );

    // Zero: with its spawn.
    let spec = PoolSpec::new("quick", ["true"]).ready(Ready::After(std::time::Duration::ZERO));
    let pool = ostler.add_pool(spec.restart(ostler::Restart::Transient)).await.unwrap();
    let ready = seen.wait_for("quick", |event| {
        event.kind == EventKind::WorkerReady && event.pool.as_deref() == Some("quick")
    });
    assert!(ready.await.facts.elapsed < Some(ostler::READY_AFTER));
    assert_eq!(in_time(pool.wait_stopped()).await, PoolEnd::Finished);
    stop(&place, ostler, &mut seen).await;
}
