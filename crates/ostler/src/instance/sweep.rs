//! The sweep: ends what dead runs of an app have left, and removes their tables.
//!
//! Only runs whose lock is free are touched: the free lock proves that the host is dead, without a
//! pid. Guardians and sitters are waited for by their lock. What a dead run left is found by its
//! records (each identity is verified before it is signalled) and by its marker. Live runs are
//! never touched. For runs of another PID namespace, see ADR 0018.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ostler_core::chain::chain;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::cgroup::RunGroup;
use ostler_os::identity::{self, Attribution, ProcessIdentity, Verified, here};
use ostler_os::kill;
use ostler_registry::{DeadRun, FoundRun, Identity, RunDirError, remove_leftovers, runs};

use crate::remains::{KILL_LIMIT, Killed, Remains};
use crate::scratch;

/// How long the sweep of a dead run waits for its guardians and sitters, which may still be giving
/// databases their grace: 20 s. What follows normally takes milliseconds; at worst, when nothing
/// can be read and nothing dies, another half a minute.
pub const SWEEP_LIMIT: Duration = Duration::from_secs(20);

/// What a sweep found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Dead runs whose table was removed.
    pub runs: u64,
    /// Dead runs whose table was kept for the next sweep: a process of theirs is or may be alive,
    /// or the table can't be removed.
    pub kept: u64,
    /// Live runs, which were left alone.
    pub live: u64,
    /// The processes that were killed.
    pub killed: Vec<String>,
    /// The processes that could not be killed, each with the reason.
    pub survivors: Vec<String>,
    /// What could not be read, and other remarks for people.
    pub remarks: Vec<String>,
}

/// What to do with a dead run that was recorded in another PID namespace, about which nothing can
/// be proven from here: its guardian and sitters have ended, and no visible process has its marker,
/// but a process that escaped them may be alive there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// Keep it: a sweep in that namespace can verify its records.
    Keep,
    /// Remove it: the caller knows that the namespace (for example a container) is gone.
    Forget,
}

/// Sweeps every dead run in the directory of an app. Blocks, for at most [`SWEEP_LIMIT`] and half a
/// minute per run.
///
/// # Errors
/// [`RunDirError`] if the directory can't be listed. Problems with a single run are remarks in the
/// report.
pub fn sweep(app_dir: &Path, elsewhere: Elsewhere) -> Result<SweepReport, RunDirError> {
    let mut report = SweepReport::default();
    if let Err(error) = remove_leftovers(app_dir) {
        report.remarks.push(advised(&error));
    }
    for found in runs(app_dir)? {
        match found {
            FoundRun::Live(_) => report.live += 1,
            FoundRun::Dead(dead) => sweep_run(dead, elsewhere, &mut report),
            FoundRun::Unreadable { path, reason } => {
                // Another user's directory is not ours to sweep; any other may be a dead run's.
                if !matches!(reason, RunDirError::Untrusted { .. }) {
                    report.kept += 1;
                }
                report.remarks.push(format!("{}: {}", path.display(), advised(&reason)));
            }
        }
    }
    failpoint::reach(Point::SweepDone);
    Ok(report)
}

fn sweep_run(dead: DeadRun, elsewhere: Elsewhere, report: &mut SweepReport) {
    let by = Attribution::new("ostler sweep", format!("run {} is dead", dead.run()));
    let before = report.survivors.len();
    failpoint::reach(Point::SweepBegun);
    let place = Place::of(&dead);
    if place == Place::Elsewhere
        && let Some(why) = why_left_alone(&dead, elsewhere)
    {
        return keep(&dead, &why, report);
    }
    let waited = await_guardians(&dead, &by, report);
    failpoint::reach(Point::SweepGuardianAwaited);
    kill_cgroup(&dead, report);
    failpoint::reach(Point::SweepCgroupKilled);
    if place == Place::Here {
        let recorded = recorded(&dead, report);
        note(Remains::from(recorded).kill(&by, Instant::now() + KILL_LIMIT), report);
    }
    failpoint::reach(Point::SweepRecordedKilled);
    let seen_all = kill_marked(&dead, &by, report);
    failpoint::reach(Point::SweepMarkedKilled);
    let unguarded = waited || have_ended(&dead, Instant::now() + KILL_LIMIT, report);
    remove_cgroup(&dead, report);
    failpoint::reach(Point::SweepCgroupRemoved);
    let why = if report.survivors.len() > before {
        Some("processes of its run are alive".to_owned())
    } else if !seen_all || !unguarded {
        Some("processes of its run may be alive".to_owned())
    } else {
        (place == Place::Elsewhere && elsewhere == Elsewhere::Keep).then(|| of_elsewhere(&dead))
    };
    if let Some(why) = why {
        return keep(&dead, &why, report);
    }
    if let Err(error) = scratch::remove(dead.run(), dead.path()) {
        report
            .remarks
            .push(format!("the sockets of run {} can't be removed: {error}", dead.run()));
    }
    match dead.remove() {
        Ok(()) => report.runs += 1,
        Err(error) => {
            report.kept += 1;
            report.remarks.push(advised(&error));
        }
    }
}

/// Why no process of a run of another PID namespace is touched. A grace may be running there, which
/// must not be cut short, and which a start here must not wait for.
fn why_left_alone(dead: &DeadRun, elsewhere: Elsewhere) -> Option<String> {
    match dead.await_guardians(Instant::now()) {
        Ok(true) => None,
        Ok(false) => Some("its guardian or a sitter lives in another PID namespace".to_owned()),
        Err(RunDirError::NoLock { .. }) => (elsewhere == Elsewhere::Keep).then(|| of_elsewhere(dead)),
        Err(error) => Some(advised(&error)),
    }
}

fn keep(dead: &DeadRun, why: &str, report: &mut SweepReport) {
    report.kept += 1;
    let remark = format!("{} is kept for the next sweep: {why}", dead.path().display());
    report.remarks.push(remark);
}

/// Where a dead run's pids are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In our PID namespace or in an earlier boot, so that each can be verified; or unknown.
    Here,
    /// In another one, which ended with this host: the host was its pid 1, and the kernel kills all
    /// other processes then (pid_namespaces(7)).
    Ended,
    /// In another one, which may still exist.
    Elsewhere,
}

impl Place {
    fn of(dead: &DeadRun) -> Self {
        let (Ok(info), Ok(here)) = (dead.info(), here()) else {
            return Self::Here;
        };
        let host = &info.host;
        match host.boot_id != here.boot_id || host.pid_namespace == here.pid_namespace {
            true => Self::Here,
            false if host.pid == 1 => Self::Ended,
            false => Self::Elsewhere,
        }
    }
}

/// Why a run of another PID namespace is kept, and what to do about it.
fn of_elsewhere(dead: &DeadRun) -> String {
    let app = dead.info().map_or("NAME", |info| &info.app);
    format!(
        "it was recorded in another PID namespace, where processes of it may be alive; a sweep there ends them, and when that \
         namespace is gone, `ostler sweep --app {app} --forget-elsewhere` removes it"
    )
}

/// Waits for guardians and sitters of a dead host, which end their workers as `host_death` says. At
/// the deadline the guardian is killed, and the caller kills what still has a grace. Returns
/// whether all of them have ended.
fn await_guardians(dead: &DeadRun, by: &Attribution, report: &mut SweepReport) -> bool {
    match await_until(dead, Instant::now() + SWEEP_LIMIT) {
        Ok(true) => return true,
        Ok(false) => {}
        // Asked again later, and reported then.
        Err(_) => return false,
    }
    let guardian = dead.info().ok().and_then(|info| info.guardian.as_ref());
    let guardian: Vec<ProcessIdentity> = guardian.copied().into_iter().collect();
    // Only the guardian itself: its sitters notice its end and end their trees.
    let kills = kill::kill_all(&guardian, by, Instant::now() + KILL_LIMIT);
    report.killed.extend(kills.killed.iter().map(ToString::to_string));
    report.survivors.extend(kills.left());
    false
}

/// Whether guardians and sitters end by the deadline, after their trees were killed.
fn have_ended(dead: &DeadRun, deadline: Instant, report: &mut SweepReport) -> bool {
    let why = match await_until(dead, deadline) {
        Ok(true) => return true,
        Ok(false) => "they live on".to_owned(),
        Err(why) => why,
    };
    let remark = format!("guardians and sitters of run {}: {why}", dead.run());
    report.remarks.push(remark);
    false
}

/// Whether guardians and sitters end by the deadline, or why that is unknown.
fn await_until(dead: &DeadRun, deadline: Instant) -> Result<bool, String> {
    match dead.await_guardians(deadline) {
        Ok(ended) => Ok(ended),
        Err(RunDirError::NoLock { .. }) => await_recorded(dead, deadline).map_err(|error| error.to_string()),
        Err(error) => Err(advised(&error)),
    }
}

/// For a run without the lock, which an older version made, or whose lock was removed: waits for
/// the recorded guardian. If that can't be verified, neither this sweep nor a later one can learn
/// more.
fn await_recorded(dead: &DeadRun, deadline: Instant) -> io::Result<bool> {
    let Some(guardian) = dead.info().ok().and_then(|info| info.guardian.as_ref()) else {
        return Ok(true);
    };
    match identity::verify(guardian)? {
        Verified::Same(guardian) => guardian.wait_until(deadline),
        Verified::Gone | Verified::Reused | Verified::Unknown(_) => Ok(true),
    }
}

/// The error, with what to do about it.
fn advised(error: &RunDirError) -> String {
    format!("{}; {}", chain(error), error.suggestion())
}

/// The processes in the dead run's table. A table that can't be read is set aside for people, and
/// only the marker is used.
fn recorded(dead: &DeadRun, report: &mut SweepReport) -> Vec<ProcessIdentity> {
    match dead.records() {
        Ok(store) => {
            report
                .remarks
                .extend(store.unreadable.iter().map(|row| format!("run {}: {row}", dead.run())));
            store
                .records
                .iter()
                .filter_map(|record| record.identity.as_ref())
                .map(|Identity::LocalProcess(process)| *process)
                .collect()
        }
        Err(error) => {
            report.remarks.push(format!(
                "the table of run {} can't be read, so only its marker is used: {}",
                dead.run(),
                chain(&error)
            ));
            match dead.set_aside(error) {
                Ok(Some(aside)) => report.remarks.push(format!("it is kept as {}", aside.path.display())),
                Ok(None) => {}
                Err(error) => report.remarks.push(chain(&error)),
            }
            Vec::new()
        }
    }
}

/// Kills processes with the dead run's marker. Returns whether every process could be inspected.
fn kill_marked(dead: &DeadRun, by: &Attribution, report: &mut SweepReport) -> bool {
    let host = dead.info().ok().map(|info| info.host);
    let marked = Remains::of_run(dead.run(), host.as_ref());
    let seen_all = marked.unseen.is_empty();
    note(marked.kill(by, Instant::now() + KILL_LIMIT), report);
    seen_all
}

/// Kills everything in the dead run's cgroup at once, including processes without record or marker.
fn kill_cgroup(dead: &DeadRun, report: &mut SweepReport) {
    let Ok(Some(path)) = dead.info().map(|info| info.cgroup.clone()) else {
        return;
    };
    let Ok(Some(group)) = RunGroup::of_dead_run(Path::new(&path), dead.run()) else {
        return;
    };
    let group = group.group();
    for pid in group.pids().unwrap_or_default() {
        report
            .killed
            .extend(identity::of(pid).ok().flatten().map(|process| process.to_string()));
    }
    if let Err(error) = group.kill() {
        report
            .remarks
            .push(format!("the cgroup {path} can't be killed: {error}"));
    }
}

fn remove_cgroup(dead: &DeadRun, report: &mut SweepReport) {
    let Ok(Some(path)) = dead.info().map(|info| info.cgroup.clone()) else {
        return;
    };
    let removed = match RunGroup::of_dead_run(Path::new(&path), dead.run()) {
        Ok(None) => Ok(true),
        Ok(Some(group)) => group.group().remove_until(Instant::now() + KILL_LIMIT),
        Err(error) => Err(error),
    };
    match removed {
        Ok(true) => {}
        Ok(false) => report
            .survivors
            .push(format!("a process in the cgroup {path} of run {}", dead.run())),
        Err(error) => report
            .remarks
            .push(format!("the cgroup {path} of run {}: {error}", dead.run())),
    }
}

fn note(killed: Killed, report: &mut SweepReport) {
    report.killed.extend(killed.killed.iter().map(ToString::to_string));
    report.survivors.extend(killed.survivors);
    report.remarks.extend(killed.unseen);
}
