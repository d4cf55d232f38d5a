//! Handles to supervisors.

use std::fmt;
use std::sync::Arc;

use ostler_core::exit::{ExitReason, Failure};
use ostler_core::supervision::{
    ChildCounts, ChildId, ChildKind, ChildRef, DeleteChildError, End, RestartChildError, SpecError, StartChildError,
    Target, TerminateChildError,
};
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use tokio::sync::{oneshot, watch};

use crate::actor::{Shared, SupervisorActor, SupervisorArguments, accompany};
use crate::child::{ChildSpec, KeptSpec, NotStarted, StartContext, StartedChild};
use crate::messages::{ReplyTo, SupervisorMessage};
use crate::options::SupervisorOptions;
use crate::running::{ChildInfo, ChildStart, RunningChild};

/// A handle to a supervisor. Cheap to clone. Dropping it has no effect on the supervisor.
///
/// Use [`stop`](Self::stop), which stops the children in order and waits for them. ractor's own
/// `stop` and `kill` on the supervisor's actor make ractor kill the children in no particular
/// order; their release gates still run. A supervisor that is a child of another one is stopped
/// correctly by it.
#[derive(Clone)]
pub struct Supervisor {
    actor: ActorRef<SupervisorMessage>,
    shared: Arc<Shared>,
    /// Closed when the actor's task has finished and the engine is dropped. No value is ever sent.
    over: watch::Receiver<()>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Supervisor").field(&self.actor.get_cell()).finish()
    }
}

/// Why a supervisor did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The flags or a child specification are invalid.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// A child did not start. Those started before it were stopped again, in reverse order.
    #[error("child {child} did not start: {reason}")]
    Child {
        /// The child.
        child: ChildRef,
        /// Why.
        reason: ExitReason,
    },
    /// The supervisor was stopped before all children were running.
    #[error("the supervisor was stopped while it was starting")]
    Stopped,
    /// ractor could not spawn the actor.
    #[error("the supervisor's actor did not start: {0}")]
    Spawn(Failure),
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
    /// [`Supervisor`], use [`ChildSpec::supervisor`].
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

    /// The supervisor's actor, for ractor's registry, groups and links.
    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    /// Adds a child at the end and starts it. Returns once it is running.
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
    /// is kept, unless it is temporary. Idempotent.
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

    /// Starts a child that is specified but not running. Returns once it is running.
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

    /// Removes the specification of a child that is not running.
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

    /// The children in start order. Like the next two methods, it is answered at any time.
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
    pub async fn stop(&self) -> Option<End> {
        self.request_stop();
        self.wait().await
    }

    /// Requests a stop without waiting for it.
    pub fn request_stop(&self) {
        request_stop(&self.actor);
    }

    /// Waits until the supervisor has ended and nothing is left. Returns `None` if it was ended by
    /// ractor's own `stop` or `kill`. Does not depend on the actor that the supervisor is linked
    /// to, so it may be awaited in any callback of that actor. Cancel safe.
    pub async fn wait(&self) -> Option<End> {
        let mut over = self.over.clone();
        while over.changed().await.is_ok() {}
        self.shared.end()
    }

    /// Sends a request and waits for the reply. Fails if the supervisor is gone.
    async fn ask<T>(&self, message: impl FnOnce(ReplyTo<T>) -> SupervisorMessage) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.actor.cast(message(reply)).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

fn request_stop(actor: &ActorRef<SupervisorMessage>) {
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
struct Start {
    ready: oneshot::Receiver<Result<(), End>>,
    shared: Arc<Shared>,
}

fn arguments(options: SupervisorOptions, children: Vec<ChildSpec>) -> (SupervisorArguments, Start) {
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
        let (over, ended) = accompany(join, &self.shared);
        let abandoned = StopOnDrop(Some(actor.clone()));
        let outcome = self.ready.await;
        abandoned.defuse();
        if let Ok(Ok(())) = outcome {
            let shared = self.shared;
            return Ok(Supervisor { actor, shared, over });
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

/// Starts a supervisor as a child of another one. It counts as running once its children are.
async fn start_nested(
    mut context: StartContext,
    options: SupervisorOptions,
    children: Vec<ChildSpec>,
) -> Result<(StartedChild, Supervisor), NotStarted> {
    let (arguments, mut start) = arguments(options, children);
    let mut started = context.spawn(None, SupervisorActor, arguments).await?;
    let actor = ActorRef::<SupervisorMessage>::from(started.cell().clone());
    let (over, ended) = accompany(started.join, &start.shared);
    started.join = ended;
    let outcome = tokio::select! {
        biased;
        outcome = &mut start.ready => outcome,
        () = context.cancelled() => {
            request_stop(&actor);
            started.ended().await;
            return Err(NotStarted::cancelled());
        }
    };
    match outcome {
        Ok(Ok(())) => {
            let shared = start.shared;
            Ok((started, Supervisor { actor, shared, over }))
        }
        Ok(Err(end)) => {
            started.ended().await;
            Err(NotStarted::Failed(end.exit_reason().into()))
        }
        Err(_) => {
            started.ended().await;
            Err(NotStarted::Failed(ExitReason::Killed.into()))
        }
    }
}

/// A child that is a supervisor. `handle` converts its handle to the info of its start.
pub(crate) fn nested<F, I>(
    id: ChildId,
    options: SupervisorOptions,
    children: F,
    handle: fn(Supervisor) -> I,
) -> ChildSpec
where
    F: Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
    I: Send + Sync + 'static,
{
    let start = move |context| {
        let starting = start_nested(context, options.clone(), children());
        async move {
            let (started, supervisor) = starting.await?;
            Ok(started.with_info(Arc::new(handle(supervisor))))
        }
    };
    ChildSpec::starting(id, start)
        .kind(ChildKind::Supervisor)
        .stop_with(|cell| request_stop(&ActorRef::from(cell.clone())))
}

impl ChildSpec {
    /// A child that is a supervisor itself. `children` returns its children at each start. It
    /// counts as running once they are. Its handle is the [`info`](crate::RunningChild::info) of
    /// its start. Default shutdown: infinity.
    pub fn supervisor<F>(id: impl Into<ChildId>, options: SupervisorOptions, children: F) -> Self
    where
        F: Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
    {
        nested(id.into(), options, children, |supervisor| supervisor)
    }
}

impl RunningChild {
    /// The handle of a child that is a [`Supervisor`].
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.info_as()
    }
}

impl ChildInfo {
    /// The handle of a running child that is a [`Supervisor`].
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.info_as()
    }
}
