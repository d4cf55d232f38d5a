//! The end of an instance: what remains to be ended and released after its root has ended, for
//! whatever cause.

use std::sync::Arc;
use std::time::Duration;

use ostler_core::chain::chain;
use ostler_failpoint::{self as failpoint, Point};
use ostler_telemetry::{EventKind, Facts};

use super::anchor::InstanceEnd;
use super::cleaner;
use super::report::{RunGaveUp, StopReport};
use super::services::{Services, StopLevel};
use super::tree::Tree;
use crate::guard::Link;
use crate::hub::About;

/// How long the guardian may take to end once everything is down, and then its sitters: 5 s each.
/// Normally this takes a millisecond.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// Ends the instance after its root has ended, for whatever cause: everything that outlives actors
/// is ended and released here.
pub(super) async fn conclude(tree: Arc<Tree>, runtime_guard: AbandonOnDrop) {
    let ended = tree.root.wait().await;
    let services = &tree.services;
    let gave_up = ended.clone().and_then(RunGaveUp::of);
    if let Some(why) = &gave_up {
        let facts = Facts::default().with_message(chain(why));
        services.hub.emit(EventKind::RunGaveUp, About::run(), facts);
    }
    services.link.expect_no_other();
    // If the root was killed, no supervisor is left to enforce the workers' grace.
    services.raise_stop_level(if ended.is_some() {
        StopLevel::Ordered
    } else {
        StopLevel::Kill
    });
    for pool in tree.pools_in_order() {
        pool.settle().await;
        pool.ended();
    }
    let cleanup = cleaner::check_once(services).await;
    failpoint::reach(Point::StopChecked);
    let unended = end_guardian(&services.link).await;
    failpoint::reach(Point::StopGuardianQuit);
    let mut report = StopReport::of_pools(&tree.pools_in_order());
    report.root_gave_up.clone_from(&gave_up);
    report.orphans = cleanup.orphans;
    report.killed = cleanup.killed;
    report.unseen = cleanup.unseen;
    report.survivors = cleanup.survivors;
    report.survivors.extend(unended);
    services.remove_run(report.is_clean()).await;
    services
        .hub
        .emit(EventKind::RunStopped, About::run(), stopped_facts(&report));
    tree.report.send_replace(Some(report));
    if let Some(anchor) = &tree.anchor {
        anchor.end(match (gave_up, ended) {
            (Some(why), _) => InstanceEnd::GaveUp(why),
            (None, Some(_)) => InstanceEnd::Stopped,
            (None, None) => InstanceEnd::Killed,
        });
    }
    drop(runtime_guard);
}

/// A runtime that shuts down drops its tasks, including actors and drivers. Nothing is left to end
/// workers in order then, so the connection to the guardian is closed, and it ends them at once.
pub(super) struct AbandonOnDrop(Arc<Services>);

impl AbandonOnDrop {
    pub(super) fn new(services: &Arc<Services>) -> Self {
        Self(Arc::clone(services))
    }
}

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.link.abandon();
    }
}

/// Ends the guardian and waits for its sitters and those of earlier guardians. Returns what did not
/// end. If the guardian has to be killed, each sitter ends its own tree.
async fn end_guardian(link: &Link) -> Option<String> {
    if let Some(guardian) = link.close()
        && let Err(error) = guardian.quit(QUIT_LIMIT).await
    {
        tracing::error!(target: "ostler", error = %chain(&error), "the guardian did not quit on request, and is killed");
        guardian.abandon();
        guardian.kill();
    }
    let ended = link.all_ended(QUIT_LIMIT).await;
    (!ended).then(|| "sitters of this run: each ends with what its tree holds".to_owned())
}

fn stopped_facts(report: &StopReport) -> Facts {
    Facts::default()
        .with_count(report.workers)
        .with_message(report.to_string())
}
