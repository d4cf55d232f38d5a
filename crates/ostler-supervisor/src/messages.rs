//! All messages of a supervisor: reports from its tasks to the engine, and requests from its
//! handles to its actor.

use std::sync::Arc;

use ostler_core::supervision::{
    ChildCounts, ChildId, ChildRef, DeleteChildError, RestartChildError, StartChildError, Target, TerminateChildError,
};
use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::child::{ChildSpec, Info, KeptSpec, NotStarted};
use crate::exit::Probe;
use crate::running::{ChildInfo, ChildStart};

/// How a task of the engine posts to its actor's mailbox.
pub(crate) type Post = Arc<dyn Fn(EngineMessage) + Send + Sync>;

/// Where the reply to a message goes.
pub(crate) type ReplyTo<T> = oneshot::Sender<T>;

/// A message of the engine to itself through its actor's mailbox: pass it to
/// [`Engine::handle`](crate::Engine::handle).
#[derive(Debug)]
pub struct EngineMessage(pub(crate) ToEngine);

impl EngineMessage {
    pub(crate) fn news(child: ChildRef, news: News) -> Self {
        EngineMessage(ToEngine::News { child, news })
    }

    pub(crate) fn tick() -> Self {
        EngineMessage(ToEngine::Tick)
    }
}

#[derive(Debug)]
pub(crate) enum ToEngine {
    News {
        child: ChildRef,
        news: News,
    },
    /// [`News::Over`] after another trip through the mailbox: every supervision event sent before
    /// it has been handled.
    OverBefore(ChildRef),
    Tick,
}

/// What the task that accompanies a child reports.
#[derive(Debug)]
pub(crate) enum News {
    /// The child is running.
    Up(Up),
    /// The child is not running, and holds nothing.
    NotUp(NotStarted),
    /// The actor's task has finished. Its state may still be inside the supervision event.
    Over,
    /// The release gate has completed. Not sent for a child without one.
    Released,
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) cell: ActorCell,
    pub(crate) probe: Option<Arc<Probe>>,
    pub(crate) info: Option<Info>,
    /// For a child with a release gate: sent or dropped once the child's state is dropped.
    pub(crate) enter_gate: Option<oneshot::Sender<()>>,
}

/// The messages of a supervisor's actor.
pub(crate) enum SupervisorMessage {
    Engine(EngineMessage),
    Stop,
    StartChild(Box<ChildSpec>, ReplyTo<Result<ChildStart, StartChildError>>),
    TerminateChild(Target, ReplyTo<Result<(), TerminateChildError>>),
    RestartChild(ChildId, ReplyTo<Result<ChildStart, RestartChildError>>),
    DeleteChild(ChildId, ReplyTo<Result<(), DeleteChildError>>),
    WhichChildren(ReplyTo<Vec<ChildInfo>>),
    CountChildren(ReplyTo<ChildCounts>),
    GetChildSpec(ChildId, ReplyTo<Option<KeptSpec>>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for SupervisorMessage {}
