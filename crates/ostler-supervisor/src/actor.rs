//! The actor of a supervisor: a thin wrapper around an engine.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ostler_core::exit::ExitReason;
use ostler_core::supervision::End;
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};

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
/// that must be dropped with the actor is therefore stored here, and [`accompany`] drops it.
#[derive(Default)]
pub(crate) struct Shared {
    running: Mutex<Option<Running>>,
    end: OnceLock<End>,
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

/// Waits for the actor's task to finish, whatever happens to the actor's state, then drops the
/// engine and after it the receiver's sender. The returned handle is that of the waiting task.
pub(crate) fn accompany(join: JoinHandle<()>, shared: &Arc<Shared>) -> (watch::Receiver<()>, JoinHandle<()>) {
    let (alive, over) = watch::channel(());
    let last = Last {
        shared: Arc::clone(shared),
        _alive: alive,
    };
    let task = tokio::spawn(async move {
        // An actor's task catches its panics. An error means that the runtime is shutting down, and
        // the task is gone either way.
        let _ = join.await;
        drop(last);
    });
    (over, task)
}

/// Drops the engine, then notifies the waiting handles. This happens on drop because a runtime that
/// shuts down drops the task: the engine must go then too, since its children's specifications may
/// hold handles of this very supervisor.
struct Last {
    shared: Arc<Shared>,
    _alive: watch::Sender<()>,
}

impl Drop for Last {
    fn drop(&mut self) {
        drop(self.shared.replace(None));
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

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        shared: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        shared.with(&myself, |running| handle(&mut running.engine, message));
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        shared: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        shared.with(&myself, |running| running.engine.on_supervision_event(event));
        Ok(())
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
