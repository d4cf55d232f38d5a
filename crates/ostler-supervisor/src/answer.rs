//! Replies to callers.

use ostler_core::supervision::{
    self, ChildRef, DeleteChildError, Reply, RestartChildError, StartChildError, TerminateChildError,
};
use tokio::sync::oneshot;

use crate::running::{ChildStart, RunningChild};

/// Where a reply goes. The reply is dropped if the caller is gone.
pub(crate) enum Answer {
    Start(oneshot::Sender<Result<ChildStart, StartChildError>>),
    Terminate(oneshot::Sender<Result<(), TerminateChildError>>),
    Restart(oneshot::Sender<Result<ChildStart, RestartChildError>>),
    Delete(oneshot::Sender<Result<(), DeleteChildError>>),
}

impl Answer {
    /// `running` finds the actor of a child that has just started.
    pub(crate) fn give(self, reply: Reply, running: impl FnOnce(ChildRef) -> Option<RunningChild>) {
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
            (_, reply) => tracing::error!(?reply, "reply does not match its request"),
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
