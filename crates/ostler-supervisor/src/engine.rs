//! The supervision engine: the pure policy driven by ractor, as a plain struct for use inside any
//! actor.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use ostler_core::exit::ExitReason;
use ostler_core::moment::Moment;
use ostler_core::supervision::{
    CallId, ChildCounts, ChildId, ChildKey, ChildRef, DeleteChildError, Effect, End, Event, Policy, Reply, Report,
    Request, RestartChildError, SpecError, StartChildError, Target, TerminateChildError,
};
use ractor::{ActorCell, ActorId, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::answer::Answer;
use crate::child::{ChildSpec, Info, KeptSpec, Launch, NotStarted, StopFn};
use crate::exit::{Ending, Exit, Probe, SHUTDOWN};
use crate::launch::launch;
use crate::messages::{EngineMessage, News, Post, ToEngine, Up};
use crate::options::{Reporter, SupervisorOptions};
use crate::running::{ChildInfo, ChildStart, RunningChild};
use crate::trace::trace;

/// A supervisor for use inside an actor, whose children it starts, stops and restarts.
///
/// No method blocks. Each does what is possible immediately; the rest happens when the actor passes
/// on its [`EngineMessage`]s and *all* its supervision events. After each of these, the actor must
/// check [`ended`](Self::ended), and end itself if the engine has. If the actor ends in another
/// way, the children are killed, starts in progress are cancelled, and release gates still run in
/// tasks of their own.
pub struct Engine {
    policy: Policy<Launch>,
    myself: ActorCell,
    post: Post,
    reporter: Option<Reporter>,
    /// Reports are not logged.
    quiet: bool,
    starting: HashMap<ChildKey, Starting>,
    /// Boxed, because a map has room for four at first, and many supervisors have one child.
    live: HashMap<ChildKey, Box<Live>>,
    actors: HashMap<ActorId, ChildKey>,
    /// Exits of children whose start message has not arrived yet.
    early: HashMap<ActorId, Ending>,
    calls: HashMap<CallId, Answer>,
    next_call: u64,
    origin: Instant,
    alarm: Alarm,
    ready: Option<oneshot::Sender<Result<(), End>>>,
    ended: Option<End>,
}

impl Drop for Engine {
    /// The map is empty if the engine has ended by itself. Otherwise the actor was killed or
    /// panicked. ractor then kills the children, except one that is in its `post_stop`, which would
    /// continue for as long as that takes.
    fn drop(&mut self) {
        for live in self.live.values() {
            live.cell.kill();
        }
    }
}

/// A start in progress.
struct Starting {
    /// Dropped to cancel the start; `None` afterwards.
    cancel: Option<oneshot::Sender<()>>,
    stop: Option<StopFn>,
}

/// A child that is running, or that has ended but is not yet released.
struct Live {
    incarnation: u64,
    cell: ActorCell,
    probe: Option<Arc<Probe>>,
    info: Option<Info>,
    stop: Option<StopFn>,
    /// The exit reason, once ractor has reported it.
    exit: Option<Exit>,
    /// Lets a child's release gate run. Dropping it, for example with the engine, has the same
    /// effect.
    enter_gate: Option<oneshot::Sender<()>>,
    asked: Asked,
}

/// How the engine ended a child.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    Nothing,
    Stop,
    Kill,
}

impl Engine {
    /// Creates an engine inside the actor `myself` with these children, which
    /// [`begin`](Self::begin) starts. `post` puts a message into the actor's mailbox; it is called
    /// from other tasks.
    ///
    /// # Errors
    ///
    /// If the flags or a child specification are invalid.
    pub fn new(
        options: SupervisorOptions,
        children: Vec<ChildSpec>,
        myself: ActorCell,
        post: impl Fn(EngineMessage) + Send + Sync + 'static,
    ) -> Result<Self, SpecError> {
        let children = children.into_iter().map(|child| child.spec).collect();
        let seed = RandomState::new().build_hasher().finish();
        let post: Post = Arc::new(post);
        Ok(Engine {
            policy: Policy::new(options.flags, children, seed)?,
            myself,
            alarm: Alarm::new(post.clone()),
            post,
            reporter: options.reporter,
            quiet: options.quiet,
            starting: HashMap::new(),
            live: HashMap::new(),
            actors: HashMap::new(),
            early: HashMap::new(),
            calls: HashMap::new(),
            next_call: 0,
            origin: Instant::now(),
            ready: None,
            ended: None,
        })
    }

    /// Starts the children, left to right. `ready` receives the result: all children are running,
    /// or why the supervisor ended.
    pub fn begin(&mut self, ready: oneshot::Sender<Result<(), End>>) {
        self.ready = Some(ready);
        self.feed(Event::Begin);
    }

    /// Handles one of the engine's own messages.
    pub fn handle(&mut self, message: EngineMessage) {
        match message.0 {
            ToEngine::Tick => {
                self.alarm.rang();
                self.feed(Event::Tick);
            }
            ToEngine::News {
                child,
                news: News::Up(up),
            } => self.up(&child, up),
            ToEngine::News {
                child,
                news: News::NotUp(error),
            } => self.not_up(&child, error),
            ToEngine::News {
                child,
                news: News::Over,
            } => self.over(child, false),
            ToEngine::OverBefore(child) => self.over(child, true),
            ToEngine::News {
                child,
                news: News::Released,
            } => self.released(child.key),
        }
    }

    /// Handles a supervision event of the actor. Events about other actors are ignored.
    pub fn on_supervision_event(&mut self, event: SupervisionEvent) {
        let Some((actor, ending)) = Ending::read(event) else {
            return;
        };
        let Some(&key) = self.actors.get(&actor) else {
            if !self.starting.is_empty() {
                self.early.insert(actor, ending);
            }
            return;
        };
        if let Some(live) = self.live.get_mut(&key) {
            live.exit = Some(ending.exit(live.probe.as_deref()));
        }
    }

    /// Stops the children, right to left (simple_one_for_one: in parallel), then
    /// [ends](Self::ended). Idempotent; accepted at any time.
    pub fn stop(&mut self) {
        self.feed(Event::Stop);
    }

    /// Why the engine ended, once it has. No child is left then, and the actor must end with
    /// [`End::exit_reason`].
    pub fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// Adds a child and starts it. The reply comes once it is running; it is dropped if the
    /// supervisor is.
    pub fn start_child(&mut self, spec: ChildSpec, reply: oneshot::Sender<Result<ChildStart, StartChildError>>) {
        self.call(Request::StartChild(spec.spec), Answer::Start(reply));
    }

    /// Stops a child. The reply comes once it is gone and released. Its specification is kept,
    /// unless it is temporary or dynamic.
    pub fn terminate_child(&mut self, target: Target, reply: oneshot::Sender<Result<(), TerminateChildError>>) {
        self.call(Request::TerminateChild(target), Answer::Terminate(reply));
    }

    /// Starts a child that is not running.
    pub fn restart_child(&mut self, id: ChildId, reply: oneshot::Sender<Result<ChildStart, RestartChildError>>) {
        self.call(Request::RestartChild(id), Answer::Restart(reply));
    }

    /// Removes the specification of a child that is not running.
    pub fn delete_child(&mut self, id: ChildId, reply: oneshot::Sender<Result<(), DeleteChildError>>) {
        self.call(Request::DeleteChild(id), Answer::Delete(reply));
    }

    /// The children in start order.
    pub fn which_children(&self) -> Vec<ChildInfo> {
        let with_actor = |info: ostler_core::supervision::ChildInfo| {
            let live = self.live.get(&info.child.key);
            ChildInfo {
                cell: live.map(|live| live.cell.clone()),
                info: live.and_then(|live| live.info.clone()),
                child: info.child,
                status: info.status,
                kind: info.kind,
            }
        };
        self.policy.which_children().into_iter().map(with_actor).collect()
    }

    /// Counts the children.
    pub fn count_children(&self) -> ChildCounts {
        self.policy.count_children()
    }

    /// The specification of a child. A temporary child's start is not kept.
    pub fn child_spec(&self, id: &ChildId) -> Option<KeptSpec> {
        self.policy.child_spec(id)
    }

    fn call(&mut self, request: Request<Launch>, answer: Answer) {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.calls.insert(call, answer);
        self.feed(Event::Call(call, request));
    }

    fn up(&mut self, child: &ChildRef, up: Up) {
        let stop = self.starting.remove(&child.key).and_then(|starting| starting.stop);
        let exit = self
            .early
            .remove(&up.cell.get_id())
            .map(|ending| ending.exit(up.probe.as_deref()));
        self.forget_foreign_exits();
        self.actors.insert(up.cell.get_id(), child.key);
        let Up {
            cell,
            probe,
            info,
            enter_gate,
        } = up;
        let incarnation = child.incarnation;
        let live = Live {
            incarnation,
            cell,
            probe,
            info,
            stop,
            exit,
            enter_gate,
            asked: Asked::Nothing,
        };
        self.live.insert(child.key, Box::new(live));
        self.feed(Event::Started(child.key, incarnation));
    }

    fn not_up(&mut self, child: &ChildRef, error: NotStarted) {
        self.starting.remove(&child.key);
        self.forget_foreign_exits();
        let (key, incarnation) = (child.key, child.incarnation);
        self.feed(match error {
            NotStarted::Ignored => Event::Ignored(key, incarnation),
            NotStarted::Failed(Exit { reason, counted }) => Event::StartFailed {
                key,
                incarnation,
                reason,
                counted,
            },
        });
    }

    /// Without a start in progress, no early exit can belong to a child any more.
    fn forget_foreign_exits(&mut self) {
        if self.starting.is_empty() {
            // Most supervisors start nothing more for long, and a map keeps its memory.
            (self.starting, self.early) = (HashMap::new(), HashMap::new());
        }
    }

    /// The actor's task has finished. ractor's event was sent earlier but may still be behind this
    /// message, because the two come through different queues. After another trip through the
    /// mailbox the event has been handled, or will never come because the actor was unlinked. The
    /// event owns the actor's state, so only then is the state dropped and the gate may run.
    fn over(&mut self, child: ChildRef, events_are_through: bool) {
        let Some(live) = self.live.get_mut(&child.key) else {
            return;
        };
        if live.exit.is_none() && !events_are_through {
            return (self.post)(EngineMessage(ToEngine::OverBefore(child)));
        }
        if live.exit.is_none() {
            live.exit = Some(live.exit_unseen().into());
        }
        match live.enter_gate.take() {
            // The gate's task cannot be gone: it sends `Released` even if the gate panics.
            Some(enter_gate) => drop(enter_gate.send(())),
            None => self.released(child.key),
        }
    }

    fn released(&mut self, key: ChildKey) {
        let Some(live) = self.live.remove(&key) else { return };
        self.actors.remove(&live.cell.get_id());
        let incarnation = live.incarnation;
        if let Some(Exit { reason, counted }) = live.exit {
            self.feed(Event::Ended {
                key,
                incarnation,
                reason,
                counted,
            });
        }
    }

    fn feed(&mut self, event: Event<Launch>) {
        let now = Moment::after_origin(self.origin.elapsed());
        for effect in self.policy.handle(event, now) {
            self.perform(effect);
        }
        // A deadline beyond the clock's last instant, as of `Duration::MAX`, never comes.
        let instant = |due: Moment| Some((due, self.origin.checked_add(due.since_origin())?));
        self.alarm.set(self.policy.next_deadline().and_then(instant), now);
    }

    fn perform(&mut self, effect: Effect<Launch>) {
        match effect {
            Effect::Start { child, start } => {
                let (key, stop) = (child.key, start.stop.clone());
                let cancel = Some(launch(child, start, self.myself.clone(), self.post.clone()));
                self.starting.insert(key, Starting { cancel, stop });
            }
            Effect::CancelStart(key, _) => {
                if let Some(starting) = self.starting.get_mut(&key) {
                    starting.cancel = None;
                }
            }
            Effect::Stop(key, _) => self.ask_to_stop(key),
            Effect::Kill(key, _) => self.kill(key),
            Effect::Reply(call, reply) => self.answer(call, reply),
            Effect::Report(report) => self.report(report),
            Effect::Ready => self.tell_ready(Ok(())),
            Effect::End(end) => {
                self.tell_ready(Err(end.clone()));
                self.ended = Some(end);
            }
        }
    }

    fn ask_to_stop(&mut self, key: ChildKey) {
        let Some(live) = self.live.get_mut(&key) else { return };
        live.asked = Asked::Stop;
        match &live.stop {
            Some(stop) => stop(&live.cell),
            None => live.cell.stop(Some(SHUTDOWN.to_owned())),
        }
    }

    fn kill(&mut self, key: ChildKey) {
        let Some(live) = self.live.get_mut(&key) else { return };
        live.asked = Asked::Kill;
        live.cell.kill();
    }

    fn answer(&mut self, call: CallId, reply: Reply) {
        if let Some(answer) = self.calls.remove(&call) {
            answer.give(reply, |child| {
                self.live.get(&child.key).map(|live| RunningChild {
                    child,
                    cell: live.cell.clone(),
                    info: live.info.clone(),
                })
            });
        }
    }

    fn report(&self, report: Report) {
        if !self.quiet {
            trace(&self.myself, &report);
        }
        if let Some(reporter) = &self.reporter {
            reporter(report);
        }
    }

    fn tell_ready(&mut self, outcome: Result<(), End>) {
        if let Some(ready) = self.ready.take() {
            // The caller may be gone; the supervisor continues.
            let _ = ready.send(outcome);
        }
    }
}

impl Live {
    /// The exit reason of a child that was no longer linked to the supervisor.
    fn exit_unseen(&self) -> ExitReason {
        let orderly = self.probe.as_deref().is_some_and(Probe::stopped_orderly);
        match (self.asked, orderly) {
            (Asked::Kill, _) => ExitReason::Killed,
            (Asked::Stop, true) => ExitReason::SHUTDOWN,
            (Asked::Nothing, true) => ExitReason::Normal,
            (Asked::Stop | Asked::Nothing, false) => {
                ExitReason::failed("the child ended while it was not linked to its supervisor")
            }
        }
    }
}
