//! Killing a tree: everything that descends from the worker, and everything in its cgroup.
//!
//! The sitter is a subreaper, so whatever loses its parent becomes the sitter's child: a tree of any shape is killed by
//! killing the sitter's children until there are none. Process groups and the cgroup come first because they cannot be
//! outrun by fork; the children catch what left both.

use crate::children;
use crate::life::SIGKILL;
use crate::process;
use crate::protocol::flag;
use crate::sys::{self, Errno, Fd};
use crate::text;

const MILLISECOND: u64 = 1_000_000;

/// From the kill of the worker's group to the first look for others, if the worker takes so long to die: what it leaves
/// comes into sight only then.
const FIRST_LOOK: u64 = 20 * MILLISECOND;
/// From an end to the next look: a group that was killed at a stroke mostly is gone by then.
const SHORTEST_PAUSE: u64 = 2 * MILLISECOND;
/// Between two looks at a tree in which nothing ends: doubled each time up to this.
const LONGEST_PAUSE: u64 = 512 * MILLISECOND;
/// From the beginning of the kill to saying that the tree resists.
const PATIENCE: u64 = 1_000 * MILLISECOND;

/// The kill of one tree, from its first signal until nothing is left.
pub(crate) struct TreeKill {
    next_look: u64,
    pause: u64,
    held_at: Option<u64>,
    looked: bool,
    /// Whether the host knows that the tree is being killed.
    pub(crate) told: bool,
    /// Processes other than the worker that died of a kill.
    pub(crate) killed: i32,
    /// Bits of [`flag`].
    pub(crate) flags: u16,
}

/// What the kill of a tree may go by.
pub(crate) struct Targets<'a> {
    /// The worker, which leads the group and the session of the same number; 0 once it is reaped.
    pub(crate) worker: i32,
    /// Once killed, a cgroup is spent: kernels since 6.14 (and older ones that took over the change) kill whatever is
    /// cloned into it from outside, because they compare the number of its kills with that of the parent's cgroup.
    pub(crate) cgroup: Option<&'a Fd>,
}

impl TreeKill {
    /// Begins: the worker's group at once, the rest at the first look. Only while the worker is not reaped is its group's
    /// number surely its own. `told`: the host knows already that the tree is being killed.
    ///
    /// The cgroup waits for the second look, because its kill spends it (see [`Targets::cgroup`]) and is seldom needed.
    pub(crate) fn begin(targets: &Targets<'_>, told: bool, now: u64) -> Self {
        let mut kill = Self {
            // Without the worker there is nothing to kill at a stroke.
            next_look: if targets.worker == 0 { now } else { now + FIRST_LOOK },
            pause: SHORTEST_PAUSE,
            held_at: Some(now + PATIENCE),
            looked: false,
            told,
            killed: 0,
            flags: 0,
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

    /// Something ended: its children, if any, are ours now.
    pub(crate) fn hurry(&mut self, now: u64) {
        self.pause = SHORTEST_PAUSE;
        self.next_look = self.next_look.min(now + SHORTEST_PAUSE);
    }

    /// Kills everything in sight, once. Returns how many children there are.
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

    /// True once, when the kill has taken so long that the host should hear of it.
    pub(crate) fn is_held(&mut self, now: u64) -> bool {
        let held = self.held_at.is_some_and(|at| now >= at);
        if held {
            self.held_at = None;
        }
        held
    }

    fn worker(&mut self, worker: i32) {
        // No such group: the child has not come to setsid yet, and has no children of its own.
        match process::signal_group(worker, SIGKILL) {
            Err(Errno::ESRCH) => self.note(process::signal(worker, SIGKILL)),
            outcome => self.note(outcome),
        }
    }

    fn cgroup(&mut self, cgroup: &Fd) {
        // A kernel without cgroup.kill (before 5.14), or a cgroup that is gone: the children are found all the same.
        let killed = sys::open_in_to_write(cgroup, c"cgroup.kill").and_then(|file| sys::write(file.raw(), b"1"));
        if killed.is_ok() {
            self.flags |= flag::KILLED_CGROUP;
        }
    }

    /// A zombie counts as well: what is not reaped is still a child, and one whose threads live has not ended. That nothing is
    /// left is never told by this count, but by wait(2) when there is no child.
    fn children(&mut self, worker: i32) -> i32 {
        let own_group = process::group_of(0).unwrap_or(0);
        let mut count = 0;
        let looked = children::each(|child| {
            count += 1;
            if child != worker {
                self.flags |= flag::KILLED_STRAYS;
                self.note(kill_with_group(child, own_group));
            }
        });
        // When /proc cannot be read (EMFILE, ENOMEM, not mounted), the next look tries again.
        make_room(looked.err());
        count
    }

    fn note(&mut self, outcome: sys::Result<()>) {
        if outcome == Err(Errno::EPERM) {
            self.flags |= flag::REFUSED;
        }
    }
}

/// Kills a child, and with it its process group unless that is ours: groups never reach outside the tree, because
/// setpgid(2) keeps them inside a session, and sessions are inherited.
pub(crate) fn kill_with_group(child: i32, own_group: i32) -> sys::Result<()> {
    let outcome = process::signal(child, SIGKILL);
    match process::group_of(child) {
        // Members that died meanwhile, or refuse us, are found as children sooner or later.
        Ok(group) if group != own_group => drop(process::signal_group(group, SIGKILL)),
        _ => {}
    }
    outcome
}

/// Whether a child of ours is in this process group. A pass over /proc: for the rare case only.
pub(crate) fn group_has_child(group: i32) -> bool {
    let mut any = false;
    // Not being able to look counts as no: the group loses the rest of its grace, nothing is left behind.
    let _ = children::each(|child| any |= process::group_of(child) == Ok(group));
    any
}

/// Whether the cgroup has members. When that cannot be read for want of something, it may have; when the cgroup itself
/// is gone, it has none.
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

/// After a look for which no descriptor was left: somebody has lowered our limit, and the soft one is ours to raise. Where
/// that is refused, the next look fails as this one did.
fn make_room(error: Option<Errno>) {
    if error == Some(Errno::EMFILE) {
        let _ = process::raise_descriptor_limit();
    }
}
