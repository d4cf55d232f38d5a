//! Sessions: calls that go to the same worker, as strictly as the pool says.

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::client::Client;
use crate::lease::Lease;
use crate::outcome::Refused;
use crate::policy::queue::SessionId;
use crate::pool::Serving;

/// A session of a pool. It is bound to a worker by its first call, for as long as that worker
/// lives; two handles of one name are the same session.
///
/// When the worker ends, is drained or is replaced, a session with a strict affinity learns of it
/// once ([`Refused::SessionLost`]), and its next call binds it to another worker; a `hint` moves
/// silently.
#[derive(Debug, Clone)]
pub struct Session {
    serving: Arc<Serving>,
    name: SessionId,
}

impl Session {
    pub(crate) fn new(serving: Arc<Serving>, name: SessionId) -> Self {
        Self { serving, name }
    }

    #[cfg(feature = "stdio")]
    pub(crate) fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client whose calls belong to the session.
    pub fn client<A: Adapter>(&self, adapter: A) -> Client<A> {
        Client::in_session(Arc::clone(&self.serving), adapter, Arc::clone(&self.name))
    }

    /// A lease of the session's worker; see
    /// [`ServingPool::checkout`](crate::ServingPool::checkout). Cancel safe.
    ///
    /// # Errors
    /// As there; and the session's worker is gone or busy.
    pub async fn checkout(&self) -> Result<Lease, Refused> {
        Lease::take(&self.serving, Some(&self.name)).await
    }
}
