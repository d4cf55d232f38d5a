//! Leases: a worker for one holder, for as long as the holder keeps it.

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::client::Client;
use crate::connect::deadline_after;
use crate::dispatcher::Slot;
use crate::flight::Flight;
use crate::outcome::{Refused, WorkerRef};
use crate::policy::queue::SessionId;
use crate::pool::Serving;
use crate::renew::Replacement;
use crate::worker::Worker;

/// Room on one worker, held by one holder.
///
/// It ends when it is dropped, for whatever reason: the holder's task returns, panics or is
/// aborted, or its runtime ends. The worker then serves others again. If a call on it, or a
/// [`Lease::exchange`], was under way at that moment, `on_cancel` decides: the worker is replaced,
/// unless the pool says that it can still be used.
///
/// A leased worker that is recycled, restarted or removed is left to its holder until the
/// lease ends, at most for `drain_timeout`.
#[derive(Debug)]
pub struct Lease {
    serving: Arc<Serving>,
    held: Arc<Held>,
}

/// The worker of a lease, for the lease itself and its clients.
#[derive(Debug)]
pub(crate) struct Held {
    slot: Arc<Slot<Arc<Worker>>>,
}

impl Held {
    fn new(slot: Slot<Arc<Worker>>) -> Arc<Self> {
        slot.worker().lease_began();
        let slot = Arc::new(slot);
        Arc::new(Self { slot })
    }

    pub(crate) fn slot(&self) -> Arc<Slot<Arc<Worker>>> {
        Arc::clone(&self.slot)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.slot.worker().lease_ended();
    }
}

impl Lease {
    pub(crate) async fn take(serving: &Arc<Serving>, session: Option<&SessionId>) -> Result<Self, Refused> {
        let deadline = deadline_after(serving.spec().timeout);
        let slot = serving.dispatcher().checkout(session, deadline).await?;
        Ok(Self {
            serving: Arc::clone(serving),
            held: Held::new(slot),
        })
    }

    #[cfg(feature = "stdio")]
    pub(crate) fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// Which worker it is, and which of its processes.
    pub fn who(&self) -> &WorkerRef {
        self.worker().who()
    }

    /// The worker: its process, and where it listens.
    pub fn worker(&self) -> &Arc<Worker> {
        self.held.slot.worker()
    }

    /// A client whose calls go to this worker. It keeps the lease: the worker is free when both are
    /// dropped.
    pub fn client<A: Adapter>(&self, adapter: A) -> Client<A> {
        Client::on_lease(Arc::clone(&self.serving), adapter, Arc::clone(&self.held))
    }

    /// For a holder that talks to the worker without an adapter: from now until [`Exchange::done`],
    /// the worker is in the middle of something.
    pub fn exchange(&self) -> Exchange {
        let flight = Flight::begin(&self.serving, self.held.slot());
        flight.sent().mark();
        Exchange(flight)
    }

    /// Has the worker replaced: it gets no further calls, and is restarted.
    pub fn discard(self) {
        self.serving.replace(self.worker(), Replacement::Discarded);
    }
}

/// A part of a conversation that must not be cut off. If it is dropped before it is
/// [done](Exchange::done), `on_cancel` decides what happens to the worker.
#[derive(Debug)]
#[must_use]
pub struct Exchange(Flight);

impl Exchange {
    /// It is complete: the worker is as it should be.
    pub fn done(self) {
        self.0.answered();
    }
}
