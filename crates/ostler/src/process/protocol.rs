//! Every message about a worker's process: to its owner, to its driver, and the results of work.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::sync::Arc;

use futures_channel::mpsc;
use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::{Cause, Input, Outcome, Rest};
use ostler_core::signal::Signal;
use ostler_os::port_choice::PortReservation;

use crate::small_watch;
use crate::status::{PortMap, SocketMap};

/// A message to the owner of a process.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// The worker is ready.
    Ready,
    /// The worker is no longer ready.
    NotReady,
    /// The incarnation has ended, with this outcome.
    Ended(Outcome),
    /// The incarnation has ended, but what it held was not released in time. The release is still
    /// retried, and nothing takes its place before that.
    Overdue(Failure),
}

/// How the owner receives notices.
pub(crate) type Owner = Box<dyn Fn(Notice) + Send + Sync>;

/// The progress of an incarnation, for tasks that wait for its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is running or being released.
    Held,
    /// Its release is overdue, for this reason.
    Overdue(Reason),
    /// It is released.
    Released,
}

/// The owner's order to end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) cause: Cause,
    /// Whether to kill at once, without a grace.
    pub(super) kill: bool,
}

/// The channels between a driver and its owner.
pub(super) struct Line {
    pub(super) owner: Owner,
    pub(super) progress: small_watch::Sender<Progress>,
    pub(super) predecessor: Option<small_watch::Receiver<Progress>>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
}

/// Listeners that the host has bound for a worker (`port = "listen"`), by the port's name.
pub(super) type Listeners = BTreeMap<String, Arc<TcpListener>>;

/// The chosen ports, and what reserves them.
#[derive(Debug, Default)]
pub(super) struct ChosenPorts {
    pub(super) ports: PortMap,
    pub(super) sockets: SocketMap,
    pub(super) reservations: Vec<PortReservation>,
    pub(super) listeners: Listeners,
}

/// The result of a reservation.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) ports: Result<ChosenPorts, Failure>,
    pub(super) recorded: Result<(), Failure>,
}

/// Work that takes time.
pub(super) type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The result of work.
#[derive(Debug)]
pub(super) enum Done {
    /// An input for the lifecycle.
    Input(Input),
    /// The reservation is on its way to the table, and the spawn can be prepared meanwhile.
    Prepare,
    /// The ports are chosen (or none was available), and the table has answered.
    Reserved(Prepared),
    /// The worker is ready and has reported these ports.
    Ready(PortMap),
    /// What is left of a tree whose sitter is gone.
    EndedWithoutSitter(Rest),
    /// Nothing that matters to the lifecycle.
    Nothing,
}

impl From<Order> for Input {
    fn from(Order { cause, kill }: Order) -> Self {
        Self::Stop { cause, kill }
    }
}

/// Converts an exit status; `None` for a status that is not an end.
pub(super) fn exit_status(status: std::process::ExitStatus) -> Option<ExitStatus> {
    let by_signal = || status.signal().and_then(Signal::from_number).map(ExitStatus::Signal);
    status.code().map(ExitStatus::Code).or_else(by_signal)
}
