//! Pools that change their size, and restart their workers in turn.

use std::time::Duration;

use ostler::{
    Cause, Event, EventKind, Incarnation, NotRestartable, PoolEnd, PoolError, PoolPhase, PoolSpec, Port, Ready, State,
};
use ostler_tests::cancel::drop_after;
use ostler_tests::{SOON, send};

use super::scene::{Place, in_time, start, stop};

fn ids(events: &[std::sync::Arc<Event>], fits: impl Fn(&Event) -> bool) -> Vec<String> {
    let fitting = events.iter().filter(|event| fits(event));
    fitting
        .filter_map(|event| Some(event.worker.as_ref()?.to_string()))
        .collect()
}

fn of_resize(event: &Event) -> bool {
    event.kind == EventKind::WorkerStopping && event.facts.cause == Some(Cause::PoolResize)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_and_shrinks_at_its_end() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep").workers(2)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let pids: Vec<_> = pool.workers().iter().map(|worker| worker.pid).collect();

    in_time(pool.resize(4)).await.unwrap();
    assert_eq!((pool.size(), pool.workers().len()), (4, 4));
    in_time(pool.wait_ready()).await.unwrap();
    assert_eq!((pool.ready_workers(), pool.ready().count()), (4, 4));
    place.await_processes(4);

    let removed = pool.worker(3).unwrap();
    in_time(pool.resize(1)).await.unwrap();
    assert_eq!((pool.size(), pool.phase()), (1, PoolPhase::Ready));
    assert_eq!((pool.ready_workers(), ostler.table_len()), (1, 1));
    assert_eq!(
        ostler_tests::survivors(&place.tag).len(),
        1,
        "the others are released when it resolves"
    );
    assert_eq!(pool.workers()[0].pid, pids[0], "the others are not touched");
    // In whatever order.
    for _ in 1..4 {
        seen.kind(EventKind::WorkerReleased).await;
    }
    let mut removed_ids = ids(&seen.events, of_resize);
    removed_ids.sort_unstable();
    assert_eq!(removed_ids, ["p/1", "p/2", "p/3"]);

    assert!(removed.state().removed);
    assert_eq!(in_time(removed.ready()).await, Err(PoolEnd::Removed));
    let refused = in_time(removed.restart()).await.unwrap_err();
    assert!(
        matches!(
            &refused,
            PoolError::NotRestartable {
                reason: NotRestartable::Removed,
                ..
            }
        ),
        "{refused}"
    );
    assert!(matches!(
        pool.worker(1),
        Err(PoolError::NoSuchWorker { workers: 1, .. })
    ));

    // The numbers of its incarnations go on, as those of a pool that was started again do.
    in_time(pool.resize(2)).await.unwrap();
    let again = in_time(pool.worker(1).unwrap().ready()).await.unwrap();
    assert_eq!(again, Incarnation(2));
    let report = stop(&place, ostler, &mut seen).await;
    assert_eq!(report.workers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_pool_lives_and_grows_again() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep")).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    in_time(pool.resize(0)).await.unwrap();
    assert_eq!((pool.phase(), pool.ready_workers()), (PoolPhase::Ready, 0));
    assert!(pool.pick().is_none());
    place.await_processes(0);
    in_time(pool.resize(1)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert!(pool.pick().is_some());
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_starts_empty_is_ready_at_once_and_grows() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep").workers(0)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert_eq!((pool.phase(), pool.size()), (PoolPhase::Ready, 0));
    let ready = seen.kind(EventKind::PoolReady).await;
    assert_eq!(ready.facts.count, Some(0));
    in_time(pool.rolling_restart(1)).await.unwrap();
    in_time(pool.resize(2)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert_eq!(pool.ready_workers(), 2);
    place.await_processes(2);
    let report = stop(&place, ostler, &mut seen).await;
    assert_eq!(report.workers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_a_pool_could_not_have_changes_nothing() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let spec = place.pool("p", "sleep").workers(2).min_workers(2);
    let pool = ostler.add_pool(spec.port(Port::range(27_000..=27_002))).await.unwrap();
    for (size, key) in [(1, "min_workers"), (4, "workers"), (u32::MAX, "workers")] {
        let refused = in_time(pool.resize(size)).await.unwrap_err();
        let PoolError::Invalid { problems, .. } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(problems[0].key, key, "{refused}");
    }
    let refused = in_time(pool.rolling_restart(2)).await.unwrap_err();
    assert!(matches!(refused, PoolError::Invalid { .. }), "{refused}");
    assert_eq!(pool.size(), 2);
    in_time(pool.stop()).await;
    let refused = in_time(pool.resize(3)).await.unwrap_err();
    assert!(
        matches!(&refused, PoolError::Over { end, .. } if **end == PoolEnd::Stopped),
        "{refused}"
    );
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_changed_while_workers_crash() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let spec = place
        .pool("p", "sleep")
        .workers(3)
        .intensity(1_000, Duration::from_secs(1));
    let pool = ostler.add_pool(spec).await.unwrap();
    let (killing, stopped) = (pool.clone(), tokio::sync::watch::channel(false));
    let crashes = tokio::spawn(async move {
        while !*stopped.1.borrow() {
            for pid in killing.workers().iter().filter_map(|worker| worker.pid) {
                send(pid, nix::sys::signal::Signal::SIGKILL);
            }
            tokio::task::yield_now().await;
        }
    });
    // Concurrent changes come one after the other, in the order of the calls.
    for size in [6, 1, 4, 0, 5, 2] {
        let changes = (pool.resize(size + 1), pool.resize(size));
        let (first, second) = in_time(async { tokio::join!(changes.0, changes.1) }).await;
        first.unwrap();
        second.unwrap();
        assert_eq!(pool.size(), size as usize);
    }
    stopped.0.send_replace(true);
    crashes.await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert_eq!((pool.ready_workers(), ostler.table_len()), (2, 2));
    place.await_processes(2);
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_change_ends_both() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "ignore-term+sleep").workers(4);
    spec.worker.stop.grace = Duration::from_millis(300);
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let changing = pool.clone();
    let change = tokio::spawn(async move { (changing.resize(1).await, changing.resize(8).await) });
    seen.kind(EventKind::WorkerStopping).await;
    stop(&place, ostler, &mut seen).await;
    let (shrunk, grown) = in_time(change).await.unwrap();
    assert!(matches!(shrunk, Ok(()) | Err(PoolError::Over { .. })), "{shrunk:?}");
    assert!(matches!(grown, Err(PoolError::Over { .. })), "{grown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_supervisor_was_killed_has_the_size_that_it_was_given() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep").workers(2)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    in_time(pool.resize(3)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let gone = pool.worker(0).unwrap();
    // The root's only dynamic supervisor.
    let supervisor = ostler
        .cell()
        .get_children()
        .into_iter()
        .find(|child| !child.get_children().is_empty());
    supervisor.expect("the pool's supervisor").kill();
    in_time(async {
        let mut states = gone.watch();
        states
            .wait_for(|state| state.incarnation == Some(Incarnation(2)))
            .await
            .map(drop)
    })
    .await
    .unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert_eq!((pool.size(), pool.ready_workers()), (3, 3));
    in_time(pool.resize(1)).await.unwrap();
    place.await_processes(1);
    stop(&place, ostler, &mut seen).await;
}

/// Each worker is ready a moment after its start; a file in the state directory makes new ones
/// fail.
fn restartable(place: &Place, workers: u32) -> PoolSpec {
    let broken = place.state().join("broken");
    let script = format!("[ -e {} ] && exit 3; echo up; exec sleep 600", broken.display());
    let mut spec = PoolSpec::new("p", ["sh", "-c", &script]).workers(workers);
    spec.worker.ready = Some(Ready::line("^up$"));
    spec.worker.output.log = false;
    spec
}

/// The fewest workers that were ready at any moment until `until`, by the events.
fn fewest_ready(events: &[std::sync::Arc<Event>], from: u64) -> usize {
    let mut ready = std::collections::BTreeSet::new();
    let mut fewest = usize::MAX;
    for event in events {
        let Some(worker) = &event.worker else { continue };
        match event.kind {
            EventKind::WorkerReady => drop(ready.insert(worker.clone())),
            EventKind::WorkerStopping | EventKind::WorkerExited => drop(ready.remove(worker)),
            _ => continue,
        }
        if event.seq > from {
            fewest = fewest.min(ready.len());
        }
    }
    fewest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_a_surge_misses_no_worker() {
    for (surge, fewest) in [(0, 2), (1, 3), (2, 3)] {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let pool = ostler.add_pool(restartable(&place, 3)).await.unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        let begun = seen.kind(EventKind::PoolReady).await.seq;
        let stopped = pool.worker(2).unwrap();
        in_time(pool.rolling_restart(surge)).await.unwrap();
        assert_eq!((pool.size(), pool.phase()), (3, PoolPhase::Ready), "surge {surge}");
        for worker in pool.workers() {
            let state = (worker.incarnation, worker.state);
            assert_eq!(state, (Some(Incarnation(2)), Some(State::Ready)), "surge {surge}");
        }
        assert_eq!(seen.count(EventKind::PoolDegraded), 0);
        // One that a user has stopped stays so.
        in_time(stopped.stop()).await.unwrap();
        in_time(pool.rolling_restart(surge)).await.unwrap();
        assert_eq!(stopped.incarnation(), Some(Incarnation(2)));
        let end = seen.events.len();
        stop(&place, ostler, &mut seen).await;
        let until = seen
            .events
            .iter()
            .rposition(|event| event.facts.cause == Some(Cause::UserStop));
        let events = &seen.events[..until.expect("the stop of a user").max(end)];
        assert_eq!(fewest_ready(events, begun), fewest, "surge {surge}: {}", seen.story());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_ends_at_the_first_worker_that_fails() {
    for surge in [0, 1] {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let pool = ostler.add_pool(restartable(&place, 3)).await.unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        let broken = place.state().join("broken");
        std::fs::write(&broken, "").unwrap();
        let failed = in_time(pool.rolling_restart(surge)).await.unwrap_err();
        let PoolError::NotReady { worker, failure } = &failed else {
            panic!("{failed}");
        };
        // The surge worker is the first to be started.
        assert_eq!(worker.index, if surge == 0 { 0 } else { 3 });
        assert_eq!(failure.as_ref().unwrap().reason, ostler::Reason::ExitedBeforeReady);
        let untouched = pool
            .workers()
            .iter()
            .filter(|worker| worker.incarnation == Some(Incarnation(1)))
            .count();
        assert_eq!((pool.size(), untouched), (3, if surge == 0 { 2 } else { 3 }));
        std::fs::remove_file(&broken).unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        stop(&place, ostler, &mut seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_dropped_goes_on() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep")).await.unwrap();
    for (polls, size) in (1..).zip([3, 1, 4, 0, 2].into_iter().cycle()) {
        let is_complete = drop_after(polls, pool.resize(size)).await.is_some();
        // Behind the one that was dropped.
        let deadline = tokio::time::Instant::now() + SOON;
        while pool.size() != size as usize || pool.ready_workers() != size as usize {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", pool.workers());
            tokio::task::yield_now().await;
        }
        if is_complete {
            break;
        }
    }
    in_time(pool.resize(2)).await.unwrap();
    place.await_processes(2);
    stop(&place, ostler, &mut seen).await;
}
