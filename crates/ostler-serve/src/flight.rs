//! A call on a worker, and what happens to the worker when the call ends.

use std::sync::Arc;

use ostler_core::spec::OnCancel;

use crate::adapter::Sent;
#[cfg(any(feature = "http", feature = "stdio"))]
use crate::call::{crashed, verdict};
use crate::dispatcher::Slot;
use crate::observe::Observed;
#[cfg(any(feature = "http", feature = "stdio"))]
use crate::outcome::CallError;
use crate::policy::breaker::{Permit, Verdict};
use crate::pool::Serving;
use crate::renew::Replacement;
use crate::worker::Worker;

/// A call that has room on a worker. It ends by [`Flight::answered`] or [`Flight::not_sent`]; when
/// it is dropped before, its caller has given up or died, and the worker may be in the middle of
/// it.
#[derive(Debug)]
pub(crate) struct Flight {
    serving: Arc<Serving>,
    slot: Option<Arc<Slot<Arc<Worker>>>>,
    worker: Arc<Worker>,
    sent: Sent,
    /// The call, from its answer on.
    observed: Option<Observed>,
    /// What identifies the request, from its answer on.
    key: Option<Arc<str>>,
    /// By which the circuit breaker learns how the answer ends.
    permit: Option<Permit>,
}

impl Flight {
    /// A call on the worker of this slot. A lease lends its slot to one call after the other.
    pub(crate) fn begin(serving: &Arc<Serving>, slot: Arc<Slot<Arc<Worker>>>) -> Self {
        let worker = Arc::clone(slot.worker());
        worker.call_began();
        Self {
            serving: Arc::clone(serving),
            slot: Some(slot),
            worker,
            sent: Sent::default(),
            observed: None,
            key: None,
            permit: None,
        }
    }

    /// The answer has begun. When it is complete, the crashes on this key are forgotten.
    pub(crate) fn of_request(mut self, key: Option<Arc<str>>, permit: Option<Permit>) -> Self {
        (self.key, self.permit) = (key, permit);
        self
    }

    /// The call is answered, and goes on being observed until the answer is complete.
    pub(crate) fn observed_by(mut self, observed: Observed) -> Self {
        self.observed = Some(observed);
        self
    }

    /// How telemetry sees the call.
    #[cfg(feature = "http")]
    pub(crate) fn observed(&self) -> Option<&Observed> {
        self.observed.as_ref()
    }

    /// The answer was cut off.
    #[cfg(any(feature = "http", feature = "stdio"))]
    pub(crate) fn cut_off(&mut self, error: &CallError) {
        if crashed(error) {
            self.serving.crashed_on(self.key.as_deref());
        }
        if let Some(permit) = self.permit.take() {
            self.serving.report(permit, verdict(error));
        }
        if let Some(observed) = &mut self.observed {
            observed.note(error);
        }
    }

    pub(crate) fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    pub(crate) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// The answer is complete: the worker is free for the next call.
    pub(crate) fn answered(mut self) {
        if let Some(observed) = self.observed.take() {
            observed.answered();
        }
        self.serving.answered(self.key.as_deref());
        self.end(true);
    }

    /// Nothing was sent: the worker is as it was.
    pub(crate) fn not_sent(mut self) {
        self.end(false);
    }

    /// It was sent and lost, and the worker can be used on.
    pub(crate) fn kept(mut self) {
        self.end(true);
    }

    /// The worker is no longer usable and is replaced.
    pub(crate) fn broken(mut self) {
        self.serving.replace(&self.worker, Replacement::CallLost);
        let sent = self.sent.at().is_some();
        self.end(sent);
    }

    fn end(&mut self, sent: bool) {
        if let Some(permit) = self.permit.take() {
            // It had begun its answer.
            self.serving.report(permit, Verdict::Answered);
        }
        if let Some(slot) = self.slot.take() {
            self.worker.call_ended(sent);
            self.serving.note_served(&self.worker);
            drop(slot);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.slot.is_none() {
            return;
        }
        let sent = self.sent.at().is_some();
        if sent && self.serving.spec().on_cancel == OnCancel::Replace {
            // Before the slot is given back, so that no other call gets the worker.
            self.serving.replace(&self.worker, Replacement::CallCancelled);
        }
        self.end(sent);
    }
}
