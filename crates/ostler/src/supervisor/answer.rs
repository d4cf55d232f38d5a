//! Replies on their way to whoever asked.

use std::fmt;

use ostler_core::supervision::{
    self, ChildRef, DeleteChildError, Reply, RestartChildError, StartChildError, TerminateChildError,
};
use ractor::ActorCell;
use tokio::sync::oneshot;

use super::child::Info;
use super::dynamic::DynamicSupervisor;
use super::handle::Supervisor;

/// A start that was asked for and didn't fail.
#[derive(Debug, Clone)]
pub enum ChildStart {
    /// The child is up.
    Started(RunningChild),
    /// It declined to start; its specification is kept, unless it is temporary or dynamic.
    Ignored(ChildRef),
}

impl ChildStart {
    /// The child, if it is up.
    pub fn started(self) -> Option<RunningChild> {
        match self {
            ChildStart::Started(child) => Some(child),
            ChildStart::Ignored(_) => None,
        }
    }
}

/// A child that is up.
#[derive(Clone)]
pub struct RunningChild {
    /// Who.
    pub child: ChildRef,
    /// The actor. It may have ended since.
    pub cell: ActorCell,
    /// What its start function gave; a supervisor's is its handle.
    pub info: Option<Info>,
}

impl RunningChild {
    /// The handle of a child that is a [`Supervisor`].
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.info.as_ref()?.downcast_ref().cloned()
    }

    /// The handle of a child that is a [`DynamicSupervisor`].
    pub fn dynamic_supervisor(&self) -> Option<DynamicSupervisor> {
        self.info.as_ref()?.downcast_ref().cloned()
    }
}

impl fmt::Debug for RunningChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningChild")
            .field("child", &self.child)
            .field("cell", &self.cell)
            .finish_non_exhaustive()
    }
}

/// Where a reply goes. Whoever asked may have gone: then it goes nowhere.
pub(super) enum Answer {
    Start(oneshot::Sender<Result<ChildStart, StartChildError>>),
    Terminate(oneshot::Sender<Result<(), TerminateChildError>>),
    Restart(oneshot::Sender<Result<ChildStart, RestartChildError>>),
    Delete(oneshot::Sender<Result<(), DeleteChildError>>),
}

impl Answer {
    /// `running` finds the actor of a child that has just been started.
    pub(super) fn give(self, reply: Reply, running: impl FnOnce(ChildRef) -> Option<RunningChild>) {
        match (self, reply) {
            (Answer::Start(to), Reply::StartChild(Ok(start))) => {
                let _ = with_actor(start, running).map(|start| to.send(Ok(start)));
            }
            (Answer::Start(to), Reply::StartChild(Err(error))) => {
                let _ = to.send(Err(error));
            }
            (Answer::Terminate(to), Reply::TerminateChild(result)) => {
                let _ = to.send(result);
            }
            (Answer::Restart(to), Reply::RestartChild(Ok(start))) => {
                let _ = with_actor(start, running).map(|start| to.send(Ok(start)));
            }
            (Answer::Restart(to), Reply::RestartChild(Err(error))) => {
                let _ = to.send(Err(error));
            }
            (Answer::Delete(to), Reply::DeleteChild(result)) => {
                let _ = to.send(result);
            }
            (_, reply) => tracing::error!(?reply, "a reply to another request than was made"),
        }
    }
}

fn with_actor(
    start: supervision::ChildStart,
    running: impl FnOnce(ChildRef) -> Option<RunningChild>,
) -> Option<ChildStart> {
    match start {
        supervision::ChildStart::Started(child) => running(child).map(ChildStart::Started),
        supervision::ChildStart::Ignored(child) => Some(ChildStart::Ignored(child)),
    }
}
