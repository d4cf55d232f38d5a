//! A linked instance, used from inside the actor that it is linked under: every combination of who
//! waits and how it ended.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ostler::{EventKind, Ostler, Ready, RunGaveUp, StopReport};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};

use super::scene::{Place, Seen, in_time};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An app that does what a test orders, in the callback that it names.
struct App;

enum Order {
    /// In `handle`.
    Now(Work),
    /// In `handle_supervisor_evt`, at the next end of a child.
    AtChildsEnd(Work),
    /// In `post_stop`.
    AtStop(Work),
    /// Keep the instance's handle in the state.
    Keep(Ostler),
    Panic,
}

struct State {
    ends: mpsc::UnboundedSender<End>,
    at_childs_end: Option<Work>,
    at_stop: Option<Work>,
    kept: Option<Ostler>,
}

/// How a child ended, as its parent sees it.
#[derive(Debug, PartialEq)]
enum End {
    Terminated(Option<String>),
    GaveUp(String),
    Failed(String),
}

impl Actor for App {
    type Msg = Order;
    type State = State;
    type Arguments = mpsc::UnboundedSender<End>;

    async fn pre_start(
        &self,
        _: ActorRef<Order>,
        ends: mpsc::UnboundedSender<End>,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            ends,
            at_childs_end: None,
            at_stop: None,
            kept: None,
        })
    }

    async fn handle(&self, _: ActorRef<Order>, order: Order, state: &mut State) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Now(work) => work.await,
            Order::AtChildsEnd(work) => state.at_childs_end = Some(work),
            Order::AtStop(work) => state.at_stop = Some(work),
            Order::Keep(ostler) => state.kept = Some(ostler),
            Order::Panic => panic!("requested by the test"),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Order>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let end = match &event {
            SupervisionEvent::ActorTerminated(_, _, reason) => End::Terminated(reason.clone()),
            SupervisionEvent::ActorFailed(_, error) => match error.downcast_ref::<RunGaveUp>() {
                Some(why) => End::GaveUp(why.part.clone()),
                None => End::Failed(error.to_string()),
            },
            _ => return Ok(()),
        };
        if let Some(work) = state.at_childs_end.take() {
            work.await;
        }
        state.ends.send(end)?;
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Order>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Some(work) = state.at_stop.take() {
            work.await;
        }
        Ok(())
    }
}

struct Scene {
    place: Place,
    app: ActorRef<Order>,
    ends: mpsc::UnboundedReceiver<End>,
    ostler: Ostler,
    seen: Seen,
}

/// An app, and an instance with one worker linked under it.
async fn scene(modes: &str, grace: Duration) -> Scene {
    let place = Place::new();
    let (sender, ends) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App, sender).await.unwrap();
    let builder = place.builder();
    let mut seen = Seen::new(builder.subscribe());
    let ostler = in_time(builder.start_linked(app.get_cell())).await.unwrap();
    let mut spec = place.pool("p", modes);
    spec.worker.stop.grace = grace;
    if modes == "exit-on-term" {
        spec.worker.ready = Some(Ready::Line("ready to serve".into()));
    }
    ostler.add_pool(spec).await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    Scene {
        place,
        app,
        ends,
        ostler,
        seen,
    }
}

impl Scene {
    async fn new() -> Self {
        scene("sleep", Duration::from_millis(50)).await
    }

    async fn order(&self, order: Order) {
        self.app.cast(order).ok().unwrap();
        // A stop, or a child's end, comes before the messages that wait.
        let (reply, taken) = oneshot::channel();
        let now = async move {
            let _ = reply.send(());
        };
        self.app.cast(Order::Now(Box::pin(now))).ok().unwrap();
        in_time(taken).await.unwrap();
    }

    async fn assert_over(mut self, report: StopReport) {
        assert!(report.is_clean(), "{report}");
        self.seen.until_run_stopped().await;
        self.seen.assert_balanced();
        self.place.assert_nothing_left();
        self.app.stop(None);
    }
}

/// How the instance ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Stopped,
    /// ractor's `kill` of the instance's actor.
    Killed,
}

const ALL: [How; 2] = [How::Stopped, How::Killed];

impl How {
    fn begin(self, ostler: &Ostler) {
        match self {
            How::Stopped => ostler.request_stop(),
            How::Killed => ostler.cell().kill(),
        }
    }

    fn seen_as(self) -> End {
        End::Terminated(Some(match self {
            How::Stopped => "shutdown".to_owned(),
            How::Killed => "killed".to_owned(),
        }))
    }
}

/// Ends the instance and waits for that, and hands out its report.
fn ending(how: How, ostler: &Ostler) -> (Work, oneshot::Receiver<StopReport>) {
    let (reply, report) = oneshot::channel();
    let ostler = ostler.clone();
    let work = async move {
        how.begin(&ostler);
        let _ = reply.send(ostler.ended().await);
    };
    (Box::pin(work), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_while_a_handler_of_its_parent_waits_for_it() {
    for how in ALL {
        let mut scene = Scene::new().await;
        let (work, report) = ending(how, &scene.ostler);
        scene.app.cast(Order::Now(work)).ok().unwrap();
        let report = in_time(report).await.unwrap();
        assert_eq!(in_time(scene.ends.recv()).await, Some(how.seen_as()));
        scene.assert_over(report).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_while_its_parent_stops_and_waits_for_it() {
    for how in ALL {
        let scene = Scene::new().await;
        let (work, report) = ending(how, &scene.ostler);
        scene.order(Order::AtStop(work)).await;
        scene.app.stop(None);
        let report = in_time(report).await.unwrap();
        scene.assert_over(report).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_end_can_be_awaited_by_the_parent_that_sees_it() {
    for how in ALL {
        let mut scene = Scene::new().await;
        let (reply, report) = oneshot::channel();
        let ostler = scene.ostler.clone();
        let work = async move {
            let _ = reply.send(ostler.ended().await);
        };
        scene.order(Order::AtChildsEnd(Box::pin(work))).await;
        how.begin(&scene.ostler);
        let report = in_time(report).await.unwrap();
        assert_eq!(in_time(scene.ends.recv()).await, Some(how.seen_as()));
        scene.assert_over(report).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_parent_does_not_delay_it() {
    for how in ALL {
        let scene = Scene::new().await;
        let (started, busy) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let work = async move {
            let _ = started.send(());
            let _ = released.await;
        };
        scene.app.cast(Order::Now(Box::pin(work))).ok().unwrap();
        in_time(busy).await.unwrap();
        how.begin(&scene.ostler);
        let report = in_time(scene.ostler.ended()).await;
        drop(release);
        scene.assert_over(report).await;
    }
}

/// The worker ends by TERM: with a KILL there would be no exit status 0.
async fn assert_graceful(mut scene: Scene, end: impl FnOnce(&ActorRef<Order>)) {
    end(&scene.app);
    let stopping = scene.seen.kind(EventKind::WorkerStopping).await;
    assert_eq!(stopping.facts.cause, Some(ostler::Cause::ParentEnded));
    assert_eq!(stopping.facts.signal, Some(ostler::Signal::TERM));
    scene.seen.until_run_stopped().await;
    scene.seen.assert_balanced();
    let exited = scene
        .seen
        .events
        .iter()
        .find(|event| event.kind == EventKind::WorkerExited);
    assert_eq!(
        exited.unwrap().facts.exit,
        Some(ostler::ExitStatus::Code(0)),
        "{}",
        scene.seen.story()
    );
    scene.place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_order_when_its_parent_ends() {
    let ends: [fn(&ActorRef<Order>); 3] = [
        |app| app.stop(None),
        |app| app.get_cell().kill(),
        |app| app.cast(Order::Panic).ok().unwrap(),
    ];
    for end in ends {
        assert_graceful(scene("exit-on-term", Duration::from_secs(3600)).await, end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_order_when_the_parent_that_ends_holds_its_last_handle() {
    let mut scene = scene("exit-on-term", Duration::from_secs(3600)).await;
    let ostler = scene.ostler.clone();
    scene.order(Order::Keep(ostler)).await;
    // The test's own handle is replaced by that of an instance that has ended.
    let other = Place::new();
    let spare = other.builder().start().await.unwrap();
    spare.stop().await.unwrap();
    scene.ostler = spare;
    assert_graceful(scene, |app| app.stop(None)).await;
}

/// A worker that ignores TERM, with a grace of an hour.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_parents_end_kills() {
    let place = Place::new();
    let (sender, _ends) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App, sender).await.unwrap();
    let builder = place.builder().parent_grace(Duration::from_millis(200));
    let mut seen = Seen::new(builder.subscribe());
    let ostler = in_time(builder.start_linked(app.get_cell())).await.unwrap();
    let mut spec = place.pool("p", "ignore-term+sleep");
    spec.worker.stop.grace = Duration::from_secs(3600);
    ostler.add_pool(spec).await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    app.stop(None);
    let report = in_time(ostler.ended()).await;
    assert!(report.is_success(), "{report}");
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_sees_that_the_root_gave_up() {
    let mut scene = Scene::new().await;
    let guardian_loop = async {
        loop {
            if let Some(pid) = scene.ostler.guardian_pid() {
                ostler_tests::send(pid, nix::sys::signal::Signal::SIGKILL);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        end = in_time(scene.ends.recv()) => assert_eq!(end, Some(End::GaveUp("guardian".to_owned()))),
        () = guardian_loop => {}
    }
    let report = in_time(scene.ostler.ended()).await;
    assert_eq!(
        report.root_gave_up.as_ref().map(|why| why.part.as_str()),
        Some("guardian")
    );
    scene.assert_over(report).await;
}
