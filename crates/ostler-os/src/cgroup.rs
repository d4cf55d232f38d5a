//! Containment by cgroup v2 (cgroups(7)). If the host may divide its own cgroup, each run gets a
//! group in it, and each slot a group in that. A slot's worker is created inside
//! (CLONE_INTO_CGROUP), none of its descendants can leave, and `cgroup.kill` ends all of them at
//! once.
//!
//! Cgroups are optional: without one, the sitter contains the tree. No controller is needed or
//! enabled, so a hybrid mount with v2 next to v1 works as well.
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

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, fstatfs, mkdirat, open, openat};
use rustix::io::Errno;

use crate::identity::wait_any;

pub(crate) use locate::{own_directory, own_memory_directory_v1};

/// The prefix of a run's group, before the run's id.
const RUN_PREFIX: &str = "ostler-";

/// CGROUP2_SUPER_MAGIC of statfs(2).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// How a group's directory is opened.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// The interval of retries for a group that is still busy.
const TICK: Duration = Duration::from_millis(2);

/// Whether cgroups are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupUse {
    /// If available.
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
    /// This process is in no v2 cgroup, or in one outside the visible mounts (a container with the
    /// host's cgroup namespace).
    #[error("this process's cgroup ({path}) is not within a visible cgroup v2 mount")]
    NotVisible {
        /// This process's cgroup, as named by the kernel.
        path: String,
    },
    /// The directory is not writable, as usual in containers.
    #[error("{} is not writable", path.display())]
    NotWritable {
        /// The directory of this process's cgroup.
        path: PathBuf,
        /// EACCES or EROFS.
        source: io::Error,
    },
    /// systemd manages the cgroup and has not delegated it, so it may change it at any time.
    #[error("{} is managed by systemd and not delegated (Delegate=yes)", path.display())]
    NotDelegated {
        /// The directory of this process's cgroup.
        path: PathBuf,
    },
    /// There is no `cgroup.kill` (before Linux 5.14), or the cgroup is threaded, so that a group in
    /// it cannot hold processes.
    #[error("a group in {} is not usable: {missing}", path.display())]
    Lacking {
        /// The directory of this process's cgroup.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// The check failed.
    #[error("checking cgroups failed")]
    Examine {
        /// The error.
        #[from]
        source: io::Error,
    },
}

/// The host's own cgroup, in which it may create groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    path: PathBuf,
}

impl Site {
    /// Finds the host's own cgroup and checks it by creating a group and removing it again. Blocks
    /// for a few milliseconds at most.
    ///
    /// # Errors
    ///
    /// [`Unusable`], with the reason.
    pub fn find(usage: CgroupUse) -> Result<Self, Unusable> {
        if usage == CgroupUse::Off {
            return Err(Unusable::SwitchedOff);
        }
        let path = own_directory()?;
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

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the group of a run.
    ///
    /// # Errors
    ///
    /// If it cannot be created, or already exists.
    pub fn create_run(&self, run: RunId) -> io::Result<RunGroup> {
        Ok(RunGroup {
            group: Group::create(self.path.join(format!("{RUN_PREFIX}{run}")))?,
        })
    }

    /// Checks whether a group created here works; only creating one shows that.
    fn try_out(&self) -> Result<(), Unusable> {
        // Several instances of one process may check at the same time.
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

/// The group of a run, which contains the groups of its slots.
#[derive(Debug)]
pub struct RunGroup {
    group: Group,
}

impl RunGroup {
    /// Creates the group of a slot. An existing one, of an earlier incarnation of the slot, is
    /// reused.
    ///
    /// The groups of the worker's incarnations up to `spent_until` are not used again: they were
    /// killed, a killed group kills what is started in it, and the kernel reports a group as busy
    /// for a moment after its last process, so that it may still exist. Incarnations of a worker
    /// are numbered through the whole run, also when its pool is stopped and started again.
    ///
    /// # Errors
    ///
    /// If it cannot be created or opened.
    pub fn slot(&self, worker: &WorkerId, spent_until: Option<Incarnation>) -> io::Result<Group> {
        let name = slot_name(worker, spent_until);
        // Relative to the run's group, which is known to be a cgroup.
        let parent = &self.group.directory;
        let directory = match openat(parent, &name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {
                match mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(parent, &name, DIRECTORY, Mode::empty())?
            }
            result => result?,
        };
        let path = self.group.path.join(name);
        Ok(Group { path, directory })
    }

    /// Opens the group of a dead run by the path in its record; `None` if it is gone. A path that
    /// is not a cgroup, or not named after that run, is not touched.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for a path that does not belong to that run; otherwise the
    /// error of opening it.
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

    /// The group itself. Operations on it affect every slot.
    pub fn group(&self) -> &Group {
        &self.group
    }
}

/// A cgroup and all groups below it.
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
        let directory = open(&path, DIRECTORY, Mode::empty())?;
        if u64::try_from(fstatfs(&directory)?.f_type).ok() != Some(CGROUP2_MAGIC) {
            let message = format!("{} is not in a cgroup v2 file system", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self { path, directory })
    }

    /// The directory, as stored in the record.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of the directory, for CLONE_INTO_CGROUP.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Sends SIGKILL to all processes in it and below, atomically with respect to their forks. Does
    /// not wait. The group is identified by its descriptor, so another group that reused its path
    /// after its removal is never killed.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. A group that is gone is not an error.
    pub fn kill(&self) -> io::Result<()> {
        let written = self
            .file("cgroup.kill", OFlags::WRONLY)
            .and_then(|mut file| file.write_all(b"1"));
        absent_is(written, ())
    }

    /// Whether it or a group below contains a process. Zombies do not count.
    ///
    /// # Errors
    ///
    /// If it cannot be read. A group that is gone contains none.
    pub fn is_populated(&self) -> io::Result<bool> {
        let text = absent_is(self.read("cgroup.events"), String::new())?;
        Ok(value_of(&text, "populated").is_some_and(|value| value != 0))
    }

    /// Waits until no process is left in it and below. Returns `false` if some are left at the
    /// deadline. Blocks.
    ///
    /// # Errors
    ///
    /// The same as [`Group::is_populated`].
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

    /// The pids in it and below, including zombies.
    ///
    /// # Errors
    ///
    /// If it cannot be read. A group that is gone contains none.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for path in with_descendants(&self.path)? {
            let text = absent_is(fs::read_to_string(path.join("cgroup.procs")), String::new())?;
            // 0 is a process of a PID namespace that is not visible from here.
            pids.extend(
                text.lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    .filter(|pid| *pid > 0),
            );
        }
        Ok(pids)
    }

    /// Removes it and all groups below that are empty; returns `false` if some are not. Never
    /// blocks.
    ///
    /// # Errors
    ///
    /// If the kernel refuses for another reason. A group that is gone counts as removed.
    pub fn try_remove(&self) -> io::Result<bool> {
        remove(&self.path)
    }

    /// Like [`Group::try_remove`], but retries until the deadline, because the kernel may report a
    /// group as busy for a moment after its last process ended. Blocks.
    ///
    /// # Errors
    ///
    /// The same as [`Group::try_remove`].
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
        (kind.trim() != "domain").then_some("it would be threaded and could not hold processes")
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(file, OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Opens one of the kernel's files of this group, relative to its descriptor.
    fn file(&self, name: &str, access: OFlags) -> io::Result<fs::File> {
        let file = openat(&self.directory, name, access | OFlags::CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }
}

/// Removes a group and all groups below that are empty. Returns whether all of them were.
///
/// Tries before it looks: nearly every group has none below, and to list the kernel's twenty files
/// in it takes longer than its removal (30 µs and 27).
fn remove(path: &Path) -> io::Result<bool> {
    if removed(path)? {
        return Ok(true);
    }
    let mut empty = true;
    for below in groups_in(path)? {
        empty &= remove(&below)?;
    }
    Ok(empty && removed(path)?)
}

/// Whether a group is gone after an attempt to remove it. One with a process or a group in it is
/// busy.
fn removed(path: &Path) -> io::Result<bool> {
    match fs::remove_dir(path) {
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Ok(false),
        result => absent_is(result, ()).map(|()| true),
    }
}

/// A group and all groups below it, parents first.
fn with_descendants(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next) {
        next += 1;
        let below = groups_in(path)?;
        found.extend(below);
    }
    Ok(found)
}

/// The groups directly below a group; none if it is gone.
fn groups_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = absent_is(fs::read_dir(path).map(Some), None)?;
    let groups = entries.into_iter().flatten().flatten();
    Ok(groups
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// Maps errors for a missing group to `value`: ENOENT, and ENODEV for a file whose group was
/// removed while it was open.
fn absent_is<T>(result: io::Result<T>, value: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(value),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(value),
        other => other,
    }
}

/// A number in a flat keyed file with one `key value` per line.
pub(crate) fn value_of(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The directory of a slot. Pool names cannot contain the last separator, so slot 2 of `web-1`
/// differs from slot 1 of `web` whose second incarnation was killed.
fn slot_name(worker: &WorkerId, spent_until: Option<Incarnation>) -> String {
    let name = format!("{}-{}", plain(&worker.pool), worker.index);
    match spent_until {
        Some(Incarnation(last)) => format!("{name}~{last}"),
        None => name,
    }
}

/// A pool's name as part of a directory name: letters, digits, `_` and `-` are kept, other bytes
/// become `%` and two digits. One-to-one, and without dots, which the kernel's own files have.
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
    fn names_are_unique_and_without_dots() {
        assert_eq!(plain("embed_a-1"), "embed_a-1");
        assert_eq!(plain("a/b.c %"), "a%2fb%2ec%20%25");
        assert_ne!(plain("a%2f"), plain("a/"));
        let of = |pool: &str, index, spent: Option<u64>| {
            slot_name(&WorkerId::new(pool.to_owned(), index), spent.map(Incarnation))
        };
        assert_eq!(of("web", 1, None), "web-1");
        assert_ne!(of("web", 1, Some(2)), of("web-1", 2, None));
        assert_ne!(of("web~1", 2, None), of("web", 1, Some(2)));
    }

    #[test]
    fn keyed_files_are_read_by_complete_keys() {
        let text = "low 0\noom 1\noom_kill 3\noom_group_kill 0\n";
        assert_eq!(value_of(text, "oom_kill"), Some(3));
        assert_eq!(value_of(text, "oom"), Some(1));
        assert_eq!(value_of(text, "populated"), None);
    }
}
