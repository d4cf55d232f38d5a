//! Test environments, the processes of a run, and ways to kill them.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use procfs::process::Process;

use crate::scene::{killed_with_the_test, unprivileged, unshared, wrapped};
use crate::sweep::sweep;
use crate::{SOON, Up, has_ended, program, send, survivors};

/// Whether the long form of the tests is enabled by `OSTLER_TEST_LONG=1`. It takes minutes and
/// needs the machine to itself.
pub fn long_form() -> bool {
    std::env::var_os("OSTLER_TEST_LONG").is_some_and(|value| value == "1")
}

/// The number of repetitions: `few`, or `long` in the long form.
pub fn rounds(few: u32, long: u32) -> u32 {
    if long_form() { long } else { few }
}

/// The environment of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// Everything that this machine provides.
    AsItIs,
    /// No cgroup v2 hierarchy is mounted.
    WithoutCgroups,
    /// The cgroup v2 hierarchy is mounted read-only, as in most containers.
    ReadOnlyCgroups,
    /// An unprivileged user without a cgroup.
    Unprivileged,
}

impl World {
    /// The environments available to this user. The others are listed on stderr.
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

    /// Changes a run's command to run in this environment.
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

/// The processes of a run, from `/proc`.
#[derive(Debug, Clone)]
pub struct Anatomy {
    /// The `ostler` program, or the program that embeds Ostler.
    pub host: u32,
    /// Its guardian.
    pub guardian: u32,
    /// The guardian's sitters.
    pub sitters: Vec<u32>,
}

impl Anatomy {
    /// Reads the processes of the run of this host.
    ///
    /// # Panics
    ///
    /// If the host does not have exactly one guardian.
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

    /// All processes.
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

/// Whether a process is running. Zombies do not count.
pub fn is_alive(pid: u32) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    process
        .and_then(|process| process.stat().ok())
        .is_some_and(|stat| !has_ended(&stat))
}

/// The children of a process, without those that have ended.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = procfs::process::all_processes() else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| process.stat().ok())
        .filter(|stat| u32::try_from(stat.ppid) == Ok(parent) && !has_ended(stat))
        .filter_map(|stat| u32::try_from(stat.pid).ok())
        .collect()
}

/// Kills these processes so that none can react to another's death: all are stopped first.
pub fn kill_at_once(pids: &[u32]) {
    pids.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    pids.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
}

/// Waits until the number of processes with this tag matches.
///
/// # Panics
///
/// If that takes too long.
pub fn await_count(tag: &str, what: &str, fits: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let there = survivors(tag);
        if fits(there.len()) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "expected {what}, found {}: {there:?}",
            there.len()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The host is dying: everything that it started ends by itself, and a sweep leaves nothing of the
/// run.
///
/// # Panics
///
/// If something is left.
pub fn assert_all_end_with_the_host(up: &mut Up) {
    await_count(&up.tag, "gone", |count| count == 0);
    // The lock is released once the host has ended.
    up.end(SOON);
    sweep(&up.state());
    up.assert_nothing_left();
}

/// An unrelated process that looks like a worker of the run: the same program with the same
/// arguments, except for a different tag. Killed on drop, so that a failing test leaves nothing
/// behind.
#[derive(Debug)]
pub struct Bystander(Child);

impl Bystander {
    /// Starts one in its own process group.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn like_a_worker(modes: &str, tag: &str) -> Self {
        let mut command = Command::new(program("ostler-test-worker"));
        command.args([modes, "{port}", &format!("{tag} ")]);
        Self::start(&mut command)
    }

    /// Starts this command.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let mut command = killed_with_the_test(command);
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("bystander starts"))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Asserts that the process has neither ended nor been stopped.
    ///
    /// # Panics
    ///
    /// If it has.
    pub fn assert_untouched(&mut self) {
        let ended = self.0.try_wait().expect("child of the test");
        assert!(ended.is_none(), "bystander was affected: {ended:?}");
        let state = Process::new(i32::try_from(self.pid()).expect("valid pid")).and_then(|process| process.stat());
        let state = state.expect("bystander is running").state;
        assert!(!matches!(state, 'T' | 't' | 'Z'), "bystander is in state {state}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Set when a test runs itself again inside a namespace.
const INSIDE: &str = "OSTLER_TEST_INSIDE";

/// Runs a test in a PID namespace of its own. The test calls this first. Outside, this runs the
/// test again inside the namespace, fails if that fails, and returns false; inside, it returns true
/// and the test's body runs. Pid 1 in the namespace is a shell, which reaps orphans.
///
/// # Panics
///
/// If the test fails inside the namespace.
pub fn inside_a_pid_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some(wrapper) = unshared(&["--pid", "--fork", "--kill-child", "--mount-proc"]) else {
        return false;
    };
    let mut outside = Command::new(&wrapper[0]);
    outside.args(&wrapper[1..]);
    // If this program is killed, so is unshare(1), and with its child everything inside.
    let output = killed_with_the_test(&outside)
        .args(["sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(std::env::current_exe().expect("path of the test program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("running the test again");
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success() && text.contains("1 passed"), "inside: {text}");
    false
}
