//! A directory of one test, and the end of every process that the test has started, however the
//! test ends: it passes, it fails, or its program is killed.
//!
//! A process belongs to a test if the name of the test's directory occurs in its command line, its
//! environment, its working directory or one of its open files, or if one of its ancestors belongs
//! to the test. Guardians and sitters hold a lock in the directory, and workers carry it in their
//! command line. Tests that kill and stop processes at random rely on this: no host may be left to
//! end the rest.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ostler_core::signal::Signal;
use ostler_os::identity::{Attribution, ProcessHandle};
use procfs::process::Process;

use crate::{has_ended, program, shown_in};

/// How long processes have to be gone after they were killed.
const GONE: Duration = Duration::from_secs(10);

/// The directory of a test. On drop, all processes of the test are killed and the directory is
/// removed. If the test program is killed, the janitor does both.
#[derive(Debug)]
pub struct TestDirectory(Option<tempfile::TempDir>);

impl TestDirectory {
    /// Creates a directory with a unique name.
    ///
    /// # Panics
    ///
    /// If the directory cannot be created.
    #[expect(clippy::new_without_default, reason = "it creates a directory")]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        tell_janitor('+', directory.path());
        Self(Some(directory))
    }

    /// The directory's path.
    ///
    /// # Panics
    ///
    /// Never: only a drop takes the directory.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("directory exists until the drop").path()
    }

    /// The directory's name, which is unique.
    pub fn name(&self) -> String {
        let name = self.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Kills all processes of the test, and keeps the directory.
    pub fn keep(mut self) -> PathBuf {
        let path = self.path().to_owned();
        end_all_of(&path);
        tell_janitor('-', &path);
        if let Some(directory) = self.0.take() {
            drop(directory.keep());
        }
        path
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        if let Some(directory) = self.0.take() {
            let path = directory.path().to_owned();
            end_all_of(&path);
            drop(directory);
            tell_janitor('-', &path);
        }
    }
}

/// Tells the janitor of this program about a directory. The first call starts the janitor.
fn tell_janitor(what: char, path: &Path) {
    static JANITOR: Mutex<Option<ChildStdin>> = Mutex::new(None);
    let mut janitor = JANITOR.lock().unwrap_or_else(PoisonError::into_inner);
    let input = janitor.get_or_insert_with(start_janitor);
    // Without a janitor, only a killed test program leaves something.
    _ = writeln!(input, "{what}{}", path.display());
}

/// The janitor notices this program's end by the end of its input. It is in a process group of its
/// own, so that the signals of a terminal do not end it.
#[expect(clippy::zombie_processes, reason = "it ends after this program")]
fn start_janitor() -> ChildStdin {
    let mut command = Command::new(program("ostler-test-janitor"));
    command
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("janitor starts");
    child.stdin.take().expect("piped stdin")
}

/// Kills the processes of the test with this directory until none is left.
pub fn end_all_of(directory: &Path) {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.').as_bytes();
    let attribution = Attribution::new("test", "left by a test");
    let deadline = Instant::now() + GONE;
    loop {
        let found = processes_of(name);
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in found {
            // Checked again once the process is held: until then its pid can be reused.
            if let Ok(Some(process)) = ProcessHandle::open(pid)
                && (mentions(pid, name) || processes_of(name).contains(&pid))
            {
                _ = process.signal(Signal::KILL, &attribution);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The name of a janitor's process, as far as the kernel keeps it.
const JANITOR: &str = "ostler-test-jan";

/// The living processes of a test, except this process and its ancestors, and janitors. A test
/// program that another test runs has a janitor, too, which has to end what that one has left, and
/// ends by itself.
fn processes_of(name: &[u8]) -> HashSet<i32> {
    let Ok(all) = procfs::process::all_processes() else {
        return HashSet::new();
    };
    let parents: HashMap<i32, i32> = all
        .flatten()
        .filter_map(|process| process.stat().ok())
        .filter(|stat| !has_ended(stat) && stat.comm != JANITOR)
        .map(|stat| (stat.pid, stat.ppid))
        .collect();
    let own = std::process::id().cast_signed();
    let lineage = |pid: i32| std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).take(1_000);
    let spared: HashSet<i32> = lineage(own).collect();
    let mut known: HashMap<i32, bool> = HashMap::new();
    let mut belongs = |pid: i32| *known.entry(pid).or_insert_with(|| mentions(pid, name));
    parents
        .keys()
        .copied()
        .filter(|pid| lineage(*pid).take_while(|pid| !spared.contains(pid)).any(&mut belongs))
        .collect()
}

/// Whether the process mentions this name.
fn mentions(pid: i32, name: &[u8]) -> bool {
    let has = |bytes: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    let in_file = |file: PathBuf| std::fs::read(file).is_ok_and(|bytes| has(&bytes));
    let shows_it = |directory: PathBuf| in_file(directory.join("cmdline")) || in_file(directory.join("environ"));
    shown_in(pid).into_iter().any(shows_it) || holds_a_file(pid, &has)
}

/// Whether its working directory or an open file has such a path.
fn holds_a_file(pid: i32, has: &impl Fn(&[u8]) -> bool) -> bool {
    let Ok(process) = Process::new(pid) else { return false };
    let path_has = |path: &Path| has(path.as_os_str().as_encoded_bytes());
    let is_there = process.cwd().is_ok_and(|path| path_has(&path));
    is_there
        || process
            .fd()
            .into_iter()
            .flatten()
            .flatten()
            .any(|open| match open.target {
                procfs::process::FDTarget::Path(path) => path_has(&path),
                _ => false,
            })
}
