//! A worker that the kernel's out-of-memory killer ends, in a memory cgroup of its host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::scene::{pool, pool_of, wrapped};
use ostler_tests::{SOON, Up, pid_of, send};

use crate::{assert_message, gives_up, text};

/// What a host with one worker may use: 96 MiB, several times what the host itself needs.
const LIMIT: &str = "100663296";

/// A memory cgroup with [`LIMIT`] and without swap, removed on drop.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Makes one, or prints why there is none.
    fn new() -> Option<Self> {
        static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("ostler-test-{}-{number}", std::process::id());
        let made = parents().into_iter().find_map(|parent| Self::below(&parent, &name));
        if made.is_none() {
            eprintln!("skipped: no memory cgroup that this user may write");
        }
        made
    }

    fn below(parent: &Path, name: &str) -> Option<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        let limited = ["memory.max", "memory.limit_in_bytes"]
            .iter()
            .any(|file| group.set(file, LIMIT));
        // Where there is no swap, the second file does not exist.
        let _ = group.set("memory.swap.max", "0") || group.set("memory.swappiness", "0");
        limited.then_some(group)
    }

    fn set(&self, file: &str, value: &str) -> bool {
        let file = self.0.join(file);
        file.exists() && fs::write(file, value).is_ok()
    }

    /// A script that enters the group, does this, and becomes the program of its arguments.
    fn entered(&self, first: &str) -> String {
        format!(
            "echo $$ > {}/cgroup.procs; {first}; exec \"$0\" \"$@\"",
            self.0.display()
        )
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Busy for a moment after its last process.
        let deadline = Instant::now() + SOON;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Cgroups in which a memory cgroup may be made: our own and its parents of v2, and of v1.
fn parents() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroups");
    let path_of = |line: &str| {
        line.rsplit(':')
            .next()
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned()
    };
    let mut parents = Vec::new();
    for line in own.lines() {
        let root = match line.split(':').nth(1) {
            Some("") => Path::new("/sys/fs/cgroup"),
            Some(controllers) if controllers.split(',').any(|name| name == "memory") => {
                Path::new("/sys/fs/cgroup/memory")
            }
            _ => continue,
        };
        let own = root.join(path_of(line));
        parents.extend(
            own.ancestors()
                .take_while(|path| path.starts_with(root))
                .map(Path::to_owned),
        );
    }
    parents
}

#[test]
fn out_of_memory_kill_is_reported_as_such() {
    let Some(group) = MemoryGroup::new() else { return };
    // It reads a line without end into its memory.
    let hog = |tag: &str| pool_of(&format!("[\"tail\", \"/dev/zero\", {tag:?}]"), "intensity = 0");
    let script = group.entered(":");
    let mut up = Up::start_with(hog, |command| wrapped(command, &["sh", "-c", &script]));
    let (failure, _) = gives_up(&mut up, "oom_killed");
    assert_message(&failure, &["out-of-memory killer"]);
    assert!(text(&failure, "suggestion").contains("memory limit"), "{failure}");
    assert_eq!(failure["signal"], "KILL", "{failure}");
}

/// The same cgroup has seen an out-of-memory kill before the worker was started.
#[test]
fn other_kill_in_a_memory_cgroup_stays_killed() {
    let Some(group) = MemoryGroup::new() else { return };
    let script = group.entered("(tail /dev/zero)");
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, "intensity = 0"),
        |command| wrapped(command, &["sh", "-c", &script]),
    );
    send(pid_of(&up.wait_for_event("worker.ready")), Signal::SIGKILL);
    gives_up(&mut up, "killed");
    let kills = ["memory.events", "memory.oom_control"]
        .iter()
        .filter_map(|file| fs::read_to_string(group.0.join(file)).ok())
        .any(|text| text.lines().any(|line| line == "oom_kill 1"));
    assert!(kills, "the hog was killed");
}
