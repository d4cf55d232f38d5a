//! Who waits for which message of a worker.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ostler_os::shared::Segment;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::large::Segments;
use super::message::Head;

/// Why a connection is over.
#[derive(Debug, Clone)]
pub(crate) enum Closed {
    /// It ended, between two frames.
    Ended(String),
    /// What came is not the protocol.
    Broken(String),
    /// Nothing was sent on it.
    #[cfg_attr(
        not(feature = "grpc"),
        expect(dead_code, reason = "the pipes of a worker are open from its start")
    )]
    NotSent(String),
}

impl Closed {
    pub(super) fn why(self) -> String {
        match self {
            Self::Ended(why) | Self::Broken(why) | Self::NotSent(why) => why,
        }
    }
}

/// A message of a worker.
#[derive(Debug)]
pub(crate) struct Received {
    pub(super) head: Head,
    pub(super) frame: Vec<u8>,
    pub(super) segments: Segments,
}

/// A message, or why there will be none.
pub(super) type Delivery = Result<Received, Closed>;

/// Where the messages about one request go.
#[derive(Debug)]
pub(super) enum To {
    /// To a call that waits for one answer.
    Answer(oneshot::Sender<Delivery>),
    /// To the reader of a stream. What bounds it is the worker's credit.
    Stream(mpsc::UnboundedSender<Delivery>),
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) to: To,
    /// What the worker may read until the request has ended.
    pub(super) _lent: Arc<Vec<Segment>>,
    /// The items that the worker gets.
    pub(super) input: Option<Feed>,
    /// Calls of the handler to functions of the host.
    pub(super) calls: Vec<AbortHandle>,
}

/// Items on their way to a worker.
#[derive(Debug)]
pub(super) struct Feed {
    /// How many more the worker has room for.
    pub(super) credit: Arc<Semaphore>,
    /// What the items lend that it has not consumed, oldest first.
    pub(super) lent: VecDeque<Arc<Vec<Segment>>>,
    /// Sends them.
    pub(super) task: AbortHandle,
}

impl Feed {
    /// The worker has consumed so many.
    pub(super) fn consumed(&mut self, items: u32) {
        let items = items as usize;
        self.lent.drain(..items.min(self.lent.len()));
        self.credit.add_permits(items);
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let input = self.input.as_ref().map(|feed| &feed.task);
        self.calls.iter().chain(input).for_each(AbortHandle::abort);
    }
}

/// All requests in flight on one connection.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: HashMap<u64, Route>,
    closed: Option<Closed>,
}

impl Routes {
    /// # Errors
    /// The connection is over.
    pub(super) fn insert(&mut self, id: u64, route: Route) -> Result<(), Closed> {
        match &self.closed {
            Some(closed) => Err(closed.clone()),
            None => {
                self.routes.insert(id, route);
                Ok(())
            }
        }
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Route> {
        self.routes.get_mut(&id)
    }

    /// Ends a request: what it lent is released, and its tasks end. False: it had ended before.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.routes.remove(&id).is_some()
    }

    /// Nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Delivers a message about a request; one that was cancelled is no longer waited for. True:
    /// the worker streams where one answer is expected, and has to be stopped.
    pub(super) fn deliver(&mut self, id: u64, received: Received) -> bool {
        let is_item = received.head.kind.as_deref() == Some("item");
        let Some(route) = self.routes.get(&id) else {
            return false;
        };
        match &route.to {
            To::Stream(items) if is_item => {
                // A reader that is gone has cancelled the request.
                drop(items.send(Ok(received)));
                false
            }
            _ => {
                if let Some(mut route) = self.routes.remove(&id) {
                    route.send(Ok(received));
                }
                is_item
            }
        }
    }

    /// Tells everyone who waits that nothing more will come.
    pub(super) fn close(&mut self, why: &Closed) {
        self.closed.get_or_insert_with(|| why.clone());
        for mut route in std::mem::take(&mut self.routes).into_values() {
            route.send(Err(why.clone()));
        }
    }
}

impl Route {
    /// The last message to the one that waits.
    fn send(&mut self, delivery: Delivery) {
        // The sender is used up; the channel in its place has no receiver.
        match std::mem::replace(&mut self.to, To::Stream(mpsc::unbounded_channel().0)) {
            To::Answer(call) => drop(call.send(delivery)),
            To::Stream(items) => drop(items.send(delivery)),
        }
    }
}
