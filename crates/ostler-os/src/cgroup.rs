//! Containment by cgroup v2 (cgroups(7)): where the host's own cgroup is ours to divide, each run gets a group in it and
//! each slot a group in that. A slot's worker is born inside (CLONE_INTO_CGROUP), nothing that it starts can leave, and
//! `cgroup.kill` ends all at once.
//!
//! Nothing depends on it: without a cgroup the sitter holds the tree. No controller is needed or enabled, so a hybrid
//! mount, where v2 stands beside v1, serves as well.
//!
//! ```text
//! <the host's own cgroup>/ostler-<run id>/embed-0
//! ```

mod locate;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ostler_core::ids::{RunId, WorkerId};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, fstatfs, open, openat};
use rustix::io::Errno;

use crate::identity::wait_any;

/// What a run's group is called, before the run's id.
const RUN_PREFIX: &str = "ostler-";

/// CGROUP2_SUPER_MAGIC of statfs(2).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// How often a group that is still busy is tried again.
const TICK: Duration = Duration::from_millis(2);

/// Whether cgroups are to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupUse {
    /// Where they can be had.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Why there is no containment by cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Switched off by an option.
    #[error("cgroups are switched off")]
    SwitchedOff,
    /// No cgroup v2 file system is mounted.
    #[error("no cgroup v2 file system is mounted")]
    NotMounted,
    /// We are in no v2 cgroup, or in one outside of what is mounted here (a container with the host's cgroup namespace).
    #[error("our own cgroup ({path}) is not within a cgroup v2 mount of ours")]
    NotVisible {
        /// Our cgroup, as the kernel names it.
        path: String,
    },
    /// The directory can't be written, as is usual in containers.
    #[error("{} can't be written: {source}", path.display())]
    NotWritable {
        /// Our cgroup's directory.
        path: PathBuf,
        /// EACCES or EROFS.
        source: io::Error,
    },
    /// systemd manages it and has not delegated it to us: it may change it at any time.
    #[error("{} is managed by systemd and not delegated to us (Delegate=yes)", path.display())]
    NotDelegated {
        /// Our cgroup's directory.
        path: PathBuf,
    },
    /// It has no `cgroup.kill` (before Linux 5.14), or is threaded, so that a group made in it holds no processes.
    #[error("a group in {} would lack what we need: {missing}", path.display())]
    Lacking {
        /// Our cgroup's directory.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// It could not be found out.
    #[error("cgroups could not be examined")]
    Examine {
        /// What went wrong.
        #[from]
        source: io::Error,
    },
}

/// The host's own cgroup, in which it may make groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    path: PathBuf,
}

impl Site {
    /// Finds the host's own cgroup and tries it out: a group is made in it and removed again. Blocks for a few
    /// milliseconds at most.
    ///
    /// # Errors
    /// [`Unusable`], which says what keeps us from it.
    pub fn find(usage: CgroupUse) -> Result<Self, Unusable> {
        if usage == CgroupUse::Off {
            return Err(Unusable::SwitchedOff);
        }
        let path = locate::own_directory()?;
        for file in [path.clone(), path.join("cgroup.procs")] {
            accessat(CWD, &file, Access::WRITE_OK, AtFlags::EACCESS).map_err(|error| Unusable::NotWritable {
                path: path.clone(),
                source: error.into(),
            })?;
        }
        if !locate::is_ours_to_divide(&path)? {
            return Err(Unusable::NotDelegated { path });
        }
        let site = Self { path };
        site.try_out()?;
        Ok(site)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the group of a run.
    ///
    /// # Errors
    /// When it can't be made, or is there already.
    pub fn create_run(&self, run: RunId) -> io::Result<RunGroup> {
        Ok(RunGroup {
            group: Group::create(self.path.join(format!("{RUN_PREFIX}{run}")))?,
        })
    }

    /// Whether a group made here has what we need; only making one tells.
    fn try_out(&self) -> Result<(), Unusable> {
        // Several instances of one process may look at a time.
        static TRIALS: AtomicU64 = AtomicU64::new(0);
        let number = TRIALS.fetch_add(1, Ordering::Relaxed);
        let trial = Group::create(
            self.path
                .join(format!("{RUN_PREFIX}trial-{}-{number}", std::process::id())),
        )?;
        let missing = trial.missing();
        trial.remove_until(Instant::now() + Duration::from_secs(1))?;
        match missing {
            Some(missing) => Err(Unusable::Lacking {
                path: self.path.clone(),
                missing,
            }),
            None => Ok(()),
        }
    }
}

/// The group of a run, with the groups of its slots in it.
#[derive(Debug)]
pub struct RunGroup {
    group: Group,
}

impl RunGroup {
    /// Makes the group of a slot. One that is there already (of this slot's earlier incarnation) is taken as it is.
    ///
    /// # Errors
    /// When it can't be made or opened.
    pub fn slot(&self, worker: &WorkerId) -> io::Result<Group> {
        self.slot_after(worker, 0)
    }

    /// The same, after so many groups of the slot were killed and could not be removed at once: the kernel calls a group
    /// busy for a moment after its last process, and a group whose kill was used kills what is started in it.
    ///
    /// # Errors
    /// When it can't be made or opened.
    pub fn slot_after(&self, worker: &WorkerId, spent: u64) -> io::Result<Group> {
        let path = self.group.path.join(slot_name(worker, spent));
        match Group::create(path.clone()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Group::open(path),
            result => result,
        }
    }

    /// The group of a dead run, by the path on its record; `None` when it is gone. What is no cgroup, or not called
    /// after that run, is not touched.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a path that is not that run's; else what opening it says.
    pub fn of_dead_run(path: &Path, run: RunId) -> io::Result<Option<Self>> {
        if path.file_name().and_then(|name| name.to_str()) != Some(&format!("{RUN_PREFIX}{run}")) {
            let message = format!("{} is not the cgroup of run {run}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        match Group::open(path.to_owned()) {
            Ok(group) => Ok(Some(Self { group })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The group itself: what is done to it is done to every slot's.
    pub fn group(&self) -> &Group {
        &self.group
    }
}

/// One cgroup of ours, with all that is below it.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    directory: OwnedFd,
}

impl Group {
    fn create(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        Self::open(path)
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let directory = open(&path, flags, Mode::empty())?;
        if u64::try_from(fstatfs(&directory)?.f_type).ok() != Some(CGROUP2_MAGIC) {
            let message = format!("{} is not in a cgroup v2 file system", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self { path, directory })
    }

    /// Its directory, as it goes on record.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of its directory, to be born into (CLONE_INTO_CGROUP).
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Sends SIGKILL to all processes in it and below, at once and safe against their forks. Does not wait. It is this very
    /// group that is killed, by its descriptor: never another that has got its path after it was removed.
    ///
    /// # Errors
    /// When the kernel refuses; a group that is gone is no error.
    pub fn kill(&self) -> io::Result<()> {
        let written = self
            .file("cgroup.kill", OFlags::WRONLY)
            .and_then(|mut file| file.write_all(b"1"));
        absent_is(written, ())
    }

    /// Whether it or a group below has a process. A zombie is none.
    ///
    /// # Errors
    /// When it can't be read; a group that is gone has none.
    pub fn is_populated(&self) -> io::Result<bool> {
        let text = absent_is(self.read("cgroup.events"), String::new())?;
        Ok(value_of(&text, "populated").is_some_and(|value| value != 0))
    }

    /// Waits until nobody is left in it and below; `false` when somebody is at the deadline. Blocks.
    ///
    /// # Errors
    /// As [`Group::is_populated`].
    pub fn is_empty_by(&self, deadline: Instant) -> io::Result<bool> {
        while self.is_populated()? {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            wait_any(&[], deadline.min(now + TICK))?;
        }
        Ok(true)
    }

    /// The pids in it and below, zombies included.
    ///
    /// # Errors
    /// When it can't be read; a group that is gone has none.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for path in with_those_below(&self.path)? {
            let text = absent_is(fs::read_to_string(path.join("cgroup.procs")), String::new())?;
            // 0 is a process of a PID namespace that we can't see into.
            pids.extend(
                text.lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    .filter(|pid| *pid > 0),
            );
        }
        Ok(pids)
    }

    /// How often the kernel's out-of-memory killer has struck in it; `None` where the memory controller is not enabled
    /// for it.
    pub fn oom_kills(&self) -> Option<u64> {
        value_of(&self.read("memory.events").ok()?, "oom_kill")
    }

    /// Removes it and all below, if nobody is left in them; `false` while somebody is. Never blocks.
    ///
    /// # Errors
    /// When the kernel refuses for another reason; a group that is gone is removed.
    pub fn try_remove(&self) -> io::Result<bool> {
        for path in with_those_below(&self.path)?.into_iter().rev() {
            match fs::remove_dir(&path) {
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(false),
                result => absent_is(result, ())?,
            }
        }
        Ok(true)
    }

    /// Like [`Group::try_remove`], tried again until the deadline: after the last process ended, the kernel may call a
    /// group busy for a moment more. Blocks.
    ///
    /// # Errors
    /// As [`Group::try_remove`].
    pub fn remove_until(&self, deadline: Instant) -> io::Result<bool> {
        while !self.try_remove()? {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            wait_any(&[], deadline.min(now + TICK))?;
        }
        Ok(true)
    }

    fn missing(&self) -> Option<&'static str> {
        if !self.path.join("cgroup.kill").exists() {
            return Some("cgroup.kill (Linux 5.14)");
        }
        let kind = self.read("cgroup.type").unwrap_or_default();
        (kind.trim() != "domain").then_some("it would be threaded and hold no processes")
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(file, OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// One of the kernel's files of this group, by its descriptor.
    fn file(&self, name: &str, access: OFlags) -> io::Result<fs::File> {
        let file = openat(&self.directory, name, access | OFlags::CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }
}

/// A path and all directories below it, parents first; empty when it is gone.
fn with_those_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next) {
        next += 1;
        let Some(entries) = absent_is(fs::read_dir(path).map(Some), None)? else {
            continue;
        };
        let below: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
    }
    Ok(found)
}

/// What is gone needs nothing more: ENOENT, and ENODEV of a file whose group was removed while it was open.
fn absent_is<T>(result: io::Result<T>, value: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(value),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(value),
        other => other,
    }
}

/// A number in a flat keyed file: `key value` a line.
fn value_of(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The directory of a slot. No name of a pool has the last sign: `web-1` with slot 2 is not `web` with slot 1, after two.
fn slot_name(worker: &WorkerId, spent: u64) -> String {
    let name = format!("{}-{}", plain(&worker.pool), worker.index);
    if spent > 0 { format!("{name}~{spent}") } else { name }
}

/// A pool's name as part of a directory's: letters, digits, `_` and `-` stay, other bytes become `%` and two digits.
/// One-to-one, and without the dots that the kernel's own files have.
fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => plain.push(char::from(byte)),
            other => plain.push_str(&format!("%{other:02x}")),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_to_one_and_without_dots() {
        assert_eq!(plain("embed_a-1"), "embed_a-1");
        assert_eq!(plain("a/b.c %"), "a%2fb%2ec%20%25");
        assert_ne!(plain("a%2f"), plain("a/"));
        let of = |pool: &str, index, spent| slot_name(&WorkerId::new(pool.to_owned(), index), spent);
        assert_eq!(of("web", 1, 0), "web-1");
        assert_ne!(of("web", 1, 2), of("web-1", 2, 0));
        assert_ne!(of("web~1", 2, 0), of("web", 1, 2));
    }

    #[test]
    fn keyed_files_are_read_by_whole_keys() {
        let text = "low 0\noom 1\noom_kill 3\noom_group_kill 0\n";
        assert_eq!(value_of(text, "oom_kill"), Some(3));
        assert_eq!(value_of(text, "oom"), Some(1));
        assert_eq!(value_of(text, "populated"), None);
    }
}
