//! The end of a supervisor below a user's actor is observable however busy that actor is, even from
//! the actor itself.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ostler_supervisor::{ChildSpec, End, Shutdown, Supervisor, SupervisorOptions};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::support::{Bench, Command, OnStart, OnStop, cell, tell, within};

/// A future to await inside one of the parent's callbacks.
type Work = BoxFuture<'static, ()>;

/// The user's actor.
struct Parent;

enum Order {
    /// In `handle`.
    Now(Work),
    /// At the next end of a child, in `handle_supervisor_evt`.
    AtChildsEnd(Work),
    /// In `post_stop`.
    AtStop(Work),
}

#[cfg(feature = "cluster")]
impl ractor::Message for Order {}

#[derive(Default)]
struct Orders {
    at_childs_end: Option<Work>,
    at_stop: Option<Work>,
}

impl Actor for Parent {
    type Msg = Order;
    type State = Orders;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Order>, (): ()) -> Result<Orders, ActorProcessingErr> {
        Ok(Orders::default())
    }

    async fn handle(&self, _: ActorRef<Order>, order: Order, orders: &mut Orders) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Now(work) => work.await,
            Order::AtChildsEnd(work) => orders.at_childs_end = Some(work),
            Order::AtStop(work) => orders.at_stop = Some(work),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Order>,
        event: SupervisionEvent,
        orders: &mut Orders,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..) = event
            && let Some(work) = orders.at_childs_end.take()
        {
            // The event, and the child's state inside it, is alive meanwhile.
            work.await;
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Order>, orders: &mut Orders) -> Result<(), ActorProcessingErr> {
        if let Some(work) = orders.at_stop.take() {
            work.await;
        }
        Ok(())
    }
}

/// How the supervisor ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// By `Supervisor::stop`.
    Stopped,
    /// A child failed too often.
    GaveUp,
    /// By ractor's `stop`.
    StoppedByRactor,
    /// By ractor's `kill`.
    Killed,
    /// By ractor's `kill` while it waits for a child that hangs in its `post_stop`.
    KilledWhileStopping,
}

const ALL: [How; 5] = [
    How::Stopped,
    How::GaveUp,
    How::StoppedByRactor,
    How::Killed,
    How::KilledWhileStopping,
];

impl How {
    async fn end(self, bench: Bench, supervisor: Supervisor) {
        match self {
            How::Stopped => supervisor.request_stop(),
            How::GaveUp => tell(&cell(&supervisor, "child").await, Command::Fail),
            How::StoppedByRactor => supervisor.cell().stop(None),
            How::Killed => supervisor.cell().kill(),
            How::KilledWhileStopping => {
                supervisor.request_stop();
                bench.until_logged("stop child", 1).await;
                supervisor.cell().kill();
            }
        }
    }

    fn assert_is(self, end: Option<End>) {
        match (self, &end) {
            (How::Stopped, Some(End::Stopped)) | (How::GaveUp, Some(End::MaxIntensity { .. })) => {}
            (How::StoppedByRactor | How::Killed | How::KilledWhileStopping, None) => {}
            _ => panic!("{self:?}: {end:?}"),
        }
    }
}

/// A parent with a supervisor of one child below it.
async fn scene(how: How) -> (ActorRef<Order>, Bench, Supervisor) {
    let bench = Bench::new();
    let (parent, _) = Actor::spawn(None, Parent, ()).await.unwrap();
    let on_stop = match how {
        How::KilledWhileStopping => OnStop::Hang,
        _ => OnStop::Obey,
    };
    let child: ChildSpec = bench
        .child_that("child", |_| OnStart::Up, on_stop)
        .shutdown(Shutdown::Infinity);
    let options = SupervisorOptions::new().intensity(0, Duration::from_secs(3600));
    let started = Supervisor::spawn_linked(None, options, vec![child], parent.get_cell());
    let supervisor = within(started).await.unwrap();
    (parent, bench, supervisor)
}

/// Waits for the end inside one of the parent's callbacks and returns what it was.
fn waiting(
    work: impl Future<Output = ()> + Send + 'static,
    supervisor: Supervisor,
) -> (Work, oneshot::Receiver<Option<End>>) {
    let (reply, seen) = oneshot::channel();
    let work = async move {
        work.await;
        let _ = reply.send(supervisor.wait().await);
    };
    (Box::pin(work), seen)
}

#[tokio::test]
async fn end_is_observable_in_a_handler_of_the_parent() {
    for how in ALL {
        let (parent, bench, supervisor) = scene(how).await;
        let (work, seen) = waiting(how.end(bench.clone(), supervisor.clone()), supervisor);
        parent.cast(Order::Now(work)).ok().unwrap();
        how.assert_is(within(seen).await.unwrap());
        bench.until_logged("gone child", 1).await;
        parent.stop(None);
    }
}

#[tokio::test]
async fn end_is_observable_while_the_parent_stops() {
    for how in ALL {
        let (parent, bench, supervisor) = scene(how).await;
        let (work, seen) = waiting(how.end(bench.clone(), supervisor.clone()), supervisor);
        parent.cast(Order::AtStop(work)).ok().unwrap();
        // A stop comes before waiting messages.
        let (reply, taken) = oneshot::channel();
        let taken_now = async move {
            let _ = reply.send(());
        };
        parent.cast(Order::Now(Box::pin(taken_now))).ok().unwrap();
        within(taken).await.unwrap();
        parent.stop(None);
        how.assert_is(within(seen).await.unwrap());
        bench.until_logged("gone child", 1).await;
    }
}

#[tokio::test]
async fn end_is_observable_in_the_parents_event_handler() {
    for how in ALL {
        let (parent, bench, supervisor) = scene(how).await;
        let (work, seen) = waiting(std::future::ready(()), supervisor.clone());
        parent.cast(Order::AtChildsEnd(work)).ok().unwrap();
        within(how.end(bench.clone(), supervisor)).await;
        how.assert_is(within(seen).await.unwrap());
        bench.until_logged("gone child", 1).await;
        parent.stop(None);
    }
}

#[tokio::test]
async fn end_is_observable_from_outside_while_the_parent_is_busy() {
    for how in ALL {
        let (parent, bench, supervisor) = scene(how).await;
        let (started, busy) = oneshot::channel();
        let (_hold, released) = oneshot::channel::<()>();
        let work = async move {
            let _ = started.send(());
            let _ = released.await;
        };
        parent.cast(Order::Now(Box::pin(work))).ok().unwrap();
        within(busy).await.unwrap();
        within(how.end(bench.clone(), supervisor.clone())).await;
        how.assert_is(within(supervisor.wait()).await);
        bench.until_logged("gone child", 1).await;
        parent.kill();
    }
}

/// A child's specification may hold its supervisor's handle. Both are dropped with the runtime.
#[test]
fn shut_down_runtime_frees_what_the_children_hold() {
    let held = std::sync::Arc::new(());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let kept = held.clone();
    let supervisor = runtime.block_on(async {
        let bench = Bench::new();
        let handle = std::sync::Arc::new(std::sync::OnceLock::<Supervisor>::new());
        let in_spec = (kept, handle.clone());
        let child = bench.child("child").gate(move |_| {
            let _kept = &in_spec;
            std::future::ready(())
        });
        let started = Supervisor::spawn(None, SupervisorOptions::new(), vec![child])
            .await
            .unwrap();
        handle.set(started.clone()).unwrap();
        started
    });
    drop(runtime);
    drop(supervisor);
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}
