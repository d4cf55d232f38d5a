//! A tree that its sitter can't end on our order: the host itself finds and kills what is left.

use std::sync::Arc;
use std::time::Instant;

use ostler_core::ids::WorkerId;
use ostler_core::lifecycle::Rest;
use ostler_os::cgroup::Group;
use ostler_os::identity::{Attribution, ProcessIdentity};

use crate::remains::{ByMarker, KILL_LIMIT, Killed, Remains};
use crate::shared_work::SharedWork;

/// What identifies the processes of one incarnation (or of its probe), and of no other: the work
/// may run late, when the worker's next incarnation has started.
#[derive(Debug, Clone)]
pub(super) struct Remnants {
    pub(super) worker: WorkerId,
    /// The value of their marker.
    pub(super) marker: String,
    pub(super) identity: Option<ProcessIdentity>,
    pub(super) sitter: Option<ProcessIdentity>,
    pub(super) cgroup: Option<Arc<Group>>,
}

impl Remnants {
    /// Kills what it finds by identity, marker and cgroup, and returns what is left; `None` if the
    /// work was lost. The search by marker is shared: all workers of a guardian end here at once
    /// when it and its sitters die, and a search each would outlast any limit.
    pub(super) async fn end(self, by_marker: Arc<SharedWork<Arc<ByMarker>>>) -> Option<Rest> {
        let this = Arc::new(self);
        if this.cgroup.is_some() {
            let of = Arc::clone(&this);
            tokio::task::spawn_blocking(move || of.kill_cgroup()).await.ok()?;
        }
        let by_marker = by_marker.result().await?;
        let ending = move || this.end_with(by_marker.of(&this.marker));
        tokio::task::spawn_blocking(ending).await.ok()
    }

    /// Kills what bears its marker, and its own process. Blocks.
    fn end_with(&self, marked: Remains) -> Rest {
        let deadline = Instant::now() + KILL_LIMIT;
        let killed = self.kill(marked, "its sitter is gone", deadline);
        if !killed.survivors.is_empty() {
            return Rest::Left(killed.survivors.join(", "));
        }
        let missed = (!killed.unseen.is_empty()).then(|| killed.unseen.join(", "));
        self.proof(missed, deadline)
    }

    /// Nothing was found alive; returns whether that is proven.
    fn proof(&self, missed: Option<String>, deadline: Instant) -> Rest {
        match &self.cgroup {
            Some(group) => match group.is_empty_by(deadline) {
                Ok(true) => Rest::Gone,
                Ok(false) => Rest::Left(format!("members of its cgroup {}", group.path().display())),
                Err(error) => Rest::Unseen(format!("its cgroup can't be read: {error}")),
            },
            // As far as is known it never ran, so no process has cleared its environment.
            None if self.identity.is_none() => missed.map_or(Rest::Gone, Rest::Unseen),
            None => {
                let why = "guardian and sitter were killed, and there is no cgroup: a process that has left its \
                           tree and cleared its environment can't be found";
                Rest::Unseen(missed.map_or(why.to_owned(), |missed| format!("{why}; {missed}")))
            }
        }
    }

    /// Kills the processes below the sitter, but not the sitter. The sitter adopts orphans, so the
    /// whole tree is below it, and no search by marker is needed. Blocks.
    pub(super) fn kill_past_sitter(&self) {
        self.kill_cgroup();
        let below = self.sitter.as_ref().map(Remains::below).unwrap_or_default();
        self.kill(below, "its sitter takes no orders", Instant::now() + KILL_LIMIT);
    }

    fn kill_cgroup(&self) {
        if let Some(Err(error)) = self.cgroup.as_deref().map(Group::kill) {
            tracing::warn!(target: "ostler", worker = %self.worker, %error, "its cgroup can't be killed");
        }
    }

    /// Kills these trees and the worker's own.
    fn kill(&self, remains: Remains, why: &str, deadline: Instant) -> Killed {
        let by = Attribution::new("ostler", format!("{}: {why}", self.worker));
        let killed = remains.and(self.identity).kill(&by, deadline);
        for left in killed.left() {
            tracing::warn!(target: "ostler", worker = %self.worker, left, "{why}, and something may be left");
        }
        killed
    }
}
