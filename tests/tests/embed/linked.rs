//! An instance below a supervisor of the app: either one's end reaches the other.

use std::time::Duration;

use ostler::{EventKind, Ostler};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

use super::scene::{Place, Seen, WORST, assert_no_runs, in_time};

/// Reports every child that ends.
struct App(mpsc::UnboundedSender<ActorId>);

/// How the app ends.
enum Order {
    Panic,
}

impl Actor for App {
    type Msg = Order;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Order>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Order>, order: Order, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Panic => panic!("requested by the test"),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Order>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(child, ..) | SupervisionEvent::ActorFailed(child, _) = event {
            self.0.send(child.get_id())?;
        }
        Ok(())
    }
}

async fn under_an_app(place: &Place) -> (ActorRef<Order>, mpsc::UnboundedReceiver<ActorId>, Ostler, Seen) {
    let (sender, ended) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App(sender), ()).await.unwrap();
    let builder = place.builder().parent_grace(Duration::from_millis(100));
    let mut seen = Seen::new(builder.subscribe());
    let ostler = in_time(builder.start_linked(app.get_cell())).await.unwrap();
    let mut spec = place.pool("p", WORST);
    spec.workers = 2;
    spec.worker.stop.grace = Duration::from_secs(3600);
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(6);
    (app, ended, ostler, seen)
}

async fn assert_app_end_leaves_nothing(end: impl FnOnce(&ActorRef<Order>)) {
    let place = Place::new();
    let (app, _ended, ostler, mut seen) = under_an_app(&place).await;
    end(&app);
    let report = in_time(ostler.ended()).await;
    assert!(report.is_success(), "{report}");
    seen.until_run_stopped().await;
    seen.assert_balanced();
    place.assert_nothing_left();
    let refused = in_time(ostler.pool_from(place.pool("late", "sleep")).start()).await;
    assert!(matches!(refused, Err(ostler::PoolError::Stopping)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_is_stopped() {
    assert_app_end_leaves_nothing(|app| app.stop(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_is_killed() {
    assert_app_end_leaves_nothing(|app| app.get_cell().kill()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_panics() {
    assert_app_end_leaves_nothing(|app| app.cast(Order::Panic).unwrap()).await;
}

/// ractor does not kill an actor that is in its `post_stop`, which is where a worker waits for its
/// grace.
#[tokio::test(flavor = "multi_thread")]
async fn supervisor_is_killed_during_a_workers_grace() {
    let place = Place::new();
    let (app, _ended, ostler, mut seen) = under_an_app(&place).await;
    let pool = ostler.pools().remove(0);
    let restarting = tokio::spawn(async move { pool.restart_worker(0).await });
    seen.kind(EventKind::WorkerStopping).await;
    app.get_cell().kill();
    in_time(ostler.ended()).await;
    in_time(restarting).await.unwrap().unwrap_err();
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn supervisor_sees_the_end_of_the_instance() {
    let place = Place::new();
    let (app, mut ended, ostler, _seen) = under_an_app(&place).await;
    let root: ActorCell = ostler.cell();
    ostler.killer().kill();
    in_time(ostler.stop()).await.unwrap();
    assert_eq!(in_time(ended.recv()).await, Some(root.get_id()));
    place.assert_nothing_left();
    app.stop(None);

    let place = Place::new();
    let (app, mut ended, ostler, mut seen) = under_an_app(&place).await;
    let root = ostler.cell();
    drop(ostler);
    assert_eq!(in_time(ended.recv()).await, Some(root.get_id()));
    seen.until_run_stopped().await;
    place.assert_gone(Duration::from_secs(1));
    assert_no_runs(&place.state());
    app.stop(None);
}
