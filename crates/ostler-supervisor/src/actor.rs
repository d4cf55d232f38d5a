//! The actor of a supervisor: an engine and nothing else.

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

/// What a supervisor's actor starts with.
pub(crate) struct SupervisorArguments {
    pub(crate) options: SupervisorOptions,
    pub(crate) children: Vec<ChildSpec>,
    pub(crate) ready: oneshot::Sender<Result<(), End>>,
    pub(crate) shared: Arc<Shared>,
}

/// The engine, outside the actor's state.
///
/// ractor moves the state of an actor that ends into its parent's mailbox, where it lies until the parent reads it: that may be
/// never, when the parent itself waits for this end. What has to go with the actor is here instead, and goes by [`accompany`].
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
    /// Why it ended; `None` when ractor's own means ended it.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().cloned()
    }

    fn replace(&self, running: Option<Running>) -> Option<Running> {
        let mut held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, running)
    }

    /// Does something with the engine, then ends the actor if the engine has ended.
    fn with(&self, myself: &ActorRef<SupervisorMessage>, act: impl FnOnce(&mut Running)) {
        let mut held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = held.as_mut() else { return };
        act(running);
        if let Some(end) = running.engine.ended() {
            let reason = match end.exit_reason() {
                ExitReason::Shutdown(Some(why)) => why,
                _ => SHUTDOWN.to_owned(),
            };
            // The engine ends once.
            let _ = self.end.set(end.clone());
            myself.stop(Some(reason));
        }
    }
}

/// Waits for the end of a supervisor's actor by its task, whatever becomes of the actor's state, and drops the engine then. The
/// receiver's sender is dropped after that. The handle is that of the task that does so.
pub(crate) fn accompany(join: JoinHandle<()>, shared: &Arc<Shared>) -> (watch::Receiver<()>, JoinHandle<()>) {
    let (alive, over) = watch::channel(());
    let last = Last {
        shared: Arc::clone(shared),
        _alive: alive,
    };
    let task = tokio::spawn(async move {
        // An actor's task catches its panics: an error says that the runtime is shutting down, and the task is gone either way.
        let _ = join.await;
        drop(last);
    });
    (over, task)
}

/// Drops the engine, then tells those who wait. A runtime that shuts down drops the task that holds it: the engine must go then,
/// too, for its children's specifications may hold handles of this very supervisor.
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
            // A supervisor that is gone has no use for news of its children.
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
    // The caller may have gone meanwhile.
    let _ = reply.send(value);
}
