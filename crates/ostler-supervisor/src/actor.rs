//! The actor of a supervisor: a thin wrapper around an engine.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use ostler_core::exit::ExitReason;
use ostler_core::supervision::End;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{Notify, oneshot};

use crate::child::ChildSpec;
use crate::engine::Engine;
use crate::exit::SHUTDOWN;
use crate::messages::{ReplyTo, SupervisorMessage};
use crate::options::SupervisorOptions;

/// The arguments of a supervisor's actor.
pub(crate) struct SupervisorArguments {
    pub(crate) options: SupervisorOptions,
    pub(crate) children: Vec<ChildSpec>,
    pub(crate) ready: oneshot::Sender<Result<(), End>>,
    pub(crate) shared: Arc<Shared>,
}

/// The engine, outside the actor's state.
///
/// ractor moves the state of an actor that ends into its parent's mailbox, where it stays until the
/// parent handles the event. If the parent itself waits for this end, that is never. Everything
/// that must be dropped with the actor is therefore stored here, and [`Over`] drops it.
#[derive(Default)]
pub(crate) struct Shared {
    running: Mutex<Option<Running>>,
    end: OnceLock<End>,
    /// Whether the actor's task has finished and the engine is dropped, and who waits for that.
    is_over: AtomicBool,
    over: Notify,
}

struct Running {
    engine: Engine,
    /// Taken when the children are started.
    ready: Option<oneshot::Sender<Result<(), End>>>,
}

impl Shared {
    /// Why the supervisor ended. `None` if it was ended by ractor's own `stop` or `kill`.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().cloned()
    }

    /// Waits until the actor's task has finished and the engine is dropped. Cancel safe.
    pub(crate) async fn over(&self) {
        // Before the look, so that it is woken by whatever happens after it.
        let over = self.over.notified();
        if !self.is_over.load(Ordering::Acquire) {
            over.await;
        }
    }

    fn replace(&self, running: Option<Running>) -> Option<Running> {
        let mut held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, running)
    }

    /// Runs `act` with the engine, then ends the actor if the engine has ended.
    fn with(&self, myself: &ActorRef<SupervisorMessage>, act: impl FnOnce(&mut Running)) {
        let mut held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = held.as_mut() else { return };
        act(running);
        if let Some(end) = running.engine.ended() {
            let reason = match end.exit_reason() {
                ExitReason::Shutdown(Some(why)) => why,
                _ => SHUTDOWN.to_owned(),
            };
            // The engine ends only once.
            let _ = self.end.set(end.clone());
            myself.stop(Some(reason));
        }
    }
}

/// Waits for the end of the actor's task, whatever happens to the actor's state, then drops the
/// engine and notifies the waiting handles. It has to be polled from the start on: a start that its
/// actor does not survive ends by it.
pub(crate) struct Over {
    join: BoxFuture<'static, ()>,
    /// `None` when it is over.
    last: Option<Last>,
}

impl Over {
    /// `join` completes when the actor's task has finished.
    pub(crate) fn new(join: BoxFuture<'static, ()>, shared: &Arc<Shared>) -> Self {
        let last = Some(Last(Arc::clone(shared)));
        Self { join, last }
    }
}

impl Future for Over {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.last.is_some() {
            ready!(self.join.as_mut().poll(context));
            self.last = None;
        }
        Poll::Ready(())
    }
}

/// Drops the engine, then notifies the waiting handles. This happens on drop because a runtime that
/// shuts down drops the task: the engine must go then too, since its children's specifications may
/// hold handles of this very supervisor.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        drop(self.0.replace(None));
        self.0.is_over.store(true, Ordering::Release);
        self.0.over.notify_waiters();
    }
}

pub(crate) struct SupervisorActor;

impl Actor for SupervisorActor {
    type Msg = SupervisorMessage;
    type State = Arc<Shared>;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let SupervisorArguments {
            options,
            children,
            ready,
            shared,
        } = arguments;
        let mailbox = myself.clone();
        let engine = Engine::new(options, children, myself.get_cell(), move |message| {
            // A supervisor that is gone does not need messages about its children.
            let _ = mailbox.cast(SupervisorMessage::Engine(message));
        })?;
        let ready = Some(ready);
        shared.replace(Some(Running { engine, ready }));
        Ok(shared)
    }

    async fn post_start(
        &self,
        myself: ActorRef<Self::Msg>,
        shared: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        shared.with(&myself, |running| {
            if let Some(ready) = running.ready.take() {
                running.engine.begin(ready);
            }
        });
        Ok(())
    }

    // Neither waits for anything. As async functions they would keep room for their arguments for
    // as long as the actor lives.
    fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        shared: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        shared.with(&myself, |running| handle(&mut running.engine, message));
        std::future::ready(Ok(()))
    }

    fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        shared: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        shared.with(&myself, |running| running.engine.on_supervision_event(event));
        std::future::ready(Ok(()))
    }
}

fn handle(engine: &mut Engine, message: SupervisorMessage) {
    match message {
        SupervisorMessage::Engine(message) => engine.handle(message),
        SupervisorMessage::Stop => engine.stop(),
        SupervisorMessage::StartChild(spec, reply) => engine.start_child(*spec, reply),
        SupervisorMessage::TerminateChild(target, reply) => engine.terminate_child(target, reply),
        SupervisorMessage::RestartChild(id, reply) => engine.restart_child(id, reply),
        SupervisorMessage::DeleteChild(id, reply) => engine.delete_child(id, reply),
        SupervisorMessage::WhichChildren(reply) => give(reply, engine.which_children()),
        SupervisorMessage::CountChildren(reply) => give(reply, engine.count_children()),
        SupervisorMessage::GetChildSpec(id, reply) => give(reply, engine.child_spec(&id)),
    }
}

fn give<T>(reply: ReplyTo<T>, value: T) {
    // The caller may be gone.
    let _ = reply.send(value);
}
