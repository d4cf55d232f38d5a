//! Whose listening socket answers for a worker. Three answers: what can't be checked is neither the
//! worker's nor another's. A worker that answers is never ended because of that; one warning an
//! incarnation says what could not be inspected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ostler_os::ports::{ListenerOwner, listener_in_tree};
use ostler_os::sockets::{listeners_of, name_holders};
use ostler_os::tree;

/// A foreign socket must be seen twice, with this between: a tree that forks while it is read may
/// be missed in part, and its listener then looks like another process's.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(50);

/// Whose the listener is.
pub(super) enum Owner {
    /// The worker's.
    Ours,
    /// There is none yet.
    NotYet(String),
    /// It is unknown. The port was reserved for the worker, or reported by it, and what can be
    /// seen does not speak against the worker: an answer counts.
    Unknown(String),
    /// Another process's.
    Foreign {
        /// The process.
        named: String,
    },
}

/// Whose listener a connection to `address` reaches.
pub(super) async fn of_listener(address: SocketAddr, sitter: i32) -> Owner {
    match look(address, sitter).await {
        Owner::Foreign { .. } => {
            tokio::time::sleep(SECOND_LOOK).await;
            look(address, sitter).await
        }
        other => other,
    }
}

/// Reads `/proc`, so it runs where that may take its time.
async fn look(address: SocketAddr, sitter: i32) -> Owner {
    let look = move || match listener_in_tree(address, sitter) {
        Ok(ListenerOwner::Tree { .. }) => Owner::Ours,
        Ok(ListenerOwner::None) => Owner::NotYet(nothing_listens(address, sitter)),
        Ok(ListenerOwner::Unreadable { pids }) => Owner::Unknown(format!(
            "processes {pids:?} can't be inspected (another user's, protected by file capabilities or PR_SET_DUMPABLE, or hidden by /proc)"
        )),
        Ok(ListenerOwner::Foreign(sockets)) => {
            let names: Vec<String> = name_holders(&sockets).iter().map(ToString::to_string).collect();
            Owner::Foreign {
                named: names.join(", "),
            }
        }
        Err(error) => Owner::Unknown(format!("the listener on {address} can't be looked up: {error}")),
    };
    // The runtime is shutting down.
    let lost = |error| Owner::NotYet(format!("the listener on {address} was not looked up: {error}"));
    tokio::task::spawn_blocking(look).await.unwrap_or_else(lost)
}

/// A worker that listens on another port, or on the loopback address of the other family, seems to
/// work when it is started by hand. The sockets that it has show what to change.
fn nothing_listens(address: SocketAddr, sitter: i32) -> String {
    let listeners = tree::descendants(sitter).and_then(|tree| listeners_of(&tree));
    match listeners.as_deref() {
        Ok([]) | Err(_) => format!("no process listens on {address} yet"),
        Ok(others) => {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            format!(
                "no process listens on {address}; the worker listens on {} instead",
                others.join(", ")
            )
        }
    }
}

/// Warns once an incarnation.
#[derive(Debug, Clone, Default)]
pub(in crate::process) struct Uninspected {
    worker: String,
    warned: Arc<AtomicBool>,
}

impl Uninspected {
    /// For this worker; `warned` is the incarnation's.
    pub(in crate::process) fn new(worker: String, warned: Arc<AtomicBool>) -> Self {
        Self { worker, warned }
    }

    /// Warns, unless the incarnation has been warned of.
    pub(super) fn warn(&self, why: &str, taken: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "ostler", worker = self.worker, why, "{taken}");
        }
    }
}
