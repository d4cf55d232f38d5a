//! Futures that are dropped: what was ordered still happens.

use std::time::Duration;

use ostler::{EventItem, EventKind, Incarnation, Ostler, OutputItem, Pool, PoolEnd, Ready, Restart, State};
use ostler_tests::SOON;
use ostler_tests::cancel::drop_after;

use super::scene::{Place, Seen, in_time, start, stop};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_dropped_restarts() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        let mut spec = place.pool(restart_name(restart), "sleep");
        spec.restart = restart;
        let pool = ostler.add_pool(spec).await.unwrap();
        let worker = pool.worker(0).unwrap();
        in_time(worker.ready()).await.unwrap();
        for polls in 1.. {
            let is_complete = drop_after(polls, worker.restart()).await.is_some();
            let next = Incarnation(polls as u64 + 1);
            let mut states = worker.watch();
            let ready = states.wait_for(|state| state.incarnation >= Some(next) && state.state == Some(State::Ready));
            in_time(ready).await.unwrap();
            if is_complete {
                break;
            }
        }
    }
    stop(&place, ostler, &mut seen).await;
}

/// What a restart on a condition may leave: nothing where it was never polled, otherwise a worker
/// that was restarted.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_an_incarnation_that_is_dropped_restarts() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep")).await.unwrap();
    let worker = pool.worker(0).unwrap();
    for polls in 0.. {
        let before = in_time(worker.ready()).await.unwrap();
        let ready = drop_after(polls, worker.restart_if(before)).await.is_some();
        if polls > 0 {
            in_time(worker.next_ready(Some(before))).await.unwrap();
        }
        // Another call waits its turn, and finds what the dropped one has left.
        let is_latest = in_time(worker.restart_if(before)).await.unwrap();
        assert_eq!(is_latest, polls == 0, "after {polls} polls");
        if ready {
            break;
        }
    }
    stop(&place, ostler, &mut seen).await;
}

/// Waits until the pool has this many workers, all ready, and each later than these incarnations.
async fn replaced(pool: &Pool, before: &[u64]) {
    let deadline = tokio::time::Instant::now() + SOON;
    while pool.size() != before.len()
        || pool.ready_workers() != before.len()
        || !incarnations(pool).iter().zip(before).all(|(now, before)| now > before)
    {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", pool.workers());
        tokio::task::yield_now().await;
    }
}

fn incarnations(pool: &Pool) -> Vec<u64> {
    let workers = pool.workers();
    workers
        .iter()
        .map(|worker| worker.incarnation.map_or(0, |incarnation| incarnation.0))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_that_is_dropped_restarts_all() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for surge in [0, 1] {
        let mut spec = place.pool(&format!("p{surge}"), "sleep");
        spec.workers = 2;
        let pool = ostler.add_pool(spec).await.unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        for polls in 0.. {
            let before = incarnations(&pool);
            let ready = drop_after(polls, pool.rolling_restart(surge)).await.is_some();
            if polls > 0 {
                replaced(&pool, &before).await;
            }
            let before = incarnations(&pool);
            in_time(pool.rolling_restart(surge)).await.unwrap();
            replaced(&pool, &before).await;
            if ready {
                assert!(polls > 1, "it never waited");
                break;
            }
        }
    }
    stop(&place, ostler, &mut seen).await;
}

const fn restart_name(restart: Restart) -> &'static str {
    match restart {
        Restart::Permanent => "permanent",
        Restart::Transient => "transient",
        Restart::Temporary => "temporary",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_and_started_by_dropped_futures_is() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.add_pool(place.pool("p", "sleep")).await.unwrap();
    let worker = pool.worker(0).unwrap();
    in_time(worker.ready()).await.unwrap();
    for polls in 1.. {
        let is_stopped = drop_after(polls, worker.stop()).await.is_some();
        let released = seen.kind(EventKind::WorkerReleased).await;
        assert_eq!(released.incarnation, Some(Incarnation(polls as u64)));
        let stopping = seen
            .events
            .iter()
            .rev()
            .find(|event| event.kind == EventKind::WorkerStopping);
        assert_eq!(stopping.unwrap().facts.cause, Some(ostler::Cause::UserStop));
        in_time(worker.stop()).await.unwrap();
        let is_complete = drop_after(polls, worker.start()).await.is_some() && is_stopped;
        seen.kind(EventKind::WorkerReady).await;
        assert_eq!(in_time(worker.start()).await.unwrap(), Incarnation(polls as u64 + 1));
        if is_complete {
            break;
        }
    }
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_stop_is_dropped_ends_and_its_name_is_free() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for polls in 1.. {
        let pool = ostler.add_pool(place.pool("p", "sleep")).await.unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        let is_complete = drop_after(polls, pool.stop()).await.is_some();
        assert_eq!(in_time(pool.wait_stopped()).await, PoolEnd::Stopped);
        if is_complete {
            break;
        }
    }
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_start_is_dropped_is_started() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut started = 0;
    for polls in 1.. {
        let name = format!("p{polls}");
        let is_complete = drop_after(polls, ostler.add_pool(place.pool(&name, "sleep")))
            .await
            .is_some();
        let ready = seen.kind(EventKind::PoolReady).await;
        assert_eq!(ready.pool.as_deref(), Some(name.as_str()));
        started = polls;
        if is_complete {
            break;
        }
    }
    assert_eq!(ostler.pools().len(), started);
    stop(&place, ostler, &mut seen).await;
}

/// In order, as long as a handle is held: the worker takes its time, and ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_stop_is_dropped_stops_in_order() {
    for polls in 1.. {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let mut spec = place.pool("p", "exit-on-term");
        spec.worker.stop.grace = Duration::from_secs(3600);
        spec.worker.ready = Some(Ready::Line("ready to serve".into()));
        ostler.add_pool(spec).await.unwrap();
        seen.kind(EventKind::PoolReady).await;
        let is_complete = drop_after(polls, ostler.stop()).await.is_some();
        let stopping = seen.kind(EventKind::WorkerStopping).await;
        assert_eq!(stopping.facts.cause, Some(ostler::Cause::InstanceStop));
        let exited = seen.kind(EventKind::WorkerExited).await;
        assert_eq!(exited.facts.exit, Some(ostler::ExitStatus::Code(0)));
        let watching = ostler.clone();
        assert!(in_time(watching.ended()).await.is_success());
        in_time(ostler.stop()).await.unwrap();
        place.assert_nothing_left();
        if is_complete {
            break;
        }
    }
}

/// A pool of a worker that has written something.
async fn talking(place: &Place) -> (Ostler, Seen, Pool) {
    let (ostler, mut seen) = start(place).await;
    let mut spec = place.pool("p", "say-out+sleep");
    spec.worker.ready = Some(Ready::Line("ready to serve".into()));
    let pool = ostler.add_pool(spec).await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    (ostler, seen, pool)
}

/// What a reader comes to that is dropped after each poll.
async fn in_pieces<T>(mut read: impl AsyncFnMut() -> T) -> T {
    loop {
        if let Some(item) = drop_after(1, read()).await {
            return item;
        }
        tokio::task::yield_now().await;
    }
}

/// A reader that is dropped while it waits loses no event and no line.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_are_dropped_lose_nothing() {
    let place = Place::new();
    let (ostler, mut seen, pool) = talking(&place).await;
    let worker = pool.worker(0).unwrap();
    let (mut dropped, mut whole) = (ostler.subscribe(), ostler.subscribe());
    let (mut output, restarts) = (worker.output(), 3);
    let restarting = tokio::spawn(async move {
        for _ in 0..restarts {
            in_time(worker.restart()).await.unwrap();
            in_time(worker.ready()).await.unwrap();
        }
    });
    for incarnation in 1..=restarts + 1 {
        let line = in_time(in_pieces(async || output.recv().await)).await;
        let Some(OutputItem::Line(line)) = line else {
            panic!("{line:?}");
        };
        assert_eq!(
            (line.incarnation.0, line.text.as_str()),
            (incarnation, "ready to serve")
        );
    }
    in_time(restarting).await.unwrap();
    loop {
        let items = [
            in_time(in_pieces(async || dropped.recv().await)).await,
            in_time(whole.recv()).await,
        ];
        let [one, other] = items.map(|item| item.and_then(EventItem::event).unwrap());
        assert_eq!(one.seq, other.seq);
        if one.kind == EventKind::WorkerReady && one.incarnation == Some(Incarnation(restarts + 1)) {
            break;
        }
    }
    stop(&place, ostler, &mut seen).await;
}
