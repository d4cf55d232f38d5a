//! What a supervisor says of its children: the reply to a start, and the lines of `which_children`.

use std::fmt;

use ostler_core::supervision::{ChildKind, ChildRef, ChildStatus};
use ractor::ActorCell;

use crate::child::Info;

/// The result of a start that did not fail.
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
    /// Its id, key and incarnation.
    pub child: ChildRef,
    /// The actor. It may have ended since.
    pub cell: ActorCell,
    /// What its start function returned beside the actor; for a supervisor, its handle.
    pub info: Option<Info>,
}

impl fmt::Debug for RunningChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningChild")
            .field("child", &self.child)
            .field("cell", &self.cell)
            .finish_non_exhaustive()
    }
}

/// A line of `which_children`.
#[derive(Clone)]
pub struct ChildInfo {
    /// Its id, key and latest incarnation; 0 before the first start.
    pub child: ChildRef,
    /// Running, starting, stopping, …
    pub status: ChildStatus,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// The actor, when there is one.
    pub cell: Option<ActorCell>,
    /// What its start function returned beside the actor; for a supervisor, its handle.
    pub info: Option<Info>,
}

impl fmt::Debug for ChildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildInfo")
            .field("child", &self.child)
            .field("status", &self.status)
            .field("kind", &self.kind)
            .field("cell", &self.cell)
            .finish_non_exhaustive()
    }
}
