//! Children of a supervisor: their specification, start, stop and release.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ostler_core::exit::{ExitReason, Failure};
use ostler_core::supervision::{self, ChildId, ChildKind, ChildRef, Restart, Shutdown};
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, SpawnErr};
use tokio::sync::oneshot;

use crate::exit::{Exit, Ignore, Probe};
use crate::supervised::Supervised;

/// Additional information from a start function to the caller (OTP's `{ok, Pid, Info}`).
pub type Info = Arc<dyn Any + Send + Sync>;

type StartFn = Arc<dyn Fn(StartContext) -> BoxFuture<'static, Result<StartedChild, NotStarted>> + Send + Sync>;
type Gate = Arc<dyn Fn(ChildRef) -> BoxFuture<'static, ()> + Send + Sync>;
pub(crate) type StopFn = Arc<dyn Fn(&ActorCell) + Send + Sync>;

/// How a child is started and how its release is awaited. The part of a [`ChildSpec`] that is kept
/// for restarts.
#[derive(Clone)]
pub struct Launch {
    pub(crate) start: StartFn,
    pub(crate) gate: Option<Gate>,
    pub(crate) stop: Option<StopFn>,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("gate", &self.gate.is_some())
            .field("stop", &self.stop.is_some())
            .finish()
    }
}

/// A child's specification as its supervisor stores it. `start` is `None` for a temporary child,
/// whose start arguments OTP does not keep.
pub type KeptSpec = supervision::ChildSpec<Option<Launch>>;

/// The specification of a child, with OTP's defaults: a permanent worker with 5 s to stop.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    pub(crate) spec: supervision::ChildSpec<Launch>,
}

impl ChildSpec {
    /// A child that is an ordinary actor. Each start calls `make` for the actor and its arguments.
    pub fn actor<A, F>(id: impl Into<ChildId>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::actor_with(id, None, move |_| make())
    }

    /// The same, registered under `name` in ractor's registry while it runs.
    pub fn named_actor<A, F>(id: impl Into<ChildId>, name: impl Into<String>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::actor_with(id, Some(name.into()), move |_| make())
    }

    /// The same, with an optional name. `make` receives the incarnation.
    pub fn actor_with<A, F>(id: impl Into<ChildId>, name: Option<String>, make: F) -> Self
    where
        A: Actor,
        F: Fn(&ChildRef) -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::starting(id, move |mut context| {
            let (actor, arguments) = make(context.child());
            let name = name.clone();
            async move { context.spawn(name, actor, arguments).await }
        })
    }

    /// A child started by the function `start`. It runs in a task of its own, so it may take long:
    /// the supervisor still answers meanwhile. It must return soon after
    /// [`StartContext::cancelled`], and if it fails, everything that it started must have ended.
    pub fn starting<F, Fut>(id: impl Into<ChildId>, start: F) -> Self
    where
        F: Fn(StartContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<StartedChild, NotStarted>> + Send + 'static,
    {
        let start: StartFn = Arc::new(move |context| Box::pin(start(context)));
        ChildSpec {
            spec: supervision::ChildSpec::new(
                id,
                Launch {
                    start,
                    gate: None,
                    stop: None,
                },
            ),
        }
    }

    /// The child's id within the supervisor.
    pub fn id(&self) -> &ChildId {
        &self.spec.id
    }

    /// Sets the child's id, for example for a child from a template.
    pub fn with_id(mut self, id: impl Into<ChildId>) -> Self {
        self.spec.id = id.into();
        self
    }

    /// Sets when the child is restarted. Default: permanent.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.spec.restart = restart;
        self
    }

    /// Sets how the child is stopped. Default: 5 s for a worker, infinity for a supervisor.
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.spec.shutdown = shutdown;
        self
    }

    /// Sets whether the child's own exit can shut down the supervisor (see `AutoShutdown`).
    /// Default: false.
    pub fn significant(mut self, significant: bool) -> Self {
        self.spec.significant = significant;
        self
    }

    /// Sets the kind, and the shutdown to the default of that kind. Default: worker.
    pub fn kind(mut self, kind: ChildKind) -> Self {
        self.spec.kind = kind;
        self.spec.shutdown = Shutdown::default_of(kind);
        self
    }

    /// Sets the release gate, a future that is awaited after each incarnation and each failed
    /// start, once the actor has ended and its state is dropped. Until it completes, the child does
    /// not count as ended: no replacement starts, and a stop of the supervisor waits for it. It
    /// runs in a task of its own, even if the supervisor itself was killed. It should have a
    /// deadline.
    pub fn gate<F, Fut>(mut self, gate: F) -> Self
    where
        F: Fn(ChildRef) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spec.start.gate = Some(Arc::new(move |child| Box::pin(gate(child))));
        self
    }

    /// Sets how the child is asked to stop. Default: ractor's `stop` with the reason `"shutdown"`.
    pub fn stop_with(mut self, stop: impl Fn(&ActorCell) + Send + Sync + 'static) -> Self {
        self.spec.start.stop = Some(Arc::new(stop));
        self
    }
}

/// The argument of a start function.
pub struct StartContext {
    child: ChildRef,
    parent: ActorCell,
    cancel: oneshot::Receiver<()>,
}

impl StartContext {
    pub(crate) fn new(child: ChildRef, parent: ActorCell, cancel: oneshot::Receiver<()>) -> Self {
        StartContext { child, parent, cancel }
    }

    /// The child being started: its id and incarnation.
    pub fn child(&self) -> &ChildRef {
        &self.child
    }

    /// The supervisor to link to.
    pub fn parent(&self) -> &ActorCell {
        &self.parent
    }

    /// Completes if the start is cancelled: the child is being terminated, or the supervisor is
    /// stopping or gone. Cancel safe.
    pub async fn cancelled(&mut self) {
        // A dropped sender means that the supervisor is gone, which has the same effect. A
        // completed receiver must not be polled again.
        if !self.cancel.is_terminated() {
            let _ = (&mut self.cancel).await;
        }
    }

    /// Spawns an actor linked to the supervisor, so that its exit reasons are distinguished as
    /// described for [`Exit`]. A cancelled start drops `pre_start` at its next await.
    ///
    /// Cancel safe: if the future is dropped, `pre_start` is dropped with it, and there is no
    /// actor.
    ///
    /// # Errors
    ///
    /// Returns [`NotStarted`] if `pre_start` fails, the name is taken or the start is cancelled.
    pub async fn spawn<A: Actor>(
        &mut self,
        name: Option<String>,
        actor: A,
        arguments: A::Arguments,
    ) -> Result<StartedChild, NotStarted> {
        let probe = Arc::new(Probe::default());
        let supervised = Supervised {
            actor,
            probe: probe.clone(),
        };
        let parent = self.parent.clone();
        tokio::select! {
            biased;
            () = self.cancelled() => Err(NotStarted::cancelled()),
            spawned = Actor::spawn_linked(name, supervised, arguments, parent) => {
                let (actor, join) = spawned?;
                Ok(StartedChild { probe: Some(probe), ..StartedChild::new(actor.get_cell(), join) })
            }
        }
    }
}

/// A running child.
pub struct StartedChild {
    pub(crate) cell: ActorCell,
    /// Completes when the actor's task has finished.
    pub(crate) over: BoxFuture<'static, ()>,
    pub(crate) probe: Option<Arc<Probe>>,
    pub(crate) info: Option<Info>,
}

impl StartedChild {
    /// Wraps an actor that was spawned with its supervisor as ractor supervisor, but not by
    /// [`StartContext::spawn`]. A `stop(Some("killed"))` of such an actor is indistinguishable from
    /// a kill.
    pub fn new(cell: ActorCell, join: JoinHandle<()>) -> Self {
        Self::ending(cell, until_finished(join))
    }

    pub(crate) fn ending(cell: ActorCell, over: BoxFuture<'static, ()>) -> Self {
        StartedChild {
            cell,
            over,
            probe: None,
            info: None,
        }
    }

    /// Adds what is done when the actor has ended, before the child's release gate. A panic is
    /// ignored.
    pub fn then(mut self, after: impl FnOnce() + Send + 'static) -> Self {
        let over = self.over;
        self.over = Box::pin(async move {
            over.await;
            after();
        });
        self
    }

    /// The actor.
    pub fn cell(&self) -> &ActorCell {
        &self.cell
    }

    /// Adds information for the caller that requested the start.
    pub fn with_info(mut self, info: Info) -> Self {
        self.info = Some(info);
        self
    }

    /// Waits until the actor has ended and its state is dropped, for a start function that fails
    /// after it has spawned the actor. Dropping the future does nothing to the actor, unless it is
    /// a supervisor: see [`Supervisor::spawn_child`](crate::Supervisor::spawn_child).
    pub async fn ended(self) {
        self.over.await;
    }
}

impl fmt::Debug for StartedChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedChild")
            .field("cell", &self.cell)
            .finish_non_exhaustive()
    }
}

/// Completes when an actor's task has finished.
pub(crate) fn until_finished(join: JoinHandle<()>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        // An actor's task catches its panics. An error means that the runtime is shutting down, and
        // the task is gone either way.
        let _ = join.await;
    })
}

/// Why a child did not start.
#[derive(Debug, Clone, PartialEq)]
pub enum NotStarted {
    /// The child declined, which is not a failure (OTP's `ignore`).
    Ignored,
    /// The start failed.
    Failed(Exit),
}

impl NotStarted {
    /// The failure of a start that was [cancelled](StartContext::cancelled).
    pub fn cancelled() -> Self {
        NotStarted::Failed(ExitReason::SHUTDOWN.into())
    }
}

impl From<SpawnErr> for NotStarted {
    /// Recognises [`Ignore`] and [`Exit`] as errors of `pre_start`.
    fn from(error: SpawnErr) -> Self {
        match error {
            SpawnErr::StartupFailed(error) if error.is::<Ignore>() => NotStarted::Ignored,
            SpawnErr::StartupFailed(error) => NotStarted::Failed(Exit::of_error(error)),
            error => NotStarted::Failed(ExitReason::Failed(Failure::new(error)).into()),
        }
    }
}
