//! Handles to supervisors.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ostler_core::exit::{ExitReason, Failure};
use ostler_core::supervision::{
    ChildCounts, ChildId, ChildRef, DeleteChildError, End, RestartChildError, SpecError, StartChildError, Target,
    TerminateChildError,
};
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::sync::oneshot;

use crate::actor::{Over, Shared, SupervisorActor, SupervisorArguments};
use crate::child::{ChildSpec, KeptSpec, until_finished};
use crate::messages::{ReplyTo, SupervisorMessage};
use crate::options::SupervisorOptions;
use crate::running::{ChildInfo, ChildStart};

/// A handle to a supervisor. Cheap to clone. Dropping it has no effect on the supervisor.
///
/// The handle of one that is a child of another supervisor stays valid across its restarts: it
/// always refers to the latest incarnation. While that is down, requests return [`Gone`] or
/// `Stopping`.
///
/// Every `async fn` here is cancel safe: once polled, what it orders happens even if its future is
/// dropped; a question is then not answered. A start is undone instead ([`Supervisor::spawn`]).
///
/// Use [`stop`](Self::stop), which stops the children in order and waits for them. ractor's own
/// `stop` and `kill` on the supervisor's actor make ractor kill the children in no particular
/// order; their release gates still run. A supervisor that is a child of another one is stopped
/// correctly by it.
#[derive(Clone)]
pub struct Supervisor {
    place: Arc<Place>,
}

/// Where the latest incarnation of a supervisor is found.
pub(crate) struct Place(RwLock<Incarnation>);

/// One actor of a supervisor.
#[derive(Clone)]
pub(crate) struct Incarnation {
    pub(crate) actor: ActorRef<SupervisorMessage>,
    pub(crate) shared: Arc<Shared>,
}

impl Incarnation {
    /// Waits until it has ended and nothing of it is left.
    async fn ended(self) -> Option<End> {
        self.shared.over().await;
        self.shared.end()
    }
}

impl Place {
    pub(crate) fn new(first: Incarnation) -> Arc<Self> {
        Arc::new(Self(RwLock::new(first)))
    }

    /// The supervisor was started again.
    pub(crate) fn renew(&self, next: Incarnation) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    fn latest(&self) -> Incarnation {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Supervisor").field(&self.cell()).finish()
    }
}

/// Why a supervisor did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The flags or a child specification are invalid.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// A child did not start. Those started before it were stopped again, in reverse order.
    #[error("child {child} did not start")]
    Child {
        /// The child.
        child: ChildRef,
        /// Why.
        #[source]
        reason: ExitReason,
    },
    /// The supervisor was stopped before all children were running.
    #[error("the supervisor was stopped while it was starting")]
    Stopped,
    /// ractor could not spawn the actor.
    #[error("the supervisor's actor did not start")]
    Spawn(#[source] Failure),
}

/// The error returned when the supervisor has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the supervisor has ended")]
pub struct Gone;

impl Supervisor {
    /// Starts a supervisor without a parent, and its children, left to right. Returns once they are
    /// running. `name` is for ractor's registry.
    ///
    /// Cancel safe: if the future is dropped, everything started so far is stopped in order.
    ///
    /// # Errors
    ///
    /// Returns [`SupervisorError`]; nothing is left running then.
    pub async fn spawn(
        name: Option<String>,
        options: SupervisorOptions,
        children: Vec<ChildSpec>,
    ) -> Result<Self, SupervisorError> {
        let (arguments, start) = arguments(options, children);
        let spawned = Actor::spawn(name, SupervisorActor, arguments).await;
        start.finish(spawned).await
    }

    /// The same, as a ractor child of `parent`, which can be any actor. To make it a child of a
    /// [`Supervisor`], use [`ChildSpec::supervisor`]. Cancel safe in the same way.
    ///
    /// # Errors
    ///
    /// Returns [`SupervisorError`]; nothing is left running then.
    pub async fn spawn_linked(
        name: Option<String>,
        options: SupervisorOptions,
        children: Vec<ChildSpec>,
        parent: ActorCell,
    ) -> Result<Self, SupervisorError> {
        let (arguments, start) = arguments(options, children);
        let spawned = Actor::spawn_linked(name, SupervisorActor, arguments, parent).await;
        start.finish(spawned).await
    }

    pub(crate) fn at(place: Arc<Place>) -> Self {
        Self { place }
    }

    /// The supervisor's actor, for ractor's registry, groups and links. A restart makes another
    /// one.
    pub fn cell(&self) -> ActorCell {
        self.place.latest().actor.get_cell()
    }

    /// Adds a child at the end and starts it. Returns once it is running. Cancel safe: once polled,
    /// the start continues.
    ///
    /// # Errors
    ///
    /// The same as in OTP ([`StartChildError`]). `Stopping` is also returned if the supervisor has
    /// ended.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<ChildStart, StartChildError> {
        let answer = self
            .ask(|reply| SupervisorMessage::StartChild(Box::new(spec), reply))
            .await;
        answer.unwrap_or(Err(StartChildError::Stopping))
    }

    /// Stops a child, given by id or key. Returns once it is gone and released. Its specification
    /// is kept, unless it is temporary. Idempotent. Cancel safe: once polled, the child is stopped.
    ///
    /// # Errors
    ///
    /// The same as in OTP ([`TerminateChildError`]). `Stopping` is also returned if the supervisor
    /// has ended.
    pub async fn terminate_child(&self, child: impl Into<Target>) -> Result<(), TerminateChildError> {
        let target = child.into();
        let answer = self.ask(|reply| SupervisorMessage::TerminateChild(target, reply)).await;
        answer.unwrap_or(Err(TerminateChildError::Stopping))
    }

    /// Starts a child that is specified but not running. Returns once it is running. Cancel safe:
    /// once polled, the start continues.
    ///
    /// # Errors
    ///
    /// The same as in OTP ([`RestartChildError`]). `Stopping` is also returned if the supervisor
    /// has ended.
    pub async fn restart_child(&self, id: impl Into<ChildId>) -> Result<ChildStart, RestartChildError> {
        let id = id.into();
        let answer = self.ask(|reply| SupervisorMessage::RestartChild(id, reply)).await;
        answer.unwrap_or(Err(RestartChildError::Stopping))
    }

    /// Removes the specification of a child that is not running. Cancel safe: once polled, it is
    /// removed.
    ///
    /// # Errors
    ///
    /// The same as in OTP ([`DeleteChildError`]). `Stopping` is also returned if the supervisor has
    /// ended.
    pub async fn delete_child(&self, id: impl Into<ChildId>) -> Result<(), DeleteChildError> {
        let id = id.into();
        let answer = self.ask(|reply| SupervisorMessage::DeleteChild(id, reply)).await;
        answer.unwrap_or(Err(DeleteChildError::Stopping))
    }

    /// The children in start order. Like the next methods, it is answered at any time, and is
    /// cancel safe because it changes nothing.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the supervisor has ended.
    pub async fn which_children(&self) -> Result<Vec<ChildInfo>, Gone> {
        self.ask(SupervisorMessage::WhichChildren).await
    }

    /// The child with this id, as it is now: for a supervisor, its present handle
    /// ([`ChildInfo::supervisor`]).
    ///
    /// # Errors
    /// [`Gone`] if the supervisor has exited.
    pub async fn child(&self, id: impl Into<ChildId>) -> Result<Option<ChildInfo>, Gone> {
        let id = id.into();
        let children = self.which_children().await?;
        Ok(children.into_iter().find(|info| info.child.id == id))
    }

    /// The present actor of the child with this id; `None` when it is not up, or handles messages
    /// of another type.
    ///
    /// # Errors
    /// [`Gone`] if the supervisor has exited.
    pub async fn actor_ref<M: ractor::Message>(&self, id: impl Into<ChildId>) -> Result<Option<ActorRef<M>>, Gone> {
        let cell = self.child(id).await?.and_then(|info| info.cell);
        Ok(cell
            .filter(|cell| cell.is_message_type_of::<M>() == Some(true))
            .map(ActorRef::from))
    }

    /// Counts the children.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the supervisor has ended.
    pub async fn count_children(&self) -> Result<ChildCounts, Gone> {
        self.ask(SupervisorMessage::CountChildren).await
    }

    /// The specification of the child with this id, if there is one. A temporary child's start is
    /// not kept.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the supervisor has ended.
    pub async fn get_child_spec(&self, id: impl Into<ChildId>) -> Result<Option<KeptSpec>, Gone> {
        let id = id.into();
        self.ask(|reply| SupervisorMessage::GetChildSpec(id, reply)).await
    }

    /// Stops the children, right to left, each according to its specification, then the supervisor.
    /// Returns once nothing is left, with the reason for the end: it may have given up before.
    /// Idempotent. There is no deadline: it takes as long as the children's `shutdown` allows.
    /// Cancel safe: once polled, the stop continues.
    ///
    /// A child of another supervisor is started again by that one if its specification says so; to
    /// stop it for good, use [`Supervisor::terminate_child`] of the other one.
    pub async fn stop(&self) -> Option<End> {
        let latest = self.place.latest();
        request_stop(&latest.actor);
        latest.ended().await
    }

    /// Requests a stop without waiting for it.
    pub fn request_stop(&self) {
        request_stop(&self.place.latest().actor);
    }

    /// Waits until the supervisor (its present incarnation) has ended and nothing is left. Returns
    /// `None` if it was ended by ractor's own `stop` or `kill`. Does not depend on the actor that
    /// the supervisor is linked to, so it may be awaited in any callback of that actor. Cancel
    /// safe.
    pub async fn wait(&self) -> Option<End> {
        self.place.latest().ended().await
    }

    /// Sends a request and waits for the reply. Fails if the supervisor is gone.
    async fn ask<T>(&self, message: impl FnOnce(ReplyTo<T>) -> SupervisorMessage) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        let actor = self.place.latest().actor;
        actor.cast(message(reply)).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

pub(crate) fn request_stop(actor: &ActorRef<SupervisorMessage>) {
    // An actor that accepts no more messages is already stopping.
    let _ = actor.cast(SupervisorMessage::Stop);
}

impl From<SpawnErr> for SupervisorError {
    fn from(error: SpawnErr) -> Self {
        match error {
            SpawnErr::StartupFailed(error) => match error.downcast::<SpecError>() {
                Ok(refused) => SupervisorError::Invalid(*refused),
                Err(error) => SupervisorError::Spawn(Failure::new(error)),
            },
            error => SupervisorError::Spawn(Failure::new(error)),
        }
    }
}

/// A start in progress.
pub(crate) struct Start {
    pub(crate) ready: oneshot::Receiver<Result<(), End>>,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) fn arguments(options: SupervisorOptions, children: Vec<ChildSpec>) -> (SupervisorArguments, Start) {
    let (ready, is_ready) = oneshot::channel();
    let shared = Arc::<Shared>::default();
    (
        SupervisorArguments {
            options,
            children,
            ready,
            shared: Arc::clone(&shared),
        },
        Start {
            ready: is_ready,
            shared,
        },
    )
}

impl Start {
    async fn finish(
        self,
        spawned: Result<(ActorRef<SupervisorMessage>, JoinHandle<()>), SpawnErr>,
    ) -> Result<Supervisor, SupervisorError> {
        let (actor, join) = spawned?;
        let ended = tokio::spawn(Over::new(until_finished(join), &self.shared));
        let abandoned = StopOnDrop(Some(actor.clone()));
        let outcome = self.ready.await;
        abandoned.defuse();
        if let Ok(Ok(())) = outcome {
            let shared = self.shared;
            return Ok(Supervisor::at(Place::new(Incarnation { actor, shared })));
        }
        let _ = ended.await;
        match outcome {
            Ok(Err(End::StartFailed { child, reason })) => Err(SupervisorError::Child { child, reason }),
            _ => Err(SupervisorError::Stopped),
        }
    }
}

/// Stops a supervisor whose start was abandoned by its caller, because no handle to it will exist.
struct StopOnDrop(Option<ActorRef<SupervisorMessage>>);

impl StopOnDrop {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(actor) = &self.0 {
            request_stop(actor);
        }
    }
}
