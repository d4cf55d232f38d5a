//! The guardian's keeper: the actor that has a guardian running.
//!
//! When the guardian is lost the actor fails, and its supervisor starts it anew: with the next guardian, and counted
//! against the root's intensity. The workers of the lost one are restarted by their starters, and not counted.

use std::path::PathBuf;
use std::sync::Arc;

use ostler_core::exit::ExitReason;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::guardian::{Events, Guardian, GuardianEvent, GuardianOptions};
use ostler_os::limits;
use ostler_telemetry::{EventKind, Facts};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::hub::About;
use crate::services::Services;
use crate::supervisor::Exit;

/// How a guardian is launched, and where it is noted for whoever comes after a dead host.
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

/// What the pump tells the keeper.
#[derive(Debug)]
pub(crate) enum KeeperMessage {
    /// The guardian is dead, and this is how it ended.
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
        // A guardian whose keeper was killed would be lost one day and nobody replace it: it goes now, and its workers
        // are told why.
        if let Some((unkept, generation)) = services.link.serving_now() {
            lose(&services, generation, "its keeper ended, and it was ended too");
            unkept.abandon();
        }
        let (guardian, events) = Guardian::launch(options(&arguments)).await?;
        failpoint::reach(Point::GuardianLaunched);
        services.note_guardian(&guardian.identity());
        failpoint::reach(Point::GuardianNoted);
        let generation = services.link.serve(guardian);
        tokio::spawn(pump(events, services, generation, myself));
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

/// Takes a guardian out of service, and says so; whether it was in service.
fn lose(services: &Services, generation: u64, how: &str) -> bool {
    let lost = services.link.lost(generation);
    if lost {
        let facts = Facts {
            message: Some(how.to_owned()),
            ..Facts::default()
        };
        services.hub.emit(EventKind::GuardianLost, About::run(), facts);
    }
    lost
}

/// Brings a guardian's news to where they belong, until it and all its sitters have ended. A task of its own: it goes
/// on for a guardian that is lost.
async fn pump(mut events: Events, services: Arc<Services>, generation: u64, keeper: ActorRef<KeeperMessage>) {
    while let Some(event) = events.recv().await {
        match event {
            GuardianEvent::Lost { status } => {
                let how = status.map_or_else(|| "status unknown".to_owned(), |status| status.to_string());
                if lose(&services, generation, &format!("the guardian ended: {how}")) {
                    // A keeper that has ended needs no news.
                    drop(keeper.cast(KeeperMessage::Lost(how)));
                }
            }
            GuardianEvent::Ended => break,
            other => services.link.deliver(generation, other),
        }
    }
    services.link.ended(generation);
}
