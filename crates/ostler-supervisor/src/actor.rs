//! The actor of a supervisor: an engine and nothing else.

use ostler_core::exit::ExitReason;
use ostler_core::supervision::End;
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
    pub(crate) end: watch::Sender<Option<End>>,
}

pub(crate) struct SupervisorState {
    engine: Engine,
    /// Taken when the children are started.
    ready: Option<oneshot::Sender<Result<(), End>>>,
    /// Dropped with the state: whoever waits for the end knows then that nothing is left.
    end: watch::Sender<Option<End>>,
}

pub(crate) struct SupervisorActor;

impl Actor for SupervisorActor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
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
            end,
        } = arguments;
        let mailbox = myself.clone();
        let engine = Engine::new(options, children, myself.get_cell(), move |message| {
            // A supervisor that is gone has no use for news of its children.
            let _ = mailbox.cast(SupervisorMessage::Engine(message));
        })?;
        Ok(SupervisorState {
            engine,
            ready: Some(ready),
            end,
        })
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        if let Some(ready) = state.ready.take() {
            state.engine.begin(ready);
        }
        end_if_ended(&myself, state);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let engine = &mut state.engine;
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
        end_if_ended(&myself, state);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.engine.on_supervision_event(event);
        end_if_ended(&myself, state);
        Ok(())
    }
}

fn end_if_ended(myself: &ActorRef<SupervisorMessage>, state: &mut SupervisorState) {
    if let Some(end) = state.engine.ended() {
        let reason = match end.exit_reason() {
            ExitReason::Shutdown(Some(why)) => why,
            _ => SHUTDOWN.to_owned(),
        };
        state.end.send_replace(Some(end.clone()));
        myself.stop(Some(reason));
    }
}

fn give<T>(reply: ReplyTo<T>, value: T) {
    // Whoever asked may have gone meanwhile.
    let _ = reply.send(value);
}
