//! What `/proc` says of one process (proc_pid_stat(5), proc_pid_status(5)).
//!
//! Two kinds of file are told apart. `stat`, `status`, `wchan` and `task/*/children` are the kernel's own and are read
//! at once. `cmdline` and `environ` are *memory of the process*: reading them takes its memory lock and can hang, so
//! they are only read through [`command_lines`], on a thread of its own and under a deadline.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::time::Instant;

use rustix::io::Errno;

use crate::slow_read;

/// How much of a command line is kept, in bytes. Longer ones are cut.
const COMMAND_LINE_LIMIT: u64 = 4096;

/// The fields of `/proc/PID/stat` that Ostler uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub pid: i32,
    /// The program's short name, at most 15 bytes; it may hold spaces and brackets.
    pub name: String,
    /// The state letter: `R`, `S`, `D`, `Z`, `T`, `t`, `X`, `I`.
    pub state: char,
    /// The parent, 0 where it is outside of our PID namespace.
    pub parent: i32,
    /// User mode CPU time, in clock ticks.
    pub user_ticks: u64,
    /// Kernel mode CPU time, in clock ticks.
    pub system_ticks: u64,
    /// CPU time of children that ended and were waited for, and of theirs, in clock ticks.
    pub waited_ticks: u64,
    /// Number of threads, the leader included.
    pub threads: u64,
    /// When it started, in clock ticks since boot: with the pid, its identity.
    pub start_time: u64,
    /// Resident memory, in pages.
    pub resident_pages: u64,
}

impl Stat {
    /// Whether nothing of the process runs any more: reaped, or a zombie without another thread. A leader that called
    /// pthread_exit(3) shows `Z` while its other threads live on, so the letter alone says nothing.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'X' | 'x') || (self.state == 'Z' && self.threads <= 1)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        // The name stands in brackets and may hold anything: the fields go on after the *last* bracket.
        let open = text.iter().position(|&b| b == b'(')?;
        let close = text.iter().rposition(|&b| b == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let name = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1 and `state` is its field 3: field n is at n - 3 here.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            name,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            waited_ticks: number(16)?.saturating_add(number(17)?),
            threads: number(20)?,
            start_time: number(22)?,
            resident_pages: number(24)?,
        })
    }
}

/// Reads `/proc/PID/stat`; `None` when there is no such process (or `hidepid` keeps it from us).
///
/// # Errors
/// When `/proc` can't be read, or holds what is no stat line.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let Some(text) = present(fs::read(format!("/proc/{pid}/stat")))? else {
        return Ok(None);
    };
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat is not as proc_pid_stat(5) says"),
        )
    };
    Stat::parse(&text).map(Some).ok_or_else(bad)
}

/// Owner and tracer of a process, from `/proc/PID/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The effective user.
    pub uid: u32,
    /// The process that traces it, if one does. 0 where the tracer is outside of our PID namespace.
    pub tracer: Option<i32>,
}

/// Reads `/proc/PID/status`; `None` when there is no such process.
///
/// # Errors
/// When `/proc` can't be read.
pub fn status(pid: i32) -> io::Result<Option<Status>> {
    let Some(text) = present(fs::read(format!("/proc/{pid}/status")))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str, word: usize| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().nth(word)?.parse::<u32>().ok()
    };
    let uid = field("Uid:", 1).unwrap_or(u32::MAX);
    let tracer = field("TracerPid:", 0)
        .filter(|&pid| pid != 0)
        .and_then(|pid| i32::try_from(pid).ok());
    Ok(Some(Status { uid, tracer }))
}

/// The kernel function in which a process waits, where we may know it (`/proc/PID/wchan`).
pub fn wait_channel(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
    (!text.is_empty() && text != "0").then_some(text)
}

/// The pids of every process in `/proc`, in ascending order of the directory.
///
/// # Errors
/// When `/proc` can't be read.
pub fn all_pids() -> io::Result<Vec<i32>> {
    let entries: Vec<fs::DirEntry> = fs::read_dir("/proc")?.collect::<io::Result<_>>()?;
    let pid = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.iter().filter_map(pid).collect())
}

/// The command lines of some processes, arguments joined by spaces, cut at 4 KiB; a process without one (a zombie, a
/// kernel thread) has its short name in brackets. Reads on a thread of its own: a process whose memory lock is held is
/// left at its short name. Returns at the latest at `deadline`.
pub fn command_lines(pids: &[i32], deadline: Instant) -> HashMap<i32, String> {
    let read = slow_read::read_each(pids.to_vec(), deadline, read_command_line);
    let mut lines: HashMap<i32, String> = read
        .values
        .into_iter()
        .filter_map(|(pid, line)| Some((pid, line?)))
        .collect();
    for &pid in pids {
        if let (false, Ok(Some(stat))) = (lines.contains_key(&pid), stat(pid)) {
            lines.insert(pid, format!("[{}]", stat.name));
        }
    }
    lines
}

/// Reads memory of the process: only for a thread that may hang.
pub(crate) fn read_command_line(pid: i32) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline"))
        .ok()?
        .take(COMMAND_LINE_LIMIT)
        .read_to_end(&mut text)
        .ok()?;
    let words: Vec<_> = text
        .split(|&b| b == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Turns "no such process", in the two ways that `/proc` says it, into `None`.
pub(crate) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// As [`present`], and a process that `/proc` lists and keeps from us (`hidepid=1`) is none either: for a walk through
/// many, of which others must not be lost for one.
pub(crate) fn shown<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match present(result) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line =
            b"42 (a) S 1 (b) Z 7 8 9 0 -1 4194560 1 2 3 4 11 12 0 0 20 0 3 0 5555 4096 77 18446744073709551615 1 1";
        let stat = Stat::parse(line).expect("a stat line");
        assert_eq!(
            (stat.pid, stat.name.as_str(), stat.state, stat.parent),
            (42, "a) S 1 (b", 'Z', 7)
        );
        assert_eq!((stat.user_ticks, stat.system_ticks, stat.threads), (11, 12, 3));
        assert_eq!((stat.start_time, stat.resident_pages), (5555, 77));
        assert!(!stat.has_ended(), "a zombie leader with living threads has not ended");
    }

    #[test]
    fn a_stat_line_that_is_cut_is_refused() {
        assert_eq!(Stat::parse(b"42 (sh) S 1 2 3"), None);
        assert_eq!(Stat::parse(b"no brackets"), None);
    }

    #[test]
    fn our_own_process_reads_as_it_is() {
        let pid = std::process::id() as i32;
        let stat = stat(pid).expect("readable").expect("we are alive");
        assert_eq!(stat.parent, std::os::unix::process::parent_id() as i32);
        let status = status(pid).expect("readable").expect("we are alive");
        assert_eq!(status.uid, rustix::process::geteuid().as_raw());
        let lines = command_lines(&[pid], Instant::now() + Duration::from_secs(10));
        assert!(lines[&pid].contains("ostler_os"), "{lines:?}");
        assert!(all_pids().expect("readable").contains(&pid));
    }

    #[test]
    fn a_pid_that_is_not_there_is_none() {
        assert_eq!(stat(i32::MAX).expect("no error"), None);
        assert_eq!(status(i32::MAX).expect("no error"), None);
        assert!(command_lines(&[i32::MAX], Instant::now() + Duration::from_secs(10)).is_empty());
    }
}
