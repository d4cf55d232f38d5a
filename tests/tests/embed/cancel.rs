//! Futures that are dropped: what was ordered still happens.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use ostler::{EventKind, Incarnation, PoolEnd, Ready, Restart, State};

use super::scene::{Place, in_time, start, stop};

/// Drops a future after so many polls, if it is not ready before: so it is dropped at each of its
/// awaits.
async fn drop_after(polls: usize, future: impl Future) {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Pending if polled < polls => Poll::Pending,
            Poll::Pending | Poll::Ready(_) => Poll::Ready(()),
        }
    })
    .await;
}

const POLLS: std::ops::Range<usize> = 1..5;

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
        for polls in POLLS {
            drop_after(polls, worker.restart()).await;
            let next = Incarnation(polls as u64 + 1);
            let mut states = worker.watch();
            let ready = states.wait_for(|state| state.incarnation >= Some(next) && state.state == Some(State::Ready));
            in_time(ready).await.unwrap();
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
    for polls in POLLS {
        drop_after(polls, worker.stop()).await;
        let released = seen.kind(EventKind::WorkerReleased).await;
        assert_eq!(released.incarnation, Some(Incarnation(polls as u64)));
        let stopping = seen
            .events
            .iter()
            .rev()
            .find(|event| event.kind == EventKind::WorkerStopping);
        assert_eq!(stopping.unwrap().facts.cause, Some(ostler::Cause::UserStop));
        in_time(worker.stop()).await.unwrap();
        drop_after(polls, worker.start()).await;
        seen.kind(EventKind::WorkerReady).await;
        assert_eq!(in_time(worker.start()).await.unwrap(), Incarnation(polls as u64 + 1));
    }
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_stop_is_dropped_ends_and_its_name_is_free() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for polls in POLLS {
        let pool = ostler.add_pool(place.pool("p", "sleep")).await.unwrap();
        in_time(pool.wait_ready()).await.unwrap();
        drop_after(polls, pool.stop()).await;
        assert_eq!(in_time(pool.wait_stopped()).await, PoolEnd::Stopped);
    }
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_start_is_dropped_is_started() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    for polls in POLLS {
        let name = format!("p{polls}");
        drop_after(polls, ostler.add_pool(place.pool(&name, "sleep"))).await;
        let ready = seen.kind(EventKind::PoolReady).await;
        assert_eq!(ready.pool.as_deref(), Some(name.as_str()));
    }
    assert_eq!(ostler.pools().len(), POLLS.len());
    stop(&place, ostler, &mut seen).await;
}

/// In order, as long as a handle is held: the worker takes its time, and ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_stop_is_dropped_stops_in_order() {
    for polls in POLLS {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let mut spec = place.pool("p", "exit-on-term");
        spec.worker.stop.grace = Duration::from_secs(3600);
        spec.worker.ready = Some(Ready::Line("ready to serve".into()));
        ostler.add_pool(spec).await.unwrap();
        seen.kind(EventKind::PoolReady).await;
        drop_after(polls, ostler.stop()).await;
        let stopping = seen.kind(EventKind::WorkerStopping).await;
        assert_eq!(stopping.facts.cause, Some(ostler::Cause::InstanceStop));
        let exited = seen.kind(EventKind::WorkerExited).await;
        assert_eq!(exited.facts.exit, Some(ostler::ExitStatus::Code(0)));
        let watching = ostler.clone();
        assert!(in_time(watching.ended()).await.is_success());
        in_time(ostler.stop()).await.unwrap();
        place.assert_nothing_left();
    }
}
