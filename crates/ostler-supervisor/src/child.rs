//! Children of a supervisor: what they are, and how they are started, stopped and found to be released.

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

/// What a child wants its starter to know beside its actor (OTP's `{ok, Pid, Info}`).
pub type Info = Arc<dyn Any + Send + Sync>;

type StartFn = Arc<dyn Fn(StartContext) -> BoxFuture<'static, Result<StartedChild, StartError>> + Send + Sync>;
type Gate = Arc<dyn Fn(ChildRef) -> BoxFuture<'static, ()> + Send + Sync>;
pub(crate) type StopFn = Arc<dyn Fn(&ActorCell) + Send + Sync>;

/// How a child is started and how its release is waited for. What a [`ChildSpec`] keeps for restarts.
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

/// A child's specification as its supervisor keeps it: `start` is `None` for a temporary child (OTP keeps no start arguments).
pub type KeptSpec = supervision::ChildSpec<Option<Launch>>;

/// A child of a supervisor, with OTP's defaults: a permanent worker that has 5 s to stop.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    pub(crate) spec: supervision::ChildSpec<Launch>,
}

impl ChildSpec {
    /// A child that is an ordinary actor: each start calls `make` for the actor and its arguments.
    pub fn actor<A, F>(id: impl Into<ChildId>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::actor_with(id, None, move |_| make())
    }

    /// The same, registered under `name` in ractor's registry while it lives.
    pub fn named_actor<A, F>(id: impl Into<ChildId>, name: impl Into<String>, make: F) -> Self
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::actor_with(id, Some(name.into()), move |_| make())
    }

    /// The same, with or without a name, and told which incarnation it is.
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

    /// A child that `start` starts, however it does it. It runs in a task of its own, so that it may take its time: its supervisor
    /// answers meanwhile. It must end soon after [`StartContext::cancelled`]; and what it started must have ended when it fails.
    pub fn starting<F, Fut>(id: impl Into<ChildId>, start: F) -> Self
    where
        F: Fn(StartContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<StartedChild, StartError>> + Send + 'static,
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

    /// Its name within the supervisor.
    pub fn id(&self) -> &ChildId {
        &self.spec.id
    }

    /// Its name within the supervisor is to be this one (for one of many from a template).
    pub fn with_id(mut self, id: impl Into<ChildId>) -> Self {
        self.spec.id = id.into();
        self
    }

    /// When it is started again. Default: permanent.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.spec.restart = restart;
        self
    }

    /// How it is stopped. Default: 5 s for a worker, infinity for a supervisor.
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.spec.shutdown = shutdown;
        self
    }

    /// Its end by itself can end its supervisor (see `AutoShutdown`). Default: false.
    pub fn significant(mut self, significant: bool) -> Self {
        self.spec.significant = significant;
        self
    }

    /// What it is; sets the shutdown to the default of that kind. Default: worker.
    pub fn kind(mut self, kind: ChildKind) -> Self {
        self.spec.kind = kind;
        self.spec.shutdown = Shutdown::default_of(kind);
        self
    }

    /// Its release gate: awaited after each incarnation (and each start that failed), once the actor has ended and its state is dropped.
    /// Until it is through, the child counts as not yet ended: nothing takes its place, and a stop of the supervisor waits for it.
    /// It runs in a task of its own, also when the supervisor itself was killed; it should have a deadline of its own.
    pub fn gate<F, Fut>(mut self, gate: F) -> Self
    where
        F: Fn(ChildRef) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spec.start.gate = Some(Arc::new(move |child| Box::pin(gate(child))));
        self
    }

    /// How it is asked to stop. Default: ractor's `stop` with the reason `"shutdown"`.
    pub fn stop_with(mut self, stop: impl Fn(&ActorCell) + Send + Sync + 'static) -> Self {
        self.spec.start.stop = Some(Arc::new(stop));
        self
    }
}

/// What a start function gets.
pub struct StartContext {
    child: ChildRef,
    parent: ActorCell,
    cancel: oneshot::Receiver<()>,
}

impl StartContext {
    pub(crate) fn new(child: ChildRef, parent: ActorCell, cancel: oneshot::Receiver<()>) -> Self {
        StartContext { child, parent, cancel }
    }

    /// Who is started: its id and incarnation.
    pub fn child(&self) -> &ChildRef {
        &self.child
    }

    /// The supervisor, to link to.
    pub fn parent(&self) -> &ActorCell {
        &self.parent
    }

    /// Ends when the start is no longer wanted: the child is being terminated, or the supervisor is stopping or gone.
    pub async fn cancelled(&mut self) {
        // A sender that is gone means a supervisor that is gone: the same to us. Once it has ended it must not be polled again.
        if !self.cancel.is_terminated() {
            let _ = (&mut self.cancel).await;
        }
    }

    /// Spawns an actor linked to the supervisor, so that its exits are told apart as [`Exit`] says. A cancelled start drops
    /// `pre_start` at its next await.
    ///
    /// # Errors
    /// [`StartError`], when `pre_start` fails, the name is taken or the start is cancelled.
    pub async fn spawn<A: Actor>(
        &mut self,
        name: Option<String>,
        actor: A,
        arguments: A::Arguments,
    ) -> Result<StartedChild, StartError> {
        let probe = Arc::new(Probe::default());
        let supervised = Supervised {
            actor,
            probe: probe.clone(),
        };
        let parent = self.parent.clone();
        tokio::select! {
            biased;
            () = self.cancelled() => Err(StartError::cancelled()),
            spawned = Actor::spawn_linked(name, supervised, arguments, parent) => {
                let (actor, join) = spawned?;
                Ok(StartedChild { probe: Some(probe), ..StartedChild::new(actor.get_cell(), join) })
            }
        }
    }
}

/// A child that is up.
#[derive(Debug)]
pub struct StartedChild {
    pub(crate) cell: ActorCell,
    pub(crate) join: JoinHandle<()>,
    pub(crate) probe: Option<Arc<Probe>>,
    pub(crate) info: Option<Info>,
}

impl StartedChild {
    /// An actor spawned with its supervisor as ractor supervisor, by other means than [`StartContext::spawn`]. A
    /// `stop(Some("killed"))` of such an actor can't be told from a kill.
    pub fn new(cell: ActorCell, join: JoinHandle<()>) -> Self {
        StartedChild {
            cell,
            join,
            probe: None,
            info: None,
        }
    }

    /// The actor.
    pub fn cell(&self) -> &ActorCell {
        &self.cell
    }

    /// Information for whoever asked for the start.
    pub fn with_info(mut self, info: Info) -> Self {
        self.info = Some(info);
        self
    }

    /// Waits until the actor has ended and its state is dropped; for a start function that gives up after all.
    pub async fn ended(self) {
        // An actor's task catches its panics: an error says that the runtime is shutting down, and the task is gone either way.
        let _ = self.join.await;
    }
}

/// A start that did not come to be.
#[derive(Debug, Clone, PartialEq)]
pub enum StartError {
    /// The child declined, which is no failure (OTP's `ignore`).
    Ignored,
    /// It failed.
    Failed(Exit),
}

impl StartError {
    /// The start was [cancelled](StartContext::cancelled).
    pub fn cancelled() -> Self {
        StartError::Failed(ExitReason::SHUTDOWN.into())
    }
}

impl From<SpawnErr> for StartError {
    /// `pre_start`'s error is read: [`Ignore`] and [`Exit`] are taken as such.
    fn from(error: SpawnErr) -> Self {
        match error {
            SpawnErr::StartupFailed(error) if error.is::<Ignore>() => StartError::Ignored,
            SpawnErr::StartupFailed(error) => StartError::Failed(Exit::of_error(error)),
            error => StartError::Failed(ExitReason::Failed(Failure::new(error)).into()),
        }
    }
}
