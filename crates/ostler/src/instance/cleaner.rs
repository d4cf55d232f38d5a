//! The emergency cleaner: starts first, stops last, and is silent in health.
//!
//! When the tree is down it looks for what should not be there: a process that a sitter or the guardian still has, or
//! that bears this run's marker. Anything at all is a bug, and it says so before it kills. What it could not look at it
//! never takes for empty.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_core::ids::RunId;
use ostler_os::identity::{Attribution, ProcessIdentity, here};
use ostler_os::{kill, marker, tree};
use ostler_telemetry::{EventKind, Facts};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::services::Services;
use crate::guard::{Census, NoCensus};
use crate::hub::About;

/// How long the guardian has to say what it still has: 5 s.
const CENSUS_LIMIT: Duration = Duration::from_secs(5);
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
    /// What could not be looked at: nothing can be said of it. Empty in health.
    pub unseen: Vec<String>,
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
    let mut look = Look::default();
    look.below_guardian(services).await;
    let run = services.run;
    look.add("for processes by their marker", move || Look::marked(run))
        .await;
    // Of two names of one process, the one that says more.
    let more_first = |orphan: &ProcessIdentity| (orphan.pid, Reverse(orphan.pidfd_inode));
    look.orphans.sort_unstable_by_key(more_first);
    look.orphans.dedup_by(|later, kept| later.is_same_as(kept));
    for what in &look.unseen {
        tracing::error!(target: "ostler", what, "the cleaner can't say that nothing is left");
    }
    if look.orphans.is_empty() && look.unseen.is_empty() {
        services.hub.emit(
            EventKind::CleanupSuccess,
            About::run(),
            Facts {
                count: Some(0),
                ..Facts::default()
            },
        );
    }
    let killed = match look.orphans.is_empty() {
        true => CleanupReport::default(),
        false => kill_orphans(services, look.orphans).await,
    };
    CleanupReport {
        unseen: look.unseen,
        ..killed
    }
}

/// What was found, and what could not be seen.
#[derive(Default)]
struct Look {
    orphans: Vec<ProcessIdentity>,
    unseen: Vec<String>,
}

impl Look {
    /// What the sitters and the guardian itself still have as children. Sitters without a child are no orphans.
    async fn below_guardian(&mut self, services: &Services) {
        let Some(guardian) = services.link.current() else {
            return;
        };
        match services.link.census(CENSUS_LIMIT).await {
            Ok(census) => {
                self.add("for processes below the guardian", move || {
                    Self::below(&guardian.identity(), &census)
                })
                .await;
            }
            // Its sitters end what they have, and the conclusion waits for them.
            Err(NoCensus::Lost) => {}
            Err(unanswered @ NoCensus::Unanswered) => self.unseen.push(unanswered.to_string()),
        }
    }

    /// Adds what some work finds that reads much.
    async fn add(&mut self, what: &str, work: impl FnOnce() -> io::Result<Self> + Send + 'static) {
        let found = tokio::task::spawn_blocking(work).await;
        match found.map_err(io::Error::other).flatten() {
            Ok(found) => {
                self.orphans.extend(found.orphans);
                self.unseen.extend(found.unseen);
            }
            Err(error) => self.unseen.push(format!("the look {what} failed: {error}")),
        }
    }

    fn below(guardian: &ProcessIdentity, census: &Census) -> io::Result<Self> {
        let here = here()?;
        // The guardian sees those too that /proc hides from us.
        let mut orphans: Vec<ProcessIdentity> = census.strays.iter().map(|stray| stray.identity(here)).collect();
        let is_sitter = |pid: i32| census.sitters.iter().any(|(_, sitter)| sitter.cast_signed() == pid);
        let below = tree::living_descendants(guardian)?;
        orphans.extend(below.into_iter().filter(|process| !is_sitter(process.pid)));
        Ok(Self {
            orphans,
            unseen: Vec::new(),
        })
    }

    fn marked(run: RunId) -> io::Result<Self> {
        let us = ProcessIdentity::of(std::process::id().cast_signed())?;
        let scan = marker::scan(&[run], |_| false, Instant::now() + SCAN_LIMIT)?;
        Ok(Self {
            unseen: scan.missed(us.as_ref()).into_iter().collect(),
            orphans: scan.found.into_iter().map(|found| found.identity).collect(),
        })
    }
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
    CleanupReport {
        orphans: names,
        killed,
        survivors: kills.left().collect(),
        unseen: Vec::new(),
    }
}
