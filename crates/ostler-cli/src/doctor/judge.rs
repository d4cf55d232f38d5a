//! What the facts about a machine mean for the promises. Pure: the same facts, the same findings.

use crate::python;
use std::io;
use std::path::PathBuf;

use ostler::limits::{DESCRIPTORS_PER_WORKER, PROCESSES_PER_WORKER};
use ostler_core::chain::chain;
use ostler_os::cgroup::Unusable;
use ostler_os::guardian::ProgramFrom;
use ostler_os::machine::{Machine, Proc};
use ostler_registry::RunDirError;

/// The oldest kernel that has all that Ostler is built on (`cgroup.kill` is the youngest): 5.14.
const KERNEL: (u32, u32) = (5, 14);

/// What was found out.
pub(super) struct Facts {
    pub(super) machine: Machine,
    /// Where the guardian's program came from, or why it can't be started.
    pub(super) guardian: Result<ProgramFrom, String>,
    /// Where runs can live, or why not; the outer error: there is no such directory.
    pub(super) state: Result<Result<PathBuf, RunDirError>, String>,
    /// How many workers the file has; `None` without a file.
    pub(super) workers: Option<u64>,
}

/// How a promise stands, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing is wanting.
    Holds,
    /// A promise holds in fewer cases.
    Weaker,
    /// A promise can't hold.
    Broken,
    /// It could not be found out.
    Unknown,
}

impl Level {
    /// The word for it, in text and JSON.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Weaker => "weaker",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
}

/// One fact and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Its name, fixed: see docs/cli.md.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// What is so.
    pub(super) found: String,
    /// What that means for the promises.
    pub(super) means: String,
    /// What to do about it.
    pub(super) advice: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, found: impl Into<String>, means: impl Into<String>) -> Self {
        Self {
            check,
            level,
            found: found.into(),
            means: means.into(),
            advice: None,
        }
    }

    fn advised(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Every fact, and what it means.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let machine = &facts.machine;
    vec![
        kernel(machine.kernel.as_deref()),
        proc(machine),
        namespace(machine),
        subreaper(&machine.subreaper),
        pidfd(machine),
        guardian(&facts.guardian, machine),
        cgroup(&machine.cgroup),
        ptrace(machine),
        state(&facts.state),
        descriptors(machine.descriptors, facts.workers),
        processes(machine, facts.workers),
    ]
}

/// Whether the workers of a Python pool can be imported.
pub(super) fn python(found: &python::Finding) -> Finding {
    let said = format!("pool {}: {}", found.pool, found.found);
    if found.problems.is_empty() {
        return Finding::new("python", Level::Holds, said, "its workers can be imported");
    }
    let (problems, advice): (Vec<_>, Vec<_>) = found.problems.iter().cloned().unzip();
    Finding::new("python", Level::Broken, said, problems.join("; ")).advised(advice.join("; "))
}

fn kernel(release: Option<&str>) -> Finding {
    let Some(release) = release else {
        let means = "whether it has what Ostler needs is unknown";
        return Finding::new("kernel", Level::Unknown, "/proc does not show its release", means).advised("mount /proc");
    };
    let found = format!("Linux {release}");
    match version(release) {
        Some(version) if version >= KERNEL => {
            let means = "it has everything that Ostler needs (5.14 or newer)";
            Finding::new("kernel", Level::Holds, found, means)
        }
        Some(_) => {
            let means = "it is older than 5.14: Ostler is not tested on it, and has no cgroup.kill there";
            Finding::new("kernel", Level::Broken, found, means).advised("use Linux 5.14 or newer")
        }
        None => Finding::new("kernel", Level::Unknown, found, "its version can't be read from that"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn proc(machine: &Machine) -> Finding {
    match &machine.proc {
        Err(error) => Finding::new(
            "proc",
            Level::Broken,
            format!("/proc can't be read: {error}"),
            "no process can be identified, so nothing can be started: Ostler does not run",
        )
        .advised("mount all of /proc (not with subset=pid)"),
        Ok(Proc { hidepid: None, .. }) => Finding::new(
            "proc",
            Level::Holds,
            "/proc is readable and hides no process",
            "every process can be identified, and the holder of a port or a tree can be named",
        ),
        Ok(_) if machine.uid == 0 => Finding::new(
            "proc",
            Level::Holds,
            "/proc is mounted with hidepid, which hides no process from root",
            "every process can be identified, and the holder of a port or a tree can be named",
        ),
        Ok(Proc {
            hidepid: Some(hidepid), ..
        }) => Finding::new(
            "proc",
            Level::Weaker,
            format!("/proc is mounted with hidepid={hidepid}"),
            "workers that change their user are hidden: they count as unknown, a sweep leaves them alone, and a port's holder of another user has no name",
        )
        .advised("mount /proc with hidepid=0, or with gid= of a group that runs Ostler"),
    }
}

fn namespace(machine: &Machine) -> Finding {
    let Ok(proc) = &machine.proc else {
        return Finding::new(
            "namespace",
            Level::Unknown,
            "/proc does not show our PID namespace",
            "see proc",
        );
    };
    let found = match proc.is_first_namespace {
        true => format!("pid {} in the machine's first PID namespace", machine.pid),
        false => format!("pid {} in the PID namespace {}", machine.pid, proc.pid_namespace),
    };
    if machine.pid == 1 {
        let means = "as pid 1 Ostler inherits every orphan, and reaps only its own: the others stay as zombies";
        return Finding::new("namespace", Level::Weaker, found, means)
            .advised("run it under an init: docker run --init, tini, or shareProcessNamespace in Kubernetes");
    }
    let means = match proc.is_first_namespace {
        true => "processes are identified for the whole machine",
        false => {
            "processes are identified within it; a dead run of another one is swept if its host was pid 1 there, otherwise reported and kept"
        }
    };
    Finding::new("namespace", Level::Holds, found, means)
}

fn subreaper(tried: &io::Result<()>) -> Finding {
    match tried {
        Ok(()) => Finding::new(
            "subreaper",
            Level::Holds,
            "a process can adopt orphans",
            "a sitter holds its worker's whole tree, including what forked twice, called setsid and cleared its environment",
        ),
        Err(error) => Finding::new(
            "subreaper",
            Level::Broken,
            format!("PR_SET_CHILD_SUBREAPER fails: {error}"),
            "no guardian can start: nothing would adopt what a worker leaves",
        )
        .advised("allow prctl(PR_SET_CHILD_SUBREAPER) in the seccomp filter"),
    }
}

fn pidfd(machine: &Machine) -> Finding {
    let group = match &machine.pidfd_group {
        Ok(true) => "a whole group can be signalled through one as well",
        _ => "a whole group can't be signalled through one (Linux 6.9), and Ostler does not need that",
    };
    match &machine.pidfd {
        Ok(()) => Finding::new(
            "pidfd",
            Level::Holds,
            format!("processes can be held and signalled by descriptors; {group}"),
            "nothing is signalled before its identity is verified, and a reused pid never is",
        ),
        Err(error) => Finding::new(
            "pidfd",
            Level::Broken,
            format!("pidfd_open or pidfd_send_signal fails: {error}"),
            "no process can be verified, so nothing can be started",
        )
        .advised("allow pidfd_open and pidfd_send_signal in the seccomp filter"),
    }
}

fn guardian(started: &Result<ProgramFrom, String>, machine: &Machine) -> Finding {
    let means = "whatever ends the host, every worker's tree is ended";
    match started {
        Ok(ProgramFrom::Memory) => Finding::new(
            "guardian",
            Level::Holds,
            "its program was started from memory, and ended again",
            means,
        ),
        Ok(ProgramFrom::File(path)) => {
            let sysctl = machine.memfd_noexec.map_or_else(String::new, |value| format!(" (vm.memfd_noexec = {value})"));
            let found = format!("its program was started from {}{sysctl}", path.display());
            Finding::new("guardian", Level::Holds, found, means)
        }
        Err(error) => Finding::new(
            "guardian",
            Level::Broken,
            format!("it can't be started: {error}"),
            "no worker can be started",
        )
        .advised(if machine.pidfd.is_err() {
            "it needs pidfds: see pidfd above"
        } else {
            "set vm.memfd_noexec below 2, or give one of $XDG_CACHE_HOME, ~/.cache and the state directory to this user alone and allow programs to run there, or name a program in OSTLER_GUARDIAN"
        }),
    }
}

/// What sitters alone can't hold.
const WITHOUT_CGROUP: &str = "sitters hold the workers' trees. Only if host, guardian and sitters are killed at the same moment can a process that detached itself live on: the next start ends what records and marker show";

fn cgroup(site: &Result<PathBuf, Unusable>) -> Finding {
    let why = match site {
        Ok(path) => {
            return Finding::new(
                "cgroup",
                Level::Holds,
                format!("{} is delegated to us", path.display()),
                "every slot has a cgroup: the next start ends everything that a dead run left, even if host, guardian and sitters were killed at the same moment",
            );
        }
        Err(why) => why,
    };
    let level = match why {
        Unusable::Examine { .. } => Level::Unknown,
        _ => Level::Weaker,
    };
    let finding = Finding::new("cgroup", level, chain(why), WITHOUT_CGROUP);
    match why {
        Unusable::NotMounted => finding.advised("mount cgroup v2"),
        Unusable::NotVisible { .. } => finding.advised("give the container a cgroup namespace of its own: --cgroupns=private"),
        Unusable::NotWritable { .. } => finding.advised(
            "run in a delegated group: systemd-run --user --scope -p Delegate=yes ostler ..., Delegate=yes in a unit, or a container with a writable /sys/fs/cgroup",
        ),
        Unusable::NotDelegated { .. } => {
            finding.advised("Delegate=yes in the unit, or systemd-run --scope -p Delegate=yes ostler ...")
        }
        Unusable::Lacking { .. } => finding.advised("Linux 5.14 or newer, and no threaded group above"),
        Unusable::SwitchedOff | Unusable::Examine { .. } => finding,
    }
}

fn ptrace(machine: &Machine) -> Finding {
    let found = match machine.ptrace_scope {
        Some(scope) => format!("yama.ptrace_scope = {scope}"),
        None => "no Yama".to_owned(),
    };
    let means = match machine.uid {
        0 => "it restricts tracing only: the marker in the environment of every process can be read",
        _ => {
            "it restricts tracing only: the marker of our own user's processes can be read; that of other users' and of set-uid programs only by root"
        }
    };
    Finding::new("ptrace", Level::Holds, found, means)
}

fn state(tried: &Result<Result<PathBuf, RunDirError>, String>) -> Finding {
    let means = "without a lock a dead run looks like a live one, so Ostler does not run";
    match tried {
        Ok(Ok(path)) => Finding::new(
            "state",
            Level::Holds,
            format!("locks work in {}", path.display()),
            "a free lock means a dead host: live runs are never touched, and dead ones are swept",
        ),
        Ok(Err(error)) => Finding::new("state", Level::Broken, chain(error), means).advised(error.suggestion()),
        Err(error) => Finding::new("state", Level::Broken, error.clone(), means)
            .advised("name a directory: --state-dir, or `state_dir` in the file's [app]"),
    }
}

fn descriptors((soft, hard): (u64, u64), workers: Option<u64>) -> Finding {
    let fits = hard / DESCRIPTORS_PER_WORKER;
    let found = format!(
        "{} open files (soft {}; Ostler raises its own to the hard limit), {DESCRIPTORS_PER_WORKER} for each worker",
        number(hard),
        number(soft)
    );
    room(
        "descriptors",
        found,
        fits,
        workers,
        "descriptor_limit",
        "raise it: ulimit -Hn, LimitNOFILE=",
    )
}

fn processes(machine: &Machine, workers: Option<u64>) -> Finding {
    let limits = &machine.process_limits;
    let system_now = machine.system_processes.unwrap_or_default();
    // The limit of its user does not bind root.
    let of_user = limits.user.filter(|_| machine.uid != 0);
    let left = [
        of_user.map(|max| max.saturating_sub(machine.user_processes)),
        limits
            .cgroup
            .as_ref()
            .map(|group| group.max.saturating_sub(group.current)),
        limits.threads_max.map(|max| max.saturating_sub(system_now)),
        limits.pid_max.map(|max| max.saturating_sub(system_now)),
    ];
    let left = left.into_iter().flatten().min().unwrap_or(u64::MAX);
    let found = format!(
        "{} are left ({limits}), at least {PROCESSES_PER_WORKER} for each worker",
        number(left)
    );
    let advice = "raise it: ulimit -u, TasksMax=, pids.max, kernel.threads-max, kernel.pid_max";
    room(
        "processes",
        found,
        left / PROCESSES_PER_WORKER,
        workers,
        "process_limit",
        advice,
    )
}

/// Whether there is room for this many workers.
fn room(check: &'static str, found: String, fits: u64, workers: Option<u64>, reason: &str, advice: &str) -> Finding {
    let needed = workers.unwrap_or(1);
    if needed > fits {
        let means =
            format!("there is room for {fits} of {needed} workers; the others fail with {reason}, and are tried again");
        return Finding::new(check, Level::Weaker, found, means).advised(advice);
    }
    let means = match workers {
        Some(workers) => format!(
            "there is room for the file's {workers} workers, and for {} in all",
            number(fits)
        ),
        None => format!("there is room for about {} workers", number(fits)),
    };
    Finding::new(check, Level::Holds, found, means)
}

fn number(count: u64) -> String {
    // No limit, divided by what a worker needs, is no limit.
    if count >= u64::MAX / DESCRIPTORS_PER_WORKER {
        "unlimited".to_owned()
    } else {
        count.to_string()
    }
}

#[cfg(test)]
mod tests;
