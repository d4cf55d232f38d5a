//! Kills a tree: every descendant of the worker, and everything in its cgroup.
//!
//! The sitter is a subreaper and adopts orphans, so a tree of any shape is killed by killing the
//! sitter's children until none is left. Process groups and the cgroup come first because fork
//! can't outrun them; the children are those that left both.

use crate::children;
use crate::life::SIGKILL;
use crate::process;
use crate::protocol::TreeKill;
use crate::sys::{self, Errno, Fd};
use crate::text;

const MILLISECOND: u64 = 1_000_000;

/// From the kill of the worker's group to the first look for other processes. The worker's children
/// become ours only when it has died; its end brings the look forward.
const FIRST_LOOK: u64 = 20 * MILLISECOND;
/// From a child's end to the next look. Most of a killed group is gone by then.
const SHORTEST_PAUSE: u64 = 2 * MILLISECOND;
/// The longest pause between two looks while nothing ends; the pause doubles each time.
const LONGEST_PAUSE: u64 = 512 * MILLISECOND;
/// From the beginning of the kill to the report that the tree is held.
const PATIENCE: u64 = 1_000 * MILLISECOND;

/// The kill of one tree, from its first signal until nothing is left.
pub(crate) struct Kill {
    next_look: u64,
    pause: u64,
    held_at: Option<u64>,
    looked: bool,
    /// Whether the host knows that the tree is being killed.
    pub(crate) reported: bool,
    /// The number of processes, other than the worker, that died of SIGKILL.
    pub(crate) killed: i32,
    /// How the kill goes about it.
    pub(crate) how: TreeKill,
}

/// What a kill is aimed at.
pub(crate) struct Targets<'a> {
    /// The worker, leader of the group and the session with the same number; 0 once it is reaped.
    pub(crate) worker: i32,
    /// A cgroup is spent once it was killed: kernels since 6.14 (and older ones with the change)
    /// kill whatever is cloned into it from outside, because they compare the number of its kills
    /// with that of the parent's cgroup.
    pub(crate) cgroup: Option<&'a Fd>,
}

impl Kill {
    /// Begins with the worker's group, whose number can't be reused while the worker is not reaped.
    /// The rest is killed at the first look. `reported`: the host already knows that the tree is
    /// being killed.
    ///
    /// The cgroup is killed at the second look, because this spends it (see [`Targets::cgroup`])
    /// and is seldom needed.
    pub(crate) fn begin(targets: &Targets<'_>, reported: bool, now: u64) -> Self {
        let mut kill = Self {
            // Without the worker there is no group to kill first.
            next_look: if targets.worker == 0 { now } else { now + FIRST_LOOK },
            pause: SHORTEST_PAUSE,
            held_at: Some(now + PATIENCE),
            looked: false,
            reported,
            killed: 0,
            how: TreeKill::NONE,
        };
        if targets.worker != 0 {
            kill.worker(targets.worker);
        }
        kill
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> u64 {
        self.next_look
    }

    /// A child ended: its own children, if any, are ours now.
    pub(crate) fn hurry(&mut self, now: u64) {
        self.pause = SHORTEST_PAUSE;
        self.next_look = self.next_look.min(now + SHORTEST_PAUSE);
    }

    /// Kills everything that is found now. Returns the number of children.
    pub(crate) fn look(&mut self, targets: &Targets<'_>, now: u64) -> i32 {
        self.next_look = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if let Some(cgroup) = targets.cgroup.filter(|_| self.looked) {
            self.cgroup(cgroup);
        }
        self.looked = true;
        if targets.worker != 0 {
            self.worker(targets.worker);
        }
        self.children(targets.worker)
    }

    /// True once, when the kill has taken so long that the host should know.
    pub(crate) fn is_held(&mut self, now: u64) -> bool {
        let held = self.held_at.is_some_and(|at| now >= at);
        if held {
            self.held_at = None;
        }
        held
    }

    fn worker(&mut self, worker: i32) {
        // No such group: the child has not called setsid yet, and has no children.
        match process::signal_group(worker, SIGKILL) {
            Err(Errno::ESRCH) => self.note(process::signal(worker, SIGKILL)),
            outcome => self.note(outcome),
        }
    }

    fn cgroup(&mut self, cgroup: &Fd) {
        // It fails without cgroup.kill (before Linux 5.14) or when the cgroup is gone. The children
        // are killed anyway.
        let killed = sys::open_in_to_write(cgroup, c"cgroup.kill").and_then(|file| sys::write(file.raw(), b"1"));
        if killed.is_ok() {
            self.how.cgroup = true;
        }
    }

    /// Zombies count, too: they are still children, and one with living threads has not ended. Only
    /// wait(2), not this count, proves that nothing is left.
    fn children(&mut self, worker: i32) -> i32 {
        let own_group = process::group_of(0).unwrap_or(0);
        let mut count = 0;
        let looked = children::each(|child| {
            count += 1;
            if child != worker {
                self.how.strays = true;
                self.note(kill_with_group(child, own_group));
            }
        });
        // If /proc can't be read (EMFILE, ENOMEM, not mounted), the next look tries again.
        make_room(looked.err());
        count
    }

    fn note(&mut self, outcome: sys::Result<()>) {
        if outcome == Err(Errno::EPERM) {
            self.how.refused = true;
        }
    }
}

/// Kills a child, and its process group unless that is ours. A group never reaches outside the
/// tree: setpgid(2) keeps it within a session, and sessions are inherited.
pub(crate) fn kill_with_group(child: i32, own_group: i32) -> sys::Result<()> {
    let outcome = process::signal(child, SIGKILL);
    match process::group_of(child) {
        // Members that refuse the signal are found as children later.
        Ok(group) if group != own_group => drop(process::signal_group(group, SIGKILL)),
        _ => {}
    }
    outcome
}

/// Whether a child of ours is in this process group.
pub(crate) fn group_has_child(group: i32) -> bool {
    let mut any = false;
    // An error counts as no: the group loses the rest of its grace period, and nothing is left
    // behind.
    let _ = children::each(|child| any |= process::group_of(child) == Ok(group));
    any
}

/// Whether the cgroup has members. Assumes so if that can't be read, unless the cgroup itself is
/// gone.
pub(crate) fn is_populated(cgroup: &Fd) -> bool {
    let mut events = [0; 256];
    match sys::open_in(cgroup, c"cgroup.events").and_then(|file| sys::read(file.raw(), &mut events)) {
        Ok(length) => text::populated(&events[..length]).unwrap_or(false),
        Err(errno) => {
            make_room(Some(errno));
            !matches!(errno, Errno::ENOENT | Errno::ENODEV)
        }
    }
}

/// After a look that failed for want of a descriptor: our limit was lowered from outside, and we
/// may raise the soft one again. If that is refused, the next look fails, too.
fn make_room(error: Option<Errno>) {
    if error == Some(Errno::EMFILE) {
        let _ = process::raise_descriptor_limit();
    }
}
