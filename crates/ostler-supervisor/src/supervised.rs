//! Wraps an actor so that its supervisor learns how it ended.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::exit::Probe;

/// Forwards everything to `actor`, and records that `post_stop` was reached.
pub(crate) struct Supervised<A> {
    pub(crate) actor: A,
    pub(crate) probe: Arc<Probe>,
}

/// None of these is an async function, which would keep room for its arguments beside those of the
/// function that it calls, for as long as the actor lives.
impl<A: Actor> Actor for Supervised<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> impl Future<Output = Result<Self::State, ActorProcessingErr>> + Send {
        self.actor.pre_start(myself, args)
    }

    fn post_start(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.actor.post_start(myself, state)
    }

    fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.probe.note_orderly_stop();
        self.actor.post_stop(myself, state)
    }

    fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.actor.handle(myself, message, state)
    }

    #[cfg(feature = "cluster")]
    fn handle_serialized(
        &self,
        myself: ActorRef<Self::Msg>,
        message: ractor::message::SerializedMessage,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.actor.handle_serialized(myself, message, state)
    }

    fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.actor.handle_supervisor_evt(myself, event, state)
    }
}
