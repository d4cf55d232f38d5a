//! Many instances, pools that come and go, restarts on request, and a kill during a stop.

use std::time::Duration;

use ostler::{EventKind, Incarnation, PoolEnd, PoolError, PoolPhase, Restart};

use super::scene::{Place, WORST, in_time, start, stop};

#[tokio::test(flavor = "multi_thread")]
async fn five_instances_of_one_app_share_a_directory() {
    let place = Place::new();
    let mut running = Vec::new();
    for _ in 0..5 {
        let (ostler, mut seen) = start(&place).await;
        assert_eq!(ostler.swept().killed, Vec::<String>::new());
        let mut spec = place.pool("p", "daemon+sleep");
        spec.workers = 2;
        ostler.pool_from(spec).start().await.unwrap();
        seen.kind(EventKind::PoolReady).await;
        running.push((ostler, seen));
    }
    place.await_processes(20);
    for left in (0..5).rev() {
        let (ostler, mut seen) = running.remove(0);
        let report = in_time(ostler.stop()).await.unwrap();
        assert!(report.is_success(), "{report}");
        seen.until_run_stopped().await;
        seen.assert_balanced();
        place.await_processes(left * 4);
        for (other, _) in &running {
            let workers = other.pools()[0].workers();
            let first = Some(Incarnation(1));
            assert!(workers.iter().all(|w| w.incarnation == first && w.pid.is_some()));
        }
    }
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_restarts_are_not_counted() {
    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let mut spec = place.pool("p", "daemon+sleep");
        (spec.workers, spec.intensity, spec.restart) = (2, 0, restart);
        let pool = ostler.pool_from(spec).start().await.unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        for round in 2..=6 {
            in_time(pool.restart_worker(1)).await.unwrap();
            in_time(pool.wait_ready()).await.unwrap();
            assert_eq!(pool.workers()[1].incarnation, Some(Incarnation(round)));
        }
        assert_eq!(pool.workers()[0].incarnation, Some(Incarnation(1)));
        place.await_processes(4);
        let unknown = in_time(pool.restart_worker(2)).await;
        let is_no_such = matches!(
            unknown,
            Err(PoolError::NoSuchWorker {
                index: 2,
                workers: 2,
                ..
            })
        );
        assert!(is_no_such, "{unknown:?}");
        let report = stop(&place, ostler, &mut seen).await;
        assert!(report.is_success(), "{report}");
        assert_eq!(report.restarts, 5);
        assert_eq!(seen.count(EventKind::WorkerFailed), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_slot_is_not_restarted() {
    for restart in [Restart::Transient, Restart::Temporary] {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        // Worker 0 exits, the other one keeps running.
        let mut spec = place.pool("p", "");
        let script = "[ \"${1##*/}\" ]; case $(env) in *p/0#*) exit 0;; *) exec sleep 1000;; esac";
        spec.worker.command = ["sh", "-c", script, &place.tag].map(Into::into).to_vec();
        (spec.workers, spec.restart) = (2, restart);
        let pool = ostler.pool_from(spec).start().await.unwrap();
        let finished = seen.kind(EventKind::WorkerFinished).await;
        assert_eq!(finished.worker.as_ref().unwrap().to_string(), "p/0");
        let refused = in_time(pool.restart_worker(0)).await;
        assert!(matches!(refused, Err(PoolError::NotRestartable { .. })), "{refused:?}");
        in_time(pool.restart_worker(1)).await.unwrap();
        stop(&place, ostler, &mut seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_worker_whose_actor_is_killed_has_finished() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", WORST);
    spec.restart = Restart::Temporary;
    let pool = ostler.pool_from(spec).start().await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let pool_actor = ostler
        .cell()
        .get_children()
        .into_iter()
        .max_by_key(|c| c.get_id().pid());
    let starter = pool_actor.unwrap().get_children().remove(0);
    starter.get_children().remove(0).kill();
    assert_eq!(in_time(pool.wait_stopped()).await, PoolEnd::Finished);
    assert_eq!(pool.phase(), PoolPhase::Ended(PoolEnd::Finished));
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_a_stopped_pool_can_be_reused() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let spec = || {
        let mut spec = place.pool("p", "daemon+sleep");
        spec.workers = 2;
        spec
    };
    let mut old = ostler.pool_from(spec()).start().await.unwrap();
    for round in 2..=6 {
        in_time(old.wait_ready()).await.unwrap();
        let duplicate = in_time(ostler.pool_from(spec()).start()).await;
        assert!(
            matches!(duplicate, Err(PoolError::Exists { ref pool }) if pool == "p"),
            "{duplicate:?}"
        );
        assert_eq!(in_time(old.stop()).await, PoolEnd::Stopped);
        place.await_processes(0);
        let new = ostler.pool_from(spec()).start().await.unwrap();
        // The old handle belongs to the old pool.
        in_time(old.stop()).await;
        in_time(old.restart_worker(0)).await.unwrap_err();
        in_time(new.wait_ready()).await.unwrap();
        assert_eq!(new.phase(), PoolPhase::Ready);
        assert_eq!(new.workers()[1].incarnation, Some(Incarnation(round)));
        place.await_processes(4);
        old = new;
    }
    let report = stop(&place, ostler, &mut seen).await;
    assert_eq!(report.workers, 2, "the workers of the latest pool");
    assert_eq!(seen.count(EventKind::PoolStopped), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_problems_of_a_specification_are_reported_together() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "sleep");
    spec.worker.command.clear();
    spec.max_starting = 0;
    spec.min_workers = 9;
    let Err(PoolError::Invalid { problems, .. }) = ostler.pool_from(spec).start().await else {
        panic!("the specification was accepted");
    };
    assert_eq!(problems.len(), 3, "{problems:?}");
    // The name is still free.
    ostler.pool_from(place.pool("p", "sleep")).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killer_ends_a_stop_that_takes_too_long() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for name in ["first", "second"] {
        let mut spec = place.pool(name, WORST);
        spec.workers = 3;
        spec.worker.stop.grace = Duration::from_secs(3600);
        ostler.pool_from(spec).start().await.unwrap();
        seen.kind(EventKind::PoolReady).await;
    }
    let killer = ostler.killer();
    let stopping = tokio::spawn(async move { ostler.stop().await });
    let asked = seen.kind(EventKind::WorkerStopping).await;
    assert_eq!(
        asked.worker.as_ref().unwrap().pool,
        "second",
        "the last pool stops first"
    );
    killer.kill();
    killer.kill();
    let report = in_time(stopping).await.unwrap().unwrap();
    assert!(report.is_success(), "{report}; {}", seen.story());
    seen.until_run_stopped().await;
    seen.assert_balanced();
    assert_eq!(seen.count(EventKind::WorkerRestarting), 0, "{}", seen.story());
    place.assert_nothing_left();
}
