//! An instance as a child of an OTP supervisor.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ostler::supervisor::{ChildStatus, End, Supervisor, SupervisorOptions};
use ostler::{EventKind, Ostler, PoolSpec, Ready};

use super::scene::{Place, Seen, in_time};

fn pool(place: &Place) -> PoolSpec {
    let mut spec = place.pool("p", "exit-on-term");
    spec.worker.ready = Some(Ready::Line("ready to serve".into()));
    spec.worker.stop.grace = Duration::from_secs(3600);
    spec
}

async fn instance(supervisor: &Supervisor) -> Ostler {
    let child = supervisor.child("workers").await.unwrap().unwrap();
    assert_eq!(child.status, ChildStatus::Running);
    child.info_as().expect("it is up")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_restarted_with_its_pools_and_stopped_in_order() {
    let place = Place::new();
    let (app, state) = (place.app(), place.state());
    // The events of each incarnation, from its first on.
    let streams = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&streams);
    let make = move || {
        let builder = Ostler::builder(app.clone()).state_dir(state.clone());
        kept.lock().unwrap().push(builder.subscribe());
        builder
    };
    let spec = Ostler::child_spec("workers", make, [pool(&place)]);
    let options = SupervisorOptions::new().intensity(3, Duration::from_secs(3600));
    let supervisor = in_time(Supervisor::spawn(None, options, vec![spec])).await.unwrap();
    let first = instance(&supervisor).await;
    in_time(first.pools()[0].wait_ready()).await.unwrap();

    first.cell().kill();
    assert!(in_time(first.ended()).await.is_clean());
    let second = in_time(async {
        loop {
            let child = supervisor.child("workers").await.unwrap().unwrap();
            if child.child.incarnation == 2
                && let Some(ostler) = child.info_as::<Ostler>()
            {
                break ostler;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_ne!(first.run_id(), second.run_id());
    in_time(second.pools()[0].wait_ready()).await.unwrap();

    assert!(matches!(in_time(supervisor.stop()).await, Some(End::Stopped)));
    let mut seen = Seen::new(streams.lock().unwrap().pop().unwrap());
    let stopping = seen.kind(EventKind::WorkerStopping).await;
    assert_eq!(stopping.facts.cause, Some(ostler::Cause::InstanceStop));
    let exited = seen.kind(EventKind::WorkerExited).await;
    assert_eq!(exited.facts.exit, Some(ostler::ExitStatus::Code(0)));
    seen.until_run_stopped().await;
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_pool_is_refused_does_not_start_and_leaves_nothing() {
    let place = Place::new();
    let (app, state) = (place.app(), place.state());
    let mut wrong = pool(&place);
    wrong.name = "a b".into();
    let spec = Ostler::child_spec(
        "workers",
        move || Ostler::builder(app.clone()).state_dir(state.clone()),
        [pool(&place), wrong],
    );
    let started = in_time(Supervisor::spawn(None, SupervisorOptions::new(), vec![spec])).await;
    let error = ostler_core::chain::chain(&started.unwrap_err());
    assert!(error.contains("workers") && error.contains("\"a b\""), "{error}");
    place.assert_nothing_left();
}
