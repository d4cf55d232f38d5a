//! The emergency cleaner: starts first, stops last, and is silent in health.
//!
//! When the tree is down it looks for what should not be there: a process that a sitter or the guardian still has, or
//! that bears this run's marker. Anything at all is a bug, and it says so before it kills.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_os::identity::{Attribution, ProcessIdentity};
use ostler_os::{kill, marker, tree};
use ostler_telemetry::{EventKind, Facts};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::hub::About;
use crate::services::Services;

/// How long the guardian has to say what it still has: 2 s.
const CENSUS_LIMIT: Duration = Duration::from_secs(2);
/// How long the look through all processes may take: 5 s.
const SCAN_LIMIT: Duration = Duration::from_secs(5);
/// How long what was killed has to end, all together: 5 s.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What the emergency cleaner found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// The processes that should not have been there. Empty in health.
    pub orphans: Vec<String>,
    /// How many of them were killed.
    pub killed: u64,
    /// Those that live on, each with the reason.
    pub survivors: Vec<String>,
}

/// The actor: its ordered end is the check.
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

/// The cleaner is told nothing.
#[derive(Debug)]
pub(crate) enum CleanerMessage {}

#[cfg(feature = "cluster")]
impl ractor::Message for CleanerMessage {}

/// Checks, at most once in a run: by the actor's ordered end, or after a tree that came down otherwise.
pub(crate) async fn check_once(services: &Services) -> CleanupReport {
    services.cleanup.get_or_init(|| check(services)).await.clone()
}

async fn check(services: &Services) -> CleanupReport {
    let at_guardian = left_at_guardian(services).await;
    let run = services.run;
    let work = move || {
        let mut orphans = at_guardian;
        match marker::scan(&[run], |_| false, Instant::now() + SCAN_LIMIT) {
            Ok(scan) => orphans.extend(scan.found.into_iter().map(|found| found.identity)),
            Err(error) => tracing::error!(target: "ostler", %error, "the cleaner can't look through the processes"),
        }
        orphans.sort_unstable_by_key(|orphan| orphan.pid);
        orphans.dedup();
        orphans
    };
    let orphans = tokio::task::spawn_blocking(work).await.unwrap_or_default();
    if orphans.is_empty() {
        services.hub.emit(
            EventKind::CleanupSuccess,
            About::run(),
            Facts {
                count: Some(0),
                ..Facts::default()
            },
        );
        return CleanupReport::default();
    }
    kill_orphans(services, orphans).await
}

async fn kill_orphans(services: &Services, orphans: Vec<ProcessIdentity>) -> CleanupReport {
    let names: Vec<String> = orphans.iter().map(ToString::to_string).collect();
    let facts = |message: &str, count: u64, names: Vec<String>| Facts {
        count: Some(count),
        orphans: names,
        message: Some(message.to_owned()),
        ..Facts::default()
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
    let work = move || kill::kill_trees(&orphans, &by, Instant::now() + KILL_LIMIT);
    let kills = tokio::task::spawn_blocking(work).await.unwrap_or_default();
    let killed = kills.killed.len() as u64;
    let killed_names = kills.killed.iter().map(ToString::to_string).collect();
    services.hub.emit(
        EventKind::CleanupEmergencyKill,
        About::run(),
        facts("they were killed", killed, killed_names),
    );
    let survivors = kills.survivors.iter().map(ToString::to_string).collect();
    CleanupReport {
        orphans: names,
        killed,
        survivors,
    }
}

/// What the sitters and the guardian itself still have as children. Sitters without a child are no orphans.
async fn left_at_guardian(services: &Services) -> Vec<ProcessIdentity> {
    let Some(census) = services.link.census(CENSUS_LIMIT).await else {
        return Vec::new();
    };
    let sitters: Vec<i32> = census
        .sitters
        .iter()
        .filter_map(|(_, pid)| i32::try_from(*pid).ok())
        .collect();
    let below = sitters
        .iter()
        .flat_map(|sitter| tree::descendants(*sitter).unwrap_or_default());
    let strays = census.strays.iter().filter_map(|stray| i32::try_from(stray.pid).ok());
    let of = |pid| ProcessIdentity::of(pid).ok().flatten();
    below.chain(strays).filter_map(of).collect()
}
