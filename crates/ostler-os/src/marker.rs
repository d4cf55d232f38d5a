//! Finds processes by the marker in their environment.
//!
//! Every worker is started with the variable `OSTLER_RUN_<run id>=<pool>/<index>#<incarnation>`,
//! which its descendants inherit. The marker is a second line of defence: `env -i` removes it,
//! setproctitle-like code overwrites it, and only processes that may be read show it. The
//! environment is *memory of the process*, and reading it can hang, so the scan runs on a separate
//! thread with a deadline.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::libc;
use ostler_core::ids::{MARKER_PREFIX, RunId};

use crate::identity::{self, ProcessHandle, ProcessIdentity, here};
use crate::procfile;
use crate::slow_read;

/// How much of an environment is searched, in bytes: Linux's default maximum (a quarter of the
/// usual 8 MiB stack limit, execve(2)).
const ENVIRONMENT_LIMIT: u64 = 2 << 20;

/// A length that most environments don't exceed, in bytes.
const ENVIRONMENT_LENGTH: usize = 8 << 10;

/// A process with the marker of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Who it is.
    pub identity: ProcessIdentity,
    /// All markers in its environment, in order: the run and the value (`embed/0#3`). There is more
    /// than one if an Ostler runs inside a worker of another one.
    pub markers: Vec<(RunId, String)>,
    /// Its command line, cut at 4 KiB.
    pub command: String,
}

/// What a scan has found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Processes with one of the requested markers.
    pub found: Vec<Marked>,
    /// How many environments were read.
    pub read: usize,
    /// How many processes may not be read (they belong to another user, or are protected) or have
    /// removed the memory of their environment. Their markers are unknown.
    pub unreadable: usize,
    /// Processes whose read hung or failed for lack of a resource (descriptors, memory), or that
    /// the deadline kept from being read. Their markers are unknown: see [`Scan::missed`].
    pub unread: Vec<i32>,
    /// The duration.
    pub elapsed: Duration,
}

/// Looks through all processes for markers of `runs`, except our own process and processes that
/// have ended. Blocks at the latest until `deadline`.
///
/// Cost: one `open` and `read` a process that we may read, about 10 µs each.
///
/// # Errors
/// When `/proc` can't be listed.
pub fn scan(runs: &[RunId], deadline: Instant) -> io::Result<Scan> {
    let start = Instant::now();
    let us = std::process::id() as i32;
    let pids: Vec<i32> = procfile::all_pids()?.into_iter().filter(|&pid| pid != us).collect();
    let mut scan = Scan::default();
    let empty = scan.look_at_each(pids, runs, deadline, look_at);
    // A process in the middle of its execve(2) and one that has lost its main thread show no
    // environment, as a kernel thread does: a second, closer look.
    scan.read += scan.look_at_each(empty, runs, deadline, look_closer).len();
    scan.elapsed = start.elapsed();
    Ok(scan)
}

impl Scan {
    /// Adds what `pids` show; gives back those that show no environment.
    fn look_at_each(
        &mut self,
        pids: Vec<i32>,
        runs: &[RunId],
        deadline: Instant,
        look: fn(i32, &[RunId]) -> Look,
    ) -> Vec<i32> {
        let runs = runs.to_vec();
        let round = slow_read::read_each(pids, deadline, move |pid| look(pid, &runs));
        self.unread.extend(round.unread);
        let mut empty = Vec::new();
        for (pid, look) in round.values {
            match look {
                Look::Empty => empty.push(pid),
                Look::Failed => self.unread.push(pid),
                Look::Unreadable => self.unreadable += 1,
                Look::Unmarked => self.read += 1,
                Look::Marked(marked) => {
                    self.read += 1;
                    self.found.push(marked);
                }
            }
        }
        empty
    }

    /// Describes the processes that may have a requested marker but were not read; `None` if all
    /// were read. Processes older than the run's host, if that is known, cannot belong to the run.
    pub fn missed(&self, host: Option<&ProcessIdentity>) -> Option<String> {
        let since = host
            .filter(|host| here().is_ok_and(|here| here.boot_id == host.boot_id))
            .map_or(0, |host| host.start_time);
        let may_be_of_it = |pid: &&i32| match procfile::stat(**pid) {
            Ok(stat) => stat.is_some_and(|stat| !stat.has_ended() && stat.start_time >= since),
            Err(_) => true,
        };
        let missed: Vec<String> = self.unread.iter().filter(may_be_of_it).map(i32::to_string).collect();
        let pids = missed
            .get(..NAMED)
            .map_or_else(|| missed.join(", "), |some| format!("{}, …", some.join(", ")));
        (!missed.is_empty()).then(|| {
            format!(
                "{} processes could not be searched for the marker: pid {pids}",
                missed.len()
            )
        })
    }
}

/// How many of the unread processes are named.
const NAMED: usize = 8;

/// The outcome of reading one process.
enum Look {
    /// It shows no environment, or is gone.
    Empty,
    Failed,
    Unreadable,
    Unmarked,
    Marked(Marked),
}

impl Look {
    /// A process that may not be read will not be readable later either. The same goes for EIO,
    /// which means that the memory is gone.
    fn failed(error: &io::Error) -> Self {
        let never = error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(libc::EIO);
        if never { Self::Unreadable } else { Self::Failed }
    }
}

/// Most processes have no marker, and are done with after one read, without an identity.
fn look_at(pid: i32, runs: &[RunId]) -> Look {
    let environment = match procfile::present(read_some(&procfile::directory(pid))) {
        // Without memory: an empty file, or ESRCH since Linux 6.16.
        Ok(None) => return Look::Empty,
        Ok(Some(environment)) => environment,
        Err(_) => return examine(pid, runs),
    };
    match markers_of(&environment, runs) {
        Ok(_) => examine(pid, runs),
        Err(look) => look,
    }
}

fn look_closer(pid: i32, runs: &[RunId]) -> Look {
    let look = look_at(pid, runs);
    if !matches!(look, Look::Empty) {
        return look;
    }
    match procfile::stat(pid) {
        Ok(Some(stat)) if stat.lost_main_thread => examine(pid, runs),
        Ok(_) => Look::Empty,
        Err(error) => Look::failed(&error),
    }
}

/// Judges a process that has a marker, can't be read, or has lost its main thread.
fn examine(pid: i32, runs: &[RunId]) -> Look {
    // The identity comes first: what is read after it, while it still holds, belongs to it.
    let (identity, stat) = match ProcessHandle::open_with_stat(pid) {
        Ok(Some((handle, stat))) => (handle.identity(), stat),
        Ok(None) => return Look::Unmarked,
        Err(error) => return Look::failed(&error),
    };
    let environment = if stat.lost_main_thread {
        // A thread without an environment may be one that is ending.
        procfile::from_threads(pid, |thread| {
            Ok(Some(read_some(thread)?).filter(|environment| !environment.is_empty()))
        })
    } else {
        procfile::present(read_some(&procfile::directory(pid)))
    };
    let environment = match environment {
        Ok(Some(environment)) => environment,
        Ok(None) => return Look::Unmarked,
        Err(error) => return Look::failed(&error),
    };
    let markers = match markers_of(&environment, runs) {
        Ok(markers) => markers,
        Err(look) => return look,
    };
    match identity::of(pid) {
        Ok(now) if !now.is_some_and(|now| now.is_same_as(&identity)) => return Look::Unmarked,
        Ok(_) => {}
        Err(error) => return Look::failed(&error),
    }
    Look::Marked(Marked {
        identity,
        markers,
        command: procfile::read_command_line(pid).unwrap_or_default(),
    })
}

/// The environment that a process or thread has according to its directory in `/proc`.
fn read_some(directory: &Path) -> io::Result<Vec<u8>> {
    procfile::read_whole(&directory.join("environ"), ENVIRONMENT_LENGTH, ENVIRONMENT_LIMIT)
}

/// The markers of a process that one of these runs has marked.
fn markers_of(environment: &[u8], runs: &[RunId]) -> Result<Vec<(RunId, String)>, Look> {
    if environment.is_empty() {
        return Err(Look::Empty);
    }
    let markers = markers_in(environment);
    let is_marked = markers.iter().any(|(run, _)| runs.contains(run));
    is_marked.then_some(markers).ok_or(Look::Unmarked)
}

/// The markers in an environment, in the format of `/proc/PID/environ`: `NAME=value`, each followed
/// by a zero byte.
fn markers_in(environment: &[u8]) -> Vec<(RunId, String)> {
    // A search through the whole: most environments have no marker, and are done with it.
    if memmem::find(environment, MARKER_PREFIX.as_bytes()).is_none() {
        return Vec::new();
    }
    environment.split(|&byte| byte == 0).filter_map(marker_of).collect()
}

fn marker_of(entry: &[u8]) -> Option<(RunId, String)> {
    let equals = memchr::memchr(b'=', entry)?;
    let run = RunId::from_marker_name(std::str::from_utf8(&entry[..equals]).ok()?)?;
    Some((run, String::from_utf8_lossy(&entry[equals + 1..]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u128) -> RunId {
        RunId::from_u128(number)
    }

    #[test]
    fn markers_are_whole_names_at_the_start_of_an_entry() {
        let (one, two) = (run(1), run(u128::MAX));
        let text = format!(
            "PATH=/bin\0{}=embed/0#3\0NOTE={}=web/1#1\0{}=outer/2#1\0OSTLER_RUN_12=short\0OSTLER_RUN_=\0{}",
            one.marker_name(),
            one.marker_name(),
            two.marker_name(),
            one.marker_name(),
        );
        assert_eq!(
            markers_in(text.as_bytes()),
            vec![(one, "embed/0#3".into()), (two, "outer/2#1".into())]
        );
        assert_eq!(markers_in(b""), vec![]);
        assert_eq!(markers_in(b"\0\0=\0OSTLER_RUN"), vec![]);
    }
}
