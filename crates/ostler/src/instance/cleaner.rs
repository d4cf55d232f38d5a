//! The emergency cleaner: starts first, stops last, and finds nothing in a healthy run.
//!
//! When the tree is down, it searches for processes that should not exist: children of a sitter or
//! of the guardian, and processes with this run's marker. Any such process is a bug, which it
//! reports before it kills. What could not be inspected is never assumed to be empty.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_os::identity::{Attribution, ProcessIdentity, here};
use ostler_telemetry::{EventKind, Facts};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::services::Services;
use crate::guard::{Census, NoCensus};
use crate::hub::About;
use crate::remains::{self, KILL_LIMIT, Killed, Remains};

/// How long the guardian may take to report its processes: 5 s.
const CENSUS_LIMIT: Duration = Duration::from_secs(5);

/// What the emergency cleaner found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CleanupReport {
    /// The processes that should not have existed. Empty in a healthy run.
    pub orphans: Vec<String>,
    /// How many of them were killed.
    pub killed: u64,
    /// Those that are still alive, each with the reason.
    pub survivors: Vec<String>,
    /// What could not be inspected. Empty in a healthy run.
    pub unseen: Vec<String>,
}

/// The actor, which checks in `post_stop`.
pub(crate) struct EmergencyCleaner;

impl Actor for EmergencyCleaner {
    type Msg = CleanerMessage;
    type State = Arc<Services>;
    type Arguments = Arc<Services>;

    async fn pre_start(
        &self,
        _: ActorRef<CleanerMessage>,
        services: Arc<Services>,
    ) -> Result<Arc<Services>, ActorProcessingErr> {
        Ok(services)
    }

    async fn post_stop(
        &self,
        _: ActorRef<CleanerMessage>,
        services: &mut Arc<Services>,
    ) -> Result<(), ActorProcessingErr> {
        check_once(services).await;
        Ok(())
    }
}

/// The cleaner receives no messages.
#[derive(Debug)]
pub(crate) enum CleanerMessage {}

#[cfg(feature = "cluster")]
impl ractor::Message for CleanerMessage {}

/// Checks, at most once per run: when the actor stops in order, or after the tree has ended in
/// another way.
pub(crate) async fn check_once(services: &Services) -> CleanupReport {
    services.cleanup.get_or_init(|| check(services)).await.clone()
}

async fn check(services: &Services) -> CleanupReport {
    let mut remains = below_guardian(services).await;
    // What the release of a worker could not see can't be found here either.
    remains.unseen.extend(services.unseen());
    let run = services.run;
    let by_marker = move || Remains::of_run(run, remains::own_host().as_ref());
    remains.merge(look("for processes by their marker", by_marker).await);
    remains.dedup();
    for what in &remains.unseen {
        tracing::error!(target: "ostler", what, "the cleaner can't say that nothing is left");
    }
    if remains.found.is_empty() && remains.unseen.is_empty() {
        let facts = Facts::default().with_count(0);
        services.hub.emit(EventKind::CleanupSuccess, About::run(), facts);
    }
    match remains.found.is_empty() {
        true => CleanupReport {
            unseen: remains.unseen,
            ..CleanupReport::default()
        },
        false => kill(services, remains).await,
    }
}

/// The children of the sitters, and those of the guardian that are not sitters. Sitters without a
/// child are not orphans.
async fn below_guardian(services: &Services) -> Remains {
    let Some(guardian) = services.link.current() else {
        return Remains::default();
    };
    match services.link.census(CENSUS_LIMIT).await {
        Ok(census) => {
            let below = move || below(&guardian.identity(), &census);
            look("for processes below the guardian", below).await
        }
        // Its sitters end their trees, and the conclusion waits for them.
        Err(NoCensus::Lost) => Remains::default(),
        Err(unanswered @ NoCensus::Unanswered) => Remains {
            found: Vec::new(),
            unseen: vec![unanswered.to_string()],
        },
    }
}

fn below(guardian: &ProcessIdentity, census: &Census) -> Remains {
    let is_sitter = |pid: i32| census.sitters.iter().any(|(_, sitter)| sitter.cast_signed() == pid);
    let mut remains = Remains::below(guardian);
    remains.found.retain(|process| !is_sitter(process.pid));
    match here() {
        // The guardian also sees processes that /proc hides from us.
        Ok(here) => remains.and(census.strays.iter().map(|stray| stray.identity(here))),
        Err(error) => {
            remains
                .unseen
                .push(format!("the guardian's own children can't be identified: {error}"));
            remains
        }
    }
}

/// A search through /proc, on a thread that may block.
async fn look(what: &str, work: impl FnOnce() -> Remains + Send + 'static) -> Remains {
    match tokio::task::spawn_blocking(work).await {
        Ok(remains) => remains,
        Err(error) => Remains {
            found: Vec::new(),
            unseen: vec![format!("the search {what} failed: {error}")],
        },
    }
}

async fn kill(services: &Services, remains: Remains) -> CleanupReport {
    let names: Vec<String> = remains.found.iter().map(ToString::to_string).collect();
    let facts = |message: &str, count: u64, names: Vec<String>| {
        let facts = Facts::default().with_count(count).with_orphans(names);
        facts.with_message(message.to_owned())
    };
    let found = facts(
        "processes of this run were left after its tree was down: please report it",
        names.len() as u64,
        names.clone(),
    );
    services.hub.emit(EventKind::CleanupOrphansFound, About::run(), found);
    let by = Attribution::new(
        "ostler emergency cleaner",
        format!("left behind by run {}", services.run),
    );
    let unseen = remains.unseen.clone();
    let work = move || remains.kill(&by, Instant::now() + KILL_LIMIT);
    // Fails only if the kill panics. Then it is unknown what was killed.
    let killed = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Killed {
        survivors: vec![format!("the orphans, perhaps: the kill failed: {error}")],
        unseen,
        ..Killed::default()
    });
    let killed_names: Vec<String> = killed.killed.iter().map(ToString::to_string).collect();
    let count = killed_names.len() as u64;
    let message = match killed.survivors.is_empty() {
        true => "they were killed",
        false => "not all of them could be killed",
    };
    services.hub.emit(
        EventKind::CleanupEmergencyKill,
        About::run(),
        facts(message, count, killed_names),
    );
    CleanupReport {
        orphans: names,
        killed: count,
        survivors: killed.survivors,
        unseen: killed.unseen,
    }
}
