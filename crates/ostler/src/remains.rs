//! Finds and kills what is left of a run's processes: for release, cleaner, sweep and audit.
//!
//! What could not be inspected is kept beside what was found, in words: "could not be read" never
//! means "nothing found". All of it reads `/proc` and waits for processes to end, so it blocks.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ostler_core::ids::RunId;
use ostler_os::identity::{self, Attribution, ProcessIdentity};
use ostler_os::marker::{self, Marked};
use ostler_os::{kill, tree};

/// How long one scan of all processes may take: 5 s.
const SCAN_LIMIT: Duration = Duration::from_secs(5);
/// How long all killed processes may take to end, together: 5 s.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Our own process. Older processes can't belong to our run. `None` if `/proc` does not show it;
/// then no process is ruled out.
pub(crate) fn own_host() -> Option<ProcessIdentity> {
    identity::of(std::process::id().cast_signed()).ok().flatten()
}

/// Every process with the marker of `run`, and which could not be inspected. `host` is that run's
/// host, if known; older processes don't belong to the run.
pub(crate) fn marked(run: RunId, host: Option<&ProcessIdentity>) -> (Vec<Marked>, Option<String>) {
    match marker::scan(&[run], Instant::now() + SCAN_LIMIT) {
        Ok(scan) => {
            let unseen = scan.missed(host).map(|missed| format!("run {run}: {missed}"));
            (scan.found, unseen)
        }
        Err(error) => {
            let unseen = format!("the processes of run {run} can't be found by their marker: {error}");
            (Vec::new(), Some(unseen))
        }
    }
}

/// Processes that should not be there, and what could not be inspected.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) found: Vec<ProcessIdentity>,
    /// In words, one entry for each incomplete scan.
    pub(crate) unseen: Vec<String>,
}

impl Remains {
    /// Processes with the marker of `run`. See [`marked`].
    pub(crate) fn of_run(run: RunId, host: Option<&ProcessIdentity>) -> Self {
        let (processes, unseen) = marked(run, host);
        Self {
            found: processes.into_iter().map(|process| process.identity).collect(),
            unseen: unseen.into_iter().collect(),
        }
    }

    /// The descendants of a living process, without the process itself.
    pub(crate) fn below(root: &ProcessIdentity) -> Self {
        match tree::living_descendants(root) {
            Ok(found) => Self {
                found,
                unseen: Vec::new(),
            },
            Err(error) => Self {
                found: Vec::new(),
                unseen: vec![format!("the processes below pid {} can't be found: {error}", root.pid)],
            },
        }
    }

    /// Adds processes that are known by other means.
    pub(crate) fn and(mut self, processes: impl IntoIterator<Item = ProcessIdentity>) -> Self {
        self.found.extend(processes);
        self
    }

    /// Adds what another scan found.
    pub(crate) fn merge(&mut self, other: Self) {
        self.found.extend(other.found);
        self.unseen.extend(other.unseen);
    }

    /// Leaves one entry per process: the one with more information.
    pub(crate) fn dedup(&mut self) {
        self.found
            .sort_unstable_by_key(|process| (process.pid, Reverse(process.pidfd_inode)));
        self.found.dedup_by(|later, kept| later.is_same_as(kept));
    }

    /// Kills each process whose identity is still the same, with its descendants. Kills all first,
    /// then waits for all until the deadline.
    pub(crate) fn kill(self, by: &Attribution, deadline: Instant) -> Killed {
        let kills = kill::kill_trees(&self.found, by, deadline);
        Killed {
            survivors: kills.left().collect(),
            killed: kills.killed,
            unseen: self.unseen,
        }
    }
}

impl From<Vec<ProcessIdentity>> for Remains {
    fn from(found: Vec<ProcessIdentity>) -> Self {
        Self {
            found,
            unseen: Vec::new(),
        }
    }
}

/// The processes with the marker of a run, by the marker's value: one scan for all of the run's
/// incarnations.
#[derive(Debug)]
pub(crate) struct ByMarker {
    found: HashMap<String, Vec<ProcessIdentity>>,
    unseen: Option<String>,
}

impl ByMarker {
    /// Scans all processes. See [`marked`].
    pub(crate) fn of_run(run: RunId, host: Option<&ProcessIdentity>) -> Self {
        let (processes, unseen) = marked(run, host);
        let mut found: HashMap<String, Vec<ProcessIdentity>> = HashMap::new();
        for process in processes {
            let identity = process.identity;
            let values = process.markers.into_iter().filter(|(of, _)| *of == run);
            values.for_each(|(_, value)| found.entry(value).or_default().push(identity));
        }
        Self { found, unseen }
    }

    /// Those whose marker has this value: a worker's incarnation, such as `embed/0#3`. What could
    /// not be inspected may be of any.
    pub(crate) fn of(&self, value: &str) -> Remains {
        Remains {
            found: self.found.get(value).cloned().unwrap_or_default(),
            unseen: self.unseen.iter().cloned().collect(),
        }
    }
}

/// The result of a kill.
#[derive(Debug, Default)]
pub(crate) struct Killed {
    pub(crate) killed: Vec<ProcessIdentity>,
    /// Processes that are or may be alive, each with the reason.
    pub(crate) survivors: Vec<String>,
    /// What could not be inspected before the kill.
    pub(crate) unseen: Vec<String>,
}

impl Killed {
    /// Everything that is or may be left.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        self.survivors.iter().chain(&self.unseen).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_bears_the_marker_is_found_by_its_value_and_killed() {
        let run = RunId::from_u128(u128::from(std::process::id()) << 64 | 0x51);
        let mut child = Command::new("sleep")
            .arg("600")
            .env(run.marker_name(), "p/0#1")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let host = own_host();
        // Until exec it shows the test's own environment.
        let deadline = Instant::now() + Duration::from_secs(20);
        let found = loop {
            let remains = Remains::of_run(run, host.as_ref());
            if !remains.found.is_empty() || Instant::now() > deadline {
                break remains;
            }
            std::thread::yield_now();
        };
        let by_marker = ByMarker::of_run(run, host.as_ref());
        assert_eq!(by_marker.of("p/0#1").found, found.found);
        assert!(by_marker.of("p/0#2").found.is_empty(), "{by_marker:?}");
        let mut twice = Remains::from(found.found.clone());
        twice.merge(found);
        twice.dedup();
        assert_eq!(twice.found.iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
        let killed = twice.kill(
            &Attribution::new("test", "the test is over"),
            Instant::now() + KILL_LIMIT,
        );
        assert_eq!((killed.killed.len(), killed.survivors), (1, Vec::new()));
        child.wait().unwrap();
    }

    #[test]
    fn what_could_not_be_inspected_outlives_the_kill() {
        let remains = Remains {
            found: Vec::new(),
            unseen: vec!["pid 7 could not be inspected".to_owned()],
        };
        let killed = remains.kill(&Attribution::new("test", "nothing"), Instant::now());
        assert_eq!(killed.left().collect::<Vec<_>>(), ["pid 7 could not be inspected"]);
    }
}
