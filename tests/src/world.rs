//! In what surroundings a run is tested, who belongs to it, and how it is killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use procfs::process::Process;

use crate::scene::{dying_with_us, unprivileged, unshared, wrapped};
use crate::{SOON, program, send, survivors};

/// Whether the long form of the tests is asked for: `OSTLER_TEST_LONG=1`. It takes minutes, and wants the machine alone.
pub fn long_form() -> bool {
    std::env::var_os("OSTLER_TEST_LONG").is_some_and(|value| value == "1")
}

/// How often a test does what it does: few times, or in the long form this often.
pub fn rounds(few: u32, long: u32) -> u32 {
    if long_form() { long } else { few }
}

/// What a run finds around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// All that this machine has.
    AsItIs,
    /// No cgroup v2 is mounted.
    WithoutCgroups,
    /// It is mounted, and can't be written, as in most containers.
    ReadOnlyCgroups,
    /// An unprivileged user, who has no cgroup.
    Unprivileged,
}

impl World {
    /// Those that this user can have; the others are named on stderr.
    pub fn all() -> Vec<Self> {
        let mut worlds = vec![Self::AsItIs];
        if unshared(&["--mount"]).is_some() {
            worlds.extend([Self::WithoutCgroups, Self::ReadOnlyCgroups]);
        }
        if nix::unistd::geteuid().is_root() {
            worlds.push(Self::Unprivileged);
        }
        worlds
    }

    /// Changes the command of a run so that it is run there.
    pub fn apply(self, command: &mut Command) {
        match self {
            Self::AsItIs => {}
            Self::WithoutCgroups => in_own_mounts(command, "umount -a -t cgroup2"),
            Self::ReadOnlyCgroups => in_own_mounts(
                command,
                "for at in $(findmnt -n -o TARGET -t cgroup2); do mount -o remount,bind,ro $at; done",
            ),
            Self::Unprivileged => unprivileged(command, 64_110),
        }
    }
}

fn in_own_mounts(command: &mut Command, first: &str) {
    let line = format!("{first} && exec \"$0\" \"$@\"");
    wrapped(command, &["unshare", "--mount", "sh", "-c", &line]);
}

/// Who belongs to a run, by `/proc`.
#[derive(Debug, Clone)]
pub struct Anatomy {
    /// The program, or whatever embeds Ostler.
    pub host: u32,
    /// Its guardian.
    pub guardian: u32,
    /// The guardian's sitters.
    pub sitters: Vec<u32>,
}

impl Anatomy {
    /// # Panics
    /// When the host has not exactly one guardian.
    pub fn of(host: u32) -> Self {
        let guardians: Vec<u32> = children(host)
            .into_iter()
            .filter(|pid| name(*pid).as_deref() == Some("ostler-guardian"))
            .collect();
        let [guardian] = guardians[..] else {
            panic!("the guardians of {host}: {guardians:?}");
        };
        Self {
            host,
            guardian,
            sitters: children(guardian),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<u32> {
        [self.host, self.guardian]
            .into_iter()
            .chain(self.sitters.clone())
            .collect()
    }
}

fn name(pid: u32) -> Option<String> {
    Some(Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?.comm)
}

/// Whether a process lives. A zombie, which waits for its parent alone, does not.
pub fn is_alive(pid: u32) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    process
        .and_then(|process| process.stat().ok())
        .is_some_and(|stat| stat.state != 'Z')
}

/// The children of a process that have not ended.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = procfs::process::all_processes() else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| process.stat().ok())
        .filter(|stat| u32::try_from(stat.ppid) == Ok(parent) && stat.state != 'Z')
        .filter_map(|stat| u32::try_from(stat.pid).ok())
        .collect()
}

/// Kills them so that none can do anything for another's death: they are stopped first.
pub fn kill_at_once(pids: &[u32]) {
    pids.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    pids.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
}

/// Waits until as many processes have the tag as it should be.
///
/// # Panics
/// When that takes too long.
pub fn await_count(tag: &str, what: &str, fits: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let there = survivors(tag);
        if fits(there.len()) {
            return;
        }
        assert!(Instant::now() < deadline, "not {what} but {}: {there:?}", there.len());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A stranger that looks like a worker of the run: the same program with the same arguments, and the tag is not its own. It
/// is killed at the end, however the test ends.
#[derive(Debug)]
pub struct Stranger(Child);

impl Stranger {
    /// Starts one, in a process group of its own.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn like_a_worker(modes: &str, tag: &str) -> Self {
        let mut command = Command::new(program("ostler-test-worker"));
        command.args([modes, "{port}", &format!("{tag} ")]);
        Self::start(&mut command)
    }

    /// Starts this one.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(command: &mut Command) -> Self {
        let mut command = dying_with_us(command);
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("the stranger starts"))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// # Panics
    /// When it has ended, or was so much as stopped.
    pub fn assert_untouched(&mut self) {
        let ended = self.0.try_wait().expect("it is ours");
        assert!(ended.is_none(), "the stranger was touched: {ended:?}");
        let state = Process::new(i32::try_from(self.pid()).expect("a pid")).and_then(|process| process.stat());
        let state = state.expect("it lives").state;
        assert!(!matches!(state, 'T' | 't' | 'Z'), "the stranger is in state {state}");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What is set for a test that runs itself again in namespaces of its own.
const INSIDE: &str = "OSTLER_TEST_INSIDE";

/// Whether the body of a test is to be run here, in a PID namespace of its own: the test calls this first, and is run again
/// inside, where this is true; outside it fails as the inner one does. Pid 1 there is a shell, which reaps what is left to it.
///
/// # Panics
/// When the test fails inside.
pub fn inside_a_pid_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some(wrapper) = unshared(&["--pid", "--fork", "--mount-proc"]) else {
        return false;
    };
    let output = Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .args(["sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(std::env::current_exe().expect("a test has a program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("it is run again");
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success() && text.contains("1 passed"), "inside: {text}");
    false
}
