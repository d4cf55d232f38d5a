//! Every message of a worker's process: what its owner hears, what its driver hears, what work
//! comes to.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use ostler_core::failure::{Failure, Reason};
use ostler_core::lifecycle::{Cause, Input, Outcome, Rest};
use ostler_os::port_choice::PortReservation;
use tokio::sync::{mpsc, watch};

use crate::status::{PortMap, SocketMap};

/// What the owner of a process hears of it.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// It can be used.
    Ready,
    /// It can no longer be used.
    NotReady,
    /// Its life is over; this is how it ended.
    Ended(Outcome),
    /// It has ended, but what it held was not released in time. Its release goes on being tried,
    /// and nothing takes its place before that.
    Overdue(Failure),
}

/// The owner's ear.
pub(crate) type Owner = Box<dyn Fn(Notice) + Send + Sync>;

/// How far an incarnation has got, for those that wait for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It lives, or is being released.
    Held,
    /// Its release is overdue, for this reason.
    Overdue(Reason),
    /// Its life is over.
    Released,
}

/// The owner's order to end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) cause: Cause,
    /// At once, without a grace.
    pub(super) kill: bool,
}

/// How a driver and its owner reach each other.
pub(super) struct Line {
    pub(super) owner: Owner,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) predecessor: Option<watch::Receiver<Progress>>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
}

/// Listeners that the host has bound for a worker (`port = "listen"`), by the port's name.
pub(super) type Listeners = BTreeMap<String, Arc<TcpListener>>;

/// The ports that were chosen, and what keeps them.
#[derive(Debug, Default)]
pub(super) struct ChosenPorts {
    pub(super) ports: PortMap,
    pub(super) sockets: SocketMap,
    pub(super) reservations: Vec<PortReservation>,
    pub(super) listeners: Listeners,
}

/// What a reservation came to.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) ports: Result<ChosenPorts, Failure>,
    pub(super) recorded: Result<(), Failure>,
}

/// A piece of work that takes time.
pub(super) type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a piece of work came to.
#[derive(Debug)]
pub(super) enum Done {
    /// Something for the lifecycle.
    Input(Input),
    /// The ports were chosen (or none was available) and the table has answered.
    Reserved(Prepared),
    /// The worker is ready, and has reported these ports.
    Ready(PortMap),
    /// What is left of a tree whose sitter is gone.
    EndedWithoutSitter(Rest),
    /// Nothing that changes anything.
    Nothing,
}

impl From<Order> for Input {
    fn from(Order { cause, kill }: Order) -> Self {
        Self::Stop { cause, kill }
    }
}
