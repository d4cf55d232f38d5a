//! What a supervisor reports about its children: the result of a start, and the rows of
//! `which_children`.

use std::fmt;

use ostler_core::supervision::{ChildKind, ChildRef, ChildStatus};
use ractor::ActorCell;

use crate::child::Info;

/// The outcome of a start that did not fail.
#[derive(Debug, Clone)]
pub enum ChildStart {
    /// The child is running.
    Started(RunningChild),
    /// The child declined to start. Its specification is kept, unless it is temporary or dynamic.
    Ignored(ChildRef),
}

impl ChildStart {
    /// The child, if it is running.
    pub fn started(self) -> Option<RunningChild> {
        match self {
            ChildStart::Started(child) => Some(child),
            ChildStart::Ignored(_) => None,
        }
    }
}

/// A running child.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunningChild {
    /// Its id, key and incarnation.
    pub child: ChildRef,
    /// The actor. It may have ended since.
    pub cell: ActorCell,
    /// The additional information from its start function; for a supervisor, its handle.
    pub info: Option<Info>,
}

impl RunningChild {
    /// What its start function returned beside the actor, if it is of this type.
    pub fn info_as<T: Clone + 'static>(&self) -> Option<T> {
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

/// One row of `which_children`.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChildInfo {
    /// Its id, key and latest incarnation, which is 0 before the first start.
    pub child: ChildRef,
    /// Running, starting, stopping, …
    pub status: ChildStatus,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// The actor, if there is one.
    pub cell: Option<ActorCell>,
    /// The additional information from its start function; for a supervisor, its handle.
    pub info: Option<Info>,
}

impl ChildInfo {
    /// What its start function returned beside the actor, if it is of this type and the child is
    /// up.
    pub fn info_as<T: Clone + 'static>(&self) -> Option<T> {
        self.info.as_ref()?.downcast_ref().cloned()
    }
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
