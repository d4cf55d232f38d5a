//! Compares four views of the same processes. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

/// The four views at one moment. A worker's incarnation is identified by its marker's value, such
/// as
/// `embed/0#3`.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Supervision: the workers whose process is alive.
    pub(super) up: Vec<Up>,
    /// The slots of `exec` probes, whose processes have no record.
    pub(super) probes: HashSet<u32>,
    /// The process table.
    pub(super) records: Vec<Recorded>,
    pub(super) guardian: GuardianView,
    /// `/proc`: processes with this run's marker.
    pub(super) marked: Vec<Marked>,
    /// `/proc`: each process with the sitter that it is below; `None` is below no sitter. Of a
    /// process that is missing, it is unknown.
    pub(super) owners: HashMap<i32, Option<i32>>,
}

/// A worker whose process is alive.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) worker: String,
    pub(super) pid: i32,
}

/// A record.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) worker: String,
    /// Its process; `None` before the spawn was recorded.
    pub(super) pid: Option<i32>,
    /// Whether that process is alive; `None` if unknown.
    pub(super) lives: Option<bool>,
    pub(super) sitter: Option<i32>,
}

/// A process with this run's marker.
#[derive(Debug)]
pub(super) struct Marked {
    pub(super) pid: i32,
    pub(super) worker: String,
}

/// The guardian's view.
#[derive(Debug, Default)]
pub(super) enum GuardianView {
    /// No guardian serves at the moment: the next one is being started.
    #[default]
    None,
    /// It does not answer.
    Silent,
    /// It has these processes.
    Has {
        /// Slot and pid of each sitter.
        sitters: Vec<(u32, u32)>,
        /// Its children that are not sitters.
        strays: Vec<u32>,
    },
}

impl GuardianView {
    pub(super) fn sitter_pids(&self) -> Vec<i32> {
        match self {
            Self::Has { sitters, .. } => sitters.iter().filter_map(|(_, pid)| i32::try_from(*pid).ok()).collect(),
            Self::None | Self::Silent => Vec::new(),
        }
    }
}

/// A disagreement between two views.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disagreement {
    /// A worker that counts as running has no record.
    NotRecorded { worker: String, pid: i32 },
    /// A worker that counts as running has ended.
    NotRunning { worker: String, pid: i32 },
    /// A recorded process is alive, and the guardian has no sitter above it.
    NotHeld { worker: String, pid: i32 },
    /// A sitter has a tree that belongs to no record.
    UnrecordedTree { slot: u32, pid: i32 },
    /// The guardian has a child that is not a sitter.
    Stray { pid: u32 },
    /// A process has the marker of an incarnation that has no record, or is not below a sitter.
    Marked { worker: String, pid: i32, recorded: bool },
    /// The guardian does not answer.
    GuardianSilent,
}

impl Disagreement {
    /// Its name, for logs and metrics.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::NotRecorded { .. } => "not_recorded",
            Self::NotRunning { .. } => "not_running",
            Self::NotHeld { .. } => "not_held",
            Self::UnrecordedTree { .. } => "unrecorded_tree",
            Self::Stray { .. } => "stray",
            Self::Marked { .. } => "marked",
            Self::GuardianSilent => "guardian_silent",
        }
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRecorded { worker, pid } => write!(f, "{worker} (pid {pid}) runs and has no record"),
            Self::NotRunning { worker, pid } => {
                write!(f, "{worker} counts as running, and its process (pid {pid}) has ended")
            }
            Self::NotHeld { worker, pid } => {
                write!(
                    f,
                    "{worker} (pid {pid}) is recorded and alive, but the guardian has no sitter above it"
                )
            }
            Self::UnrecordedTree { slot, pid } => {
                write!(
                    f,
                    "the sitter of slot {slot} has processes (such as pid {pid}) that belong to no record"
                )
            }
            Self::Stray { pid } => write!(f, "the guardian has a child (pid {pid}) that is no sitter"),
            Self::Marked {
                worker,
                pid,
                recorded: true,
            } => write!(f, "pid {pid} bears the marker of {worker} and is below no sitter"),
            Self::Marked {
                worker,
                pid,
                recorded: false,
            } => write!(f, "pid {pid} bears the marker of {worker}, which has no record"),
            Self::GuardianSilent => f.write_str("the guardian does not answer"),
        }
    }
}

/// All disagreements between the views. Without an answer of the guardian, nothing is compared with
/// it. The cost is proportional to the size of the views, apart from sorting.
pub(super) fn compare(view: &View) -> BTreeSet<Disagreement> {
    let index = Index::of(view);
    let mut found = BTreeSet::new();
    found.extend(view.up.iter().filter_map(|up| index.of_worker(up)));
    found.extend(view.marked.iter().filter_map(|marked| index.of_marked(marked)));
    match &view.guardian {
        GuardianView::None => {}
        GuardianView::Silent => _ = found.insert(Disagreement::GuardianSilent),
        GuardianView::Has { sitters, strays } => {
            found.extend(strays.iter().map(|pid| Disagreement::Stray { pid: *pid }));
            found.extend(view.records.iter().filter_map(|record| not_held(record, view)));
            found.extend(unrecorded_trees(sitters, view));
        }
    }
    found
}

/// A view with its records by worker.
struct Index<'a> {
    view: &'a View,
    records: HashMap<&'a str, &'a Recorded>,
}

impl<'a> Index<'a> {
    fn of(view: &'a View) -> Self {
        let by_worker = |record: &'a Recorded| (record.worker.as_str(), record);
        Self {
            view,
            records: view.records.iter().map(by_worker).collect(),
        }
    }

    fn of_worker(&self, up: &Up) -> Option<Disagreement> {
        let (worker, pid) = (up.worker.clone(), up.pid);
        match self.records.get(up.worker.as_str()) {
            None => Some(Disagreement::NotRecorded { worker, pid }),
            Some(record) if record.lives == Some(false) => Some(Disagreement::NotRunning { worker, pid }),
            Some(_) => None,
        }
    }

    fn of_marked(&self, marked: &Marked) -> Option<Disagreement> {
        let recorded = self.records.contains_key(marked.worker.as_str());
        let answered = matches!(self.view.guardian, GuardianView::Has { .. });
        let held = !answered || self.view.owners.get(&marked.pid) != Some(&None);
        (!recorded || !held).then(|| Disagreement::Marked {
            worker: marked.worker.clone(),
            pid: marked.pid,
            recorded,
        })
    }
}

fn not_held(record: &Recorded, view: &View) -> Option<Disagreement> {
    let pid = record.pid.filter(|_| record.lives == Some(true))?;
    (view.owners.get(&pid) == Some(&None)).then(|| Disagreement::NotHeld {
        worker: record.worker.clone(),
        pid,
    })
}

/// A record that has no sitter yet may belong to any slot: its spawn is under way.
fn unrecorded_trees(sitters: &[(u32, u32)], view: &View) -> Vec<Disagreement> {
    if view.records.iter().any(|record| record.sitter.is_none()) {
        return Vec::new();
    }
    let known: HashSet<i32> = view.records.iter().filter_map(|record| record.sitter).collect();
    let mut lowest: HashMap<i32, i32> = HashMap::new();
    let held = view.owners.iter().filter_map(|(pid, sitter)| Some((pid, (*sitter)?)));
    for (pid, sitter) in held.filter(|(_, sitter)| !known.contains(sitter)) {
        lowest
            .entry(sitter)
            .and_modify(|found| *found = (*found).min(*pid))
            .or_insert(*pid);
    }
    let tree_of = |(slot, sitter): &(u32, u32)| {
        let pid = *lowest.get(&i32::try_from(*sitter).ok()?)?;
        Some(Disagreement::UnrecordedTree { slot: *slot, pid })
    };
    let workers = sitters.iter().filter(|(slot, _)| !view.probes.contains(slot));
    workers.filter_map(tree_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worker 10 and its child 11 below sitter 9, worker 20 below sitter 19.
    fn healthy() -> View {
        let recorded = |worker: &str, pid, sitter| Recorded {
            worker: worker.into(),
            pid: Some(pid),
            lives: Some(true),
            sitter: Some(sitter),
        };
        let up = |worker: &str, pid| Up {
            worker: worker.into(),
            pid,
        };
        let marked = |worker: &str, pid| Marked {
            pid,
            worker: worker.into(),
        };
        View {
            up: vec![up("p/0#1", 10), up("p/1#4", 20)],
            probes: HashSet::from([2]),
            records: vec![recorded("p/0#1", 10, 9), recorded("p/1#4", 20, 19)],
            guardian: GuardianView::Has {
                sitters: vec![(0, 9), (1, 19)],
                strays: vec![],
            },
            marked: vec![marked("p/0#1", 10), marked("p/0#1", 11), marked("p/1#4", 20)],
            owners: HashMap::from([(10, Some(9)), (11, Some(9)), (20, Some(19)), (30, None)]),
        }
    }

    fn kinds(change: impl FnOnce(&mut View)) -> Vec<&'static str> {
        let mut view = healthy();
        change(&mut view);
        compare(&view).iter().map(Disagreement::kind).collect()
    }

    #[test]
    fn in_health_there_is_nothing_to_say() {
        assert_eq!(kinds(|_| {}), [""; 0]);
    }

    #[test]
    fn each_disagreement_is_seen_and_no_other_with_it() {
        assert_eq!(kinds(|view| view.records[0].lives = Some(false)), ["not_running"]);
        assert_eq!(
            kinds(|view| view.up.clear()),
            [""; 0],
            "what is being stopped may be in any state"
        );
        let lose_from_marker_and_tree = |view: &mut View| {
            view.marked.retain(|marked| marked.pid != 20);
            view.owners.insert(20, None);
        };
        assert_eq!(kinds(lose_from_marker_and_tree), ["not_held"]);
        assert_eq!(
            kinds(|view| view.marked.push(Marked {
                pid: 30,
                worker: "p/0#1".into()
            })),
            ["marked"],
            "below no sitter"
        );
        assert_eq!(
            kinds(|view| view.marked[1].worker = "p/0#9".into()),
            ["marked"],
            "of an incarnation that has no record"
        );
        let stray = |view: &mut View| {
            if let GuardianView::Has { strays, .. } = &mut view.guardian {
                strays.push(40);
            }
        };
        assert_eq!(kinds(stray), ["stray"]);
    }

    #[test]
    fn a_record_that_is_missing_is_missed_by_all() {
        let missing = |view: &mut View| drop(view.records.remove(1));
        assert_eq!(kinds(missing), ["not_recorded", "unrecorded_tree", "marked"]);
        let a_spawn_is_under_way = |view: &mut View| {
            missing(view);
            view.up.clear();
            view.marked.clear();
            view.records[0].sitter = None;
        };
        assert_eq!(
            kinds(a_spawn_is_under_way),
            [""; 0],
            "whose the tree is, is not known yet"
        );
    }

    #[test]
    fn the_process_of_a_probe_needs_no_record() {
        let probed = |slot| {
            move |view: &mut View| {
                if let GuardianView::Has { sitters, .. } = &mut view.guardian {
                    sitters.push((slot, 29));
                }
                view.owners.insert(30, Some(29));
            }
        };
        assert_eq!(kinds(probed(2)), [""; 0]);
        assert_eq!(kinds(probed(3)), ["unrecorded_tree"], "of no probe");
    }

    #[test]
    fn without_a_guardian_that_answers_nothing_is_compared_with_it() {
        let alone = |guardian| {
            move |view: &mut View| {
                view.guardian = guardian;
                view.owners.clear();
            }
        };
        assert_eq!(kinds(alone(GuardianView::None)), [""; 0]);
        assert_eq!(kinds(alone(GuardianView::Silent)), ["guardian_silent"]);
    }

    /// `hidepid` hides a worker that is not dumpable, and with it what is above its children.
    #[test]
    fn what_proc_hides_is_not_taken_for_elsewhere() {
        let hidden = |view: &mut View| {
            view.owners.remove(&10);
            view.owners.remove(&11);
        };
        assert_eq!(kinds(hidden), [""; 0]);
    }

    #[test]
    fn what_cannot_be_verified_is_not_taken_for_gone() {
        assert_eq!(kinds(|view| view.records[0].lives = None), [""; 0]);
    }

    /// A view of this many workers, in which nothing fits: every comparison is made.
    fn discordant(workers: i32) -> View {
        let name = |index: i32| format!("p/{index}#1");
        View {
            up: (0..workers)
                .map(|index| Up {
                    worker: name(index),
                    pid: index,
                })
                .collect(),
            records: (0..workers)
                .map(|index| Recorded {
                    worker: name(index + workers),
                    pid: Some(index),
                    lives: Some(true),
                    sitter: Some(index + 2 * workers),
                })
                .collect(),
            probes: HashSet::new(),
            guardian: GuardianView::Has {
                sitters: (0..workers)
                    .map(|index| (index.cast_unsigned(), index.cast_unsigned()))
                    .collect(),
                strays: Vec::new(),
            },
            marked: (0..workers)
                .map(|index| Marked {
                    pid: index,
                    worker: name(index),
                })
                .collect(),
            owners: (0..workers)
                .flat_map(|index| [(index, None), (index + 3 * workers, Some(index))])
                .collect(),
        }
    }

    /// Linear cost is a ratio of about 8 here, and quadratic cost one of 64. The thread's own CPU
    /// time, and the shortest of several runs of each, so that other processes of the machine
    /// barely matter.
    #[test]
    fn cost_is_proportional_to_the_number_of_workers() {
        let used = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        let shortest = |workers| {
            let view = discordant(workers);
            let timed = |_| {
                let begun = used();
                assert_eq!(compare(&view).len(), 4 * usize::try_from(workers).unwrap());
                std::time::Duration::from(used() - begun)
            };
            (0..7).map(timed).min().unwrap()
        };
        let (small, large) = (shortest(500), shortest(4_000));
        assert!(large < small * 24, "500 workers: {small:?}, 4,000 workers: {large:?}");
    }
}
