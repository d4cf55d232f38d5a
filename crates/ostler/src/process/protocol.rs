//! Every message of a worker's process: what its owner hears, what its driver hears, what work comes to.

use std::future::Future;
use std::pin::Pin;

use ostler_core::failure::Failure;
use ostler_core::lifecycle::{Cause, Input, Outcome};
use ostler_os::guardian::GuardianEvent;
use tokio::sync::{mpsc, watch};

use super::start::Prepared;
use crate::services::PortMap;

/// What the owner of a process is told of it.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// It can be used.
    Ready,
    /// It can no longer be used.
    NotReady,
    /// All it held is released; this is how it ended.
    Ended(Outcome),
    /// It has ended, but what it held was not released in time. Its release goes on being tried; nothing takes its
    /// place before that.
    Overdue(Failure),
}

/// How far an incarnation has got, for those who wait for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It lives, or is being released.
    Held,
    /// Its release is overdue.
    Overdue,
    /// All it held is released.
    Released,
}

/// What reaches a driver from outside.
#[derive(Debug)]
pub(crate) enum Message {
    /// End the process.
    Stop {
        /// Who wants it.
        cause: Cause,
        /// At once, without a grace.
        kill: bool,
    },
    /// News of this incarnation from its sitter or the guardian.
    /// Boxed: the inbox keeps room for 32 messages, and most of them are rare.
    Guardian(Box<GuardianEvent>),
    /// The guardian that it runs under is dead; its sitter ends it.
    GuardianLost,
    /// That guardian and all its sitters have ended: no further news will come.
    SittersEnded,
}

/// How a driver and those around it reach each other.
pub(super) struct Line {
    pub(super) told: Box<dyn Fn(Told) + Send + Sync>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) predecessor: Option<watch::Receiver<Progress>>,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) sender: mpsc::UnboundedSender<Message>,
}

pub(crate) type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What happened to an incarnation, or what a piece of work that took time came to.
pub(crate) enum Done {
    /// Something for the lifecycle.
    Input(Input),
    /// The ports were chosen (or could not be had) and the reservation is in the table.
    Reserved(Prepared),
    /// The worker has become ready, and has told these ports.
    Ready(PortMap),
    /// The tree of a sitter that is gone was ended for it.
    TreeEnded,
    /// It could not be ended: tried again when the lifecycle asks for it.
    TreeLeft,
    /// All that a kill past the sitter reached was killed.
    KilledPastSitter,
    /// Somebody said something.
    Message(Message),
    /// The whole instance is to be killed.
    Kill,
    /// Nothing that anybody needs to know.
    Nothing,
}
