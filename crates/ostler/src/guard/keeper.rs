//! The guardian's keeper: the actor that keeps a guardian running.
//!
//! When the guardian is lost, the actor fails and its supervisor restarts it with the next
//! guardian, counted towards the root's intensity. The lost guardian's workers are restarted by
//! their starters, without being counted.

use std::path::PathBuf;
use std::sync::Arc;

use ostler_core::exit::ExitReason;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::guardian::{Events, Guardian, GuardianEvent, GuardianOptions};
use ostler_os::limits;
use ostler_telemetry::{EventKind, Facts};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::link::Link;
use super::orders::Orders;
use super::overdue::{self, WorkerWatches};
use crate::hub::{About, Hub};
use crate::instance::services::Services;
use crate::supervisor::Exit;

/// How a guardian is launched, and where it is recorded for the sweep after the host's death.
#[derive(Debug, Clone)]
pub(crate) struct KeeperArguments {
    pub(crate) services: Arc<Services>,
    /// A program to use instead of the built-in one.
    pub(crate) program: Option<PathBuf>,
    /// Where the program is put when it can't be run from memory.
    pub(crate) state_dir: PathBuf,
}

/// The actor.
pub(crate) struct GuardianKeeper;

/// What the pump reports to the keeper.
#[derive(Debug)]
pub(crate) enum KeeperMessage {
    /// The guardian is dead; how it ended.
    Lost(String),
}

#[cfg(feature = "cluster")]
impl ractor::Message for KeeperMessage {}

impl Actor for GuardianKeeper {
    type Msg = KeeperMessage;
    type State = ();
    type Arguments = KeeperArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<KeeperMessage>,
        arguments: KeeperArguments,
    ) -> Result<(), ActorProcessingErr> {
        let services = Arc::clone(&arguments.services);
        // Without a keeper, a lost guardian would not be replaced. So it ends now, and its workers
        // learn why.
        if let Some((unkept, generation)) = services.link.serving_now() {
            lose(
                &services.link,
                &services.hub,
                generation,
                "its keeper ended, and it was ended too",
            );
            unkept.abandon();
        }
        let (guardian, events) = Guardian::launch(options(&arguments)).await?;
        failpoint::reach(Point::GuardianLaunched);
        services.note_guardian(&guardian.identity());
        failpoint::reach(Point::GuardianNoted);
        let generation = services.link.serve(guardian);
        let workers = WorkerWatches::default();
        let link = Arc::clone(&services.link);
        tokio::spawn(overdue::watch_guardian(link, generation, workers.clone()));
        let events = Watched { events, workers };
        tokio::spawn(async move {
            // The keeper may have ended.
            let report = move |how| drop(myself.cast(KeeperMessage::Lost(how)));
            pump(events, &services.link, &services.hub, generation, report).await;
        });
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<KeeperMessage>,
        message: KeeperMessage,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let KeeperMessage::Lost(how) = message;
        Err(Exit::from(ExitReason::failed(format!("the guardian is gone: {how}"))).into())
    }
}

fn options(arguments: &KeeperArguments) -> GuardianOptions {
    GuardianOptions {
        program: arguments.program.clone(),
        state_dir: Some(arguments.state_dir.clone()),
        worker_nofile: limits::original_descriptors(),
        lock: arguments.services.guardian_lock(),
        label: arguments.services.owner.app.clone().into(),
        ..GuardianOptions::default()
    }
}

/// Takes a guardian out of service and emits the event. Returns whether it was in service.
fn lose<G: Orders>(link: &Link<G>, hub: &Hub, generation: u64, how: &str) -> bool {
    let lost = link.lost(generation);
    if lost {
        let facts = Facts::default().with_message(how.to_owned());
        hub.emit(EventKind::GuardianLost, About::run(), facts);
    }
    lost
}

/// The source of a guardian's events. Tests script it.
trait Source: Send {
    fn next(&mut self) -> impl Future<Output = Option<GuardianEvent>> + Send;
}

/// A guardian's events, by which its workers are watched.
struct Watched {
    events: Events,
    workers: WorkerWatches,
}

impl Source for Watched {
    async fn next(&mut self) -> Option<GuardianEvent> {
        let event = self.events.recv().await?;
        self.workers.observe(&event);
        Some(event)
    }
}

/// Passes a guardian's events to its incarnations until it and all its sitters have ended. Runs as
/// a task of its own, because it also continues for a lost guardian. A guardian that ends while it
/// serves is lost, even if it says goodbye: before an orderly end, the link is closed. `report`
/// receives the loss.
async fn pump<G: Orders>(
    mut events: impl Source,
    link: &Link<G>,
    hub: &Hub,
    generation: u64,
    report: impl Fn(String) + Send,
) {
    let lost = |how: String| {
        if lose(link, hub, generation, &format!("the guardian ended: {how}")) {
            report(how);
        }
    };
    while let Some(event) = events.next().await {
        match event {
            GuardianEvent::Lost { status } => {
                lost(status.map_or_else(|| "status unknown".to_owned(), |status| status.to_string()));
            }
            GuardianEvent::Ended => break,
            other => link.deliver(generation, other),
        }
    }
    lost("without being asked to".to_owned());
    link.ended(generation);
}

#[cfg(test)]
mod tests;
