//! Kills by the kernel's out-of-memory killer, as memory cgroups count them.
//!
//! wait(2) shows such a kill as any other SIGKILL. A memory cgroup counts the processes in it that
//! the out-of-memory killer has killed, whether its own limit or the whole machine ran out: cgroup
//! v2 in `memory.events`, v1 in `memory.oom_control`. Reading the count needs no right to divide
//! the cgroup, so it also works in containers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::cgroup::{own_directory, own_memory_directory_v1, value_of};

/// The files that contain the count, under the key `oom_kill`, in v2 and v1.
const FILES: [&str; 2] = ["memory.events", "memory.oom_control"];

/// More than such a file contains, in bytes.
const LONGEST: usize = 1024;

/// The parent of a cgroup that had no count. Controllers are enabled for all groups in a group
/// (`cgroup.subtree_control`), so that its siblings have none either.
static WITHOUT_COUNTS: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A memory cgroup's count of out-of-memory kills.
///
/// Several workers may share one count: usually only the host's own cgroup has the memory
/// controller, because the kernel does not enable it below a cgroup that contains processes. So
/// each kill is attributed to one process only.
#[derive(Debug)]
struct OomCount {
    file: PathBuf,
    /// Kept open where many workers share it: in a cgroup's files, a path costs more than the read.
    open: Option<File>,
    /// The kills up to this one are attributed.
    attributed: Mutex<u64>,
}

impl OomCount {
    /// The count in the directory of a memory cgroup; `None` if there is none, as in a cgroup
    /// without the memory controller.
    fn of(directory: &Path) -> Option<Arc<Self>> {
        let mut counts = FILES.iter().map(|file| Self {
            file: directory.join(file),
            open: None,
            attributed: Mutex::default(),
        });
        counts.find(|count| count.read().is_some()).map(Arc::new)
    }

    /// The same, without a look if a sibling of the directory had none.
    fn of_group(directory: &Path) -> Option<Arc<Self>> {
        let parent = directory.parent();
        let mut without = WITHOUT_COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        if without.is_some() && without.as_deref() == parent {
            return None;
        }
        let count = Self::of(directory);
        if count.is_none() {
            *without = parent.map(Path::to_owned);
        }
        count
    }

    /// The count of this process's own memory cgroup, looked up once.
    fn of_this_process() -> Option<Arc<Self>> {
        static OWN: LazyLock<Option<Arc<OomCount>>> = LazyLock::new(|| {
            let v2 = own_directory().ok().and_then(|directory| OomCount::of(&directory));
            let mut count = v2.or_else(|| OomCount::of(&own_memory_directory_v1()?))?;
            if let Some(count) = Arc::get_mut(&mut count) {
                count.open = File::open(&count.file).ok();
            }
            Some(count)
        });
        OWN.clone()
    }

    /// Watches for further kills. `None` if the count cannot be read.
    fn watch(self: &Arc<Self>) -> Option<OomWatch> {
        Some(OomWatch {
            before: self.read()?,
            count: Arc::clone(self),
        })
    }

    fn read(&self) -> Option<u64> {
        let Some(file) = &self.open else {
            return value_of(&fs::read_to_string(&self.file).ok()?, "oom_kill");
        };
        let mut text = [0; LONGEST];
        let length = file.read_at(&mut text, 0).ok()?;
        value_of(std::str::from_utf8(&text[..length]).ok()?, "oom_kill")
    }
}

/// Looks out for the out-of-memory kill of one process.
#[derive(Debug)]
pub struct OomWatch {
    count: Arc<OomCount>,
    /// The count when the watch began. Earlier kills hit other processes.
    before: u64,
}

impl OomWatch {
    /// Begins a watch for a process that is about to be spawned into this cgroup (or into none).
    /// Uses the cgroup's own count if it has one, otherwise the count of this process's cgroup.
    /// `None` where no memory cgroup is visible.
    pub fn begin(cgroup: Option<&Path>) -> Option<Self> {
        let own = cgroup.and_then(OomCount::of_group);
        own.or_else(OomCount::of_this_process)?.watch()
    }

    /// Attributes a kill to the process, which has ended by SIGKILL. Returns `false` if there was
    /// none since the watch began, or if each was attributed to another process.
    ///
    /// The count does not say which process was killed: if a child of a worker was, a later
    /// SIGKILL from elsewhere is taken for that kill.
    pub fn attribute_kill(self) -> bool {
        let mut attributed = self.count.attributed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.before.max(*attributed);
        let is_new = self.count.read().is_some_and(|kills| kills > known);
        if is_new {
            *attributed = known + 1;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a memory cgroup of v2.
    fn cgroup(kills: u64) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("temporary directory");
        set(directory.path(), kills);
        directory
    }

    fn set(directory: &Path, kills: u64) {
        let text = format!("low 0\nhigh 0\nmax 7\noom 9\noom_kill {kills}\noom_group_kill 0\n");
        fs::write(directory.join("memory.events"), text).expect("written");
    }

    fn watch(count: &Arc<OomCount>) -> OomWatch {
        count.watch().expect("the count is readable")
    }

    #[test]
    fn only_kills_since_the_beginning_count() {
        let directory = cgroup(3);
        let begin = || OomWatch::begin(Some(directory.path())).expect("a count");
        assert!(!begin().attribute_kill(), "the kills of earlier incarnations");
        let watch = begin();
        set(directory.path(), 4);
        assert!(watch.attribute_kill());
    }

    #[test]
    fn one_kill_is_attributed_to_one_process() {
        let directory = cgroup(0);
        let count = OomCount::of(directory.path()).expect("a count");
        let [first, second, third] = [watch(&count), watch(&count), watch(&count)];
        set(directory.path(), 1);
        let late = watch(&count);
        assert!(first.attribute_kill());
        assert!(!second.attribute_kill(), "the kill was the first one's");
        set(directory.path(), 2);
        assert!(late.attribute_kill());
        assert!(!third.attribute_kill());
    }

    #[test]
    fn version_1_is_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("memory.oom_control");
        fs::write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").expect("written");
        let count = OomCount::of(directory.path()).expect("a count");
        let watch = watch(&count);
        fs::write(&file, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").expect("written");
        assert!(watch.attribute_kill());
    }

    #[test]
    fn a_cgroup_without_a_memory_controller_has_no_count() {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert!(OomCount::of(directory.path()).is_none());
        // Before Linux 4.13, v1 did not count.
        fs::write(
            directory.path().join("memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\n",
        )
        .expect("written");
        assert!(OomCount::of(directory.path()).is_none());
    }

    #[test]
    fn a_count_that_disappears_attributes_nothing() {
        let directory = cgroup(0);
        let watch = OomWatch::begin(Some(directory.path())).expect("a count");
        drop(directory);
        assert!(!watch.attribute_kill());
    }
}
