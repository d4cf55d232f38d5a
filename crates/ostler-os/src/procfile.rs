//! What `/proc` reports about a process (proc_pid_stat(5), proc_pid_status(5)).
//!
//! There are two kinds of files. `stat`, `status`, `wchan` and `task/*/children` come from the
//! kernel and are read immediately. `cmdline` and `environ` are *memory of the process*: reading
//! them takes its memory lock and can hang, so they are only read through [`command_lines`], on a
//! separate thread and with a deadline.
//!
//! `/proc/PID` shows the main thread. If that has ended while others live (pthread_exit(3)), it has
//! no memory and no descriptors any more: what depends on them is empty there, and some of it is
//! refused to all but root. The other threads still show it: see `from_threads`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

use crate::slow_read;

/// The maximum length of a command line, in bytes. Longer ones are cut.
const COMMAND_LINE_LIMIT: u64 = 4096;

/// The length of `/proc/PID/stat`, in bytes: 200 to 350 are usual.
const STAT_LENGTH: usize = 512;

/// The fields of `/proc/PID/stat` that Ostler uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub pid: i32,
    /// The short name of the program, at most 15 bytes. It may contain spaces and parentheses.
    pub name: String,
    /// The state letter: `R`, `S`, `D`, `Z`, `T`, `t`, `X`, `I`. Of another thread, if the main
    /// thread has ended while others live.
    pub state: char,
    /// The parent; 0 if it is outside this PID namespace.
    pub parent: i32,
    /// User mode CPU time, in clock ticks.
    pub user_ticks: u64,
    /// Kernel mode CPU time, in clock ticks.
    pub system_ticks: u64,
    /// CPU time of children that ended and were waited for, and of their children, in clock ticks.
    pub waited_ticks: u64,
    /// The number of threads, including the main thread.
    pub threads: u64,
    /// The start time, in clock ticks since boot. Identifies the process together with the pid.
    pub start_time: u64,
    /// Resident memory, in pages.
    pub resident_pages: u64,
    /// Whether the main thread has ended, or is about to, while others live.
    pub(crate) lost_main_thread: bool,
}

impl Stat {
    /// Whether nothing of the process runs any more: it was reaped, or is a zombie without other
    /// threads. After pthread_exit(3) `/proc` shows the state `Z` while other threads run, so the
    /// state alone is not enough.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'X' | 'x') || (self.state == 'Z' && self.threads <= 1)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        // The name is in parentheses and may contain anything, so the fields continue after the
        // *last* closing one.
        let open = text.iter().position(|&b| b == b'(')?;
        let close = text.iter().rposition(|&b| b == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let name = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and `state` is field 3: field n has index n - 3 here.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let threads = number(20)?;
        // An ending thread gives up its memory before it is in state Z. A kernel thread never had
        // any, and is alone in its process.
        let lost_main_thread = threads > 1 && number(23)? == 0;
        Some(Self {
            pid,
            name,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            waited_ticks: number(16)?.saturating_add(number(17)?),
            threads,
            start_time: number(22)?,
            resident_pages: number(24)?,
            lost_main_thread,
        })
    }
}

/// Reads `/proc/PID/stat`. Returns `None` if there is no such process, or `hidepid` hides it.
///
/// # Errors
///
/// If `/proc` cannot be read, or the line is malformed.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let Some(mut stat) = stat_in(&directory(pid))? else {
        return Ok(None);
    };
    // Without one that shows anything, what is known of the main thread stays.
    if stat.lost_main_thread
        && let Ok(Some(thread)) = from_threads(pid, stat_in)
    {
        stat.state = thread.state;
        stat.resident_pages = thread.resident_pages;
    }
    Ok(Some(stat))
}

fn stat_in(directory: &Path) -> io::Result<Option<Stat>> {
    let file = directory.join("stat");
    let Some(text) = present(read_whole(&file, STAT_LENGTH, u64::MAX))? else {
        return Ok(None);
    };
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is malformed, see proc_pid_stat(5)", file.display()),
        )
    };
    Stat::parse(&text).map(Some).ok_or_else(bad)
}

/// Reads a file of `/proc`, whose size is not known before, up to `limit` bytes. Two reads suffice
/// where `expected` bytes do; `fs::read` begins with 32 bytes, and takes eight.
pub(crate) fn read_whole(file: &Path, expected: usize, limit: u64) -> io::Result<Vec<u8>> {
    let file = fs::File::open(file)?;
    let mut bytes = Vec::with_capacity(expected);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The directory of a process in `/proc`, which shows its main thread.
pub(crate) fn directory(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// What `read` gets from the directory of a thread, the first that shows it, of a process that has
/// lost its main thread ([`Stat::lost_main_thread`]).
///
/// # Errors
///
/// If no thread shows it, and one could not be read.
pub(crate) fn from_threads<T>(pid: i32, mut read: impl FnMut(&Path) -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let Some(threads) = present(fs::read_dir(directory(pid).join("task")))? else {
        return Ok(None);
    };
    let main = pid.to_string();
    let mut refused = None;
    for thread in threads.flatten().filter(|thread| thread.file_name() != *main) {
        match present(read(&thread.path())) {
            Ok(Some(Some(value))) => return Ok(Some(value)),
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// Like [`from_threads`]; `None` also if the process has its main thread, or none may be read.
fn from_threads_left<T>(pid: i32, read: impl FnMut(&Path) -> io::Result<Option<T>>) -> Option<T> {
    let stat = stat_in(&directory(pid)).ok()??;
    stat.lost_main_thread.then(|| from_threads(pid, read).ok()?)?
}

/// Owner and tracer of a process, from `/proc/PID/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The effective user.
    pub uid: u32,
    /// The tracer, if there is one. 0 if it is outside this PID namespace.
    pub tracer: Option<i32>,
}

/// Reads `/proc/PID/status`. Returns `None` if there is no such process.
///
/// # Errors
///
/// If `/proc` cannot be read.
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

/// The kernel function in which a process waits, if it may be read (`/proc/PID/wchan`). That of
/// another thread, if the main thread has ended while others live.
pub fn wait_channel(pid: i32) -> Option<String> {
    let of_main = wait_channel_in(&directory(pid)).ok()?;
    of_main.or_else(|| from_threads_left(pid, wait_channel_in))
}

fn wait_channel_in(directory: &Path) -> io::Result<Option<String>> {
    let text = fs::read_to_string(directory.join("wchan"))?;
    Ok((!text.is_empty() && text != "0").then_some(text))
}

/// The pids of all processes in `/proc`, in its order.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn all_pids() -> io::Result<Vec<i32>> {
    let entries: Vec<fs::DirEntry> = fs::read_dir("/proc")?.collect::<io::Result<_>>()?;
    let pid = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.iter().filter_map(pid).collect())
}

/// The command lines of these processes, with arguments joined by spaces, cut at 4 KiB. A process
/// without one (a zombie, a kernel thread) has its short name in brackets. Reads on a separate
/// thread: a process whose memory lock is held keeps its short name. Returns at `deadline` at the
/// latest.
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

/// Reads memory of the process, so it may hang. Only for a thread that may.
pub(crate) fn read_command_line(pid: i32) -> Option<String> {
    let of_main = command_line_in(&directory(pid)).ok()?;
    of_main.or_else(|| from_threads_left(pid, command_line_in))
}

fn command_line_in(directory: &Path) -> io::Result<Option<String>> {
    let text = read_whole(
        &directory.join("cmdline"),
        COMMAND_LINE_LIMIT as usize,
        COMMAND_LINE_LIMIT,
    )?;
    let words: Vec<_> = text
        .split(|&b| b == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    Ok((!words.is_empty()).then(|| words.join(" ")))
}

/// Maps both of `/proc`'s errors for a missing process to `None`.
pub(crate) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Like [`present`], but also maps a process that is listed but hidden (`hidepid=1`) to `None`, for
/// walks in which one process must not hide the others.
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
    fn name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line =
            b"42 (a) S 1 (b) Z 7 8 9 0 -1 4194560 1 2 3 4 11 12 0 0 20 0 3 0 5555 4096 77 18446744073709551615 1 1";
        let stat = Stat::parse(line).expect("valid stat line");
        assert_eq!(
            (stat.pid, stat.name.as_str(), stat.state, stat.parent),
            (42, "a) S 1 (b", 'Z', 7)
        );
        assert_eq!((stat.user_ticks, stat.system_ticks, stat.threads), (11, 12, 3));
        assert_eq!((stat.start_time, stat.resident_pages), (5555, 77));
        assert!(!stat.lost_main_thread, "it has memory");
        assert!(
            !stat.has_ended(),
            "a process with a zombie main thread and other threads has not ended"
        );
    }

    #[test]
    fn truncated_stat_line_is_refused() {
        assert_eq!(Stat::parse(b"42 (sh) S 1 2 3"), None);
        assert_eq!(Stat::parse(b"no brackets"), None);
    }

    #[test]
    fn own_process_is_read_correctly() {
        let pid = std::process::id() as i32;
        let stat = stat(pid).expect("readable").expect("own process");
        assert_eq!(stat.parent, std::os::unix::process::parent_id() as i32);
        let status = status(pid).expect("readable").expect("own process");
        assert_eq!(status.uid, rustix::process::geteuid().as_raw());
        let lines = command_lines(&[pid], Instant::now() + Duration::from_secs(10));
        assert!(lines[&pid].contains("ostler_os"), "{lines:?}");
        assert!(all_pids().expect("readable").contains(&pid));
    }

    #[test]
    fn missing_pid_is_none() {
        assert_eq!(stat(i32::MAX).expect("no error"), None);
        assert_eq!(status(i32::MAX).expect("no error"), None);
        assert!(command_lines(&[i32::MAX], Instant::now() + Duration::from_secs(10)).is_empty());
    }
}
