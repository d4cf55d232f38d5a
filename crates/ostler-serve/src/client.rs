//! A client: an adapter and a pool, a session or a lease.

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::call::{CallOptions, call, call_on};
use crate::flight::Flight;
use crate::lease::Held;
use crate::outcome::CallError;
use crate::policy::queue::SessionId;
use crate::pool::Serving;

/// Where a client's calls go.
#[derive(Debug, Clone)]
enum Target {
    /// To any worker, or to that of the session.
    Pool(Option<SessionId>),
    /// To the worker of a lease.
    Lease(Arc<Held>),
}

/// Makes calls through an adapter. Clones share everything.
#[derive(Debug)]
pub struct Client<A> {
    serving: Arc<Serving>,
    adapter: Arc<A>,
    target: Target,
}

impl<A> Clone for Client<A> {
    fn clone(&self) -> Self {
        Self {
            serving: Arc::clone(&self.serving),
            adapter: Arc::clone(&self.adapter),
            target: self.target.clone(),
        }
    }
}

impl<A: Adapter> Client<A> {
    pub(crate) fn new(serving: Arc<Serving>, adapter: A) -> Self {
        Self::to(serving, adapter, Target::Pool(None))
    }

    pub(crate) fn in_session(serving: Arc<Serving>, adapter: A, session: SessionId) -> Self {
        Self::to(serving, adapter, Target::Pool(Some(session)))
    }

    pub(crate) fn on_lease(serving: Arc<Serving>, adapter: A, held: Arc<Held>) -> Self {
        Self::to(serving, adapter, Target::Lease(held))
    }

    fn to(serving: Arc<Serving>, adapter: A, target: Target) -> Self {
        let adapter = Arc::new(adapter);
        if adapter.keeps_warm() {
            serving.keep_warm(&adapter);
        }
        Self {
            serving,
            adapter,
            target,
        }
    }

    /// The adapter.
    pub fn adapter(&self) -> &A {
        &self.adapter
    }

    /// Makes a call.
    ///
    /// Cancel safe: dropping the future gives the call up. It leaves the queue or is cancelled, and
    /// `on_cancel` says what happens to a worker that was in the middle of it. Whether the worker
    /// has carried it out is then not known.
    ///
    /// # Errors
    /// The call was refused, or its outcome is unknown: [`CallError`].
    pub async fn call(&self, request: A::Request) -> Result<A::Response, CallError> {
        self.call_with(request, &CallOptions::new()).await
    }

    /// The same, with options such as a deadline. Cancel safe in the same way.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_with(&self, request: A::Request, options: &CallOptions) -> Result<A::Response, CallError> {
        let (response, flight) = self.begin(request, options).await?;
        flight.answered();
        Ok(response)
    }

    /// A call whose answer is not complete when it begins: the reader ends the flight.
    pub(crate) async fn begin(
        &self,
        request: A::Request,
        options: &CallOptions,
    ) -> Result<(A::Response, Flight), CallError> {
        match &self.target {
            Target::Pool(None) => call(&self.serving, &*self.adapter, request, options).await,
            Target::Pool(Some(session)) => {
                let mut options = options.clone();
                options.session = Some(Arc::clone(session));
                call(&self.serving, &*self.adapter, request, &options).await
            }
            Target::Lease(held) => call_on(&self.serving, held.slot(), &*self.adapter, request, options).await,
        }
    }
}
