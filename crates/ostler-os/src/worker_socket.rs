//! The Unix socket of a worker (`port = "unix"`): whose it is, and its release.
//!
//! A socket's path stays when its process ends, and a server that finds it can't bind. So the path
//! is removed before a worker starts and after it has ended, but never while a process listens
//! there: that process is named.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use procfs::net::UnixState;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::holders::Holder;
use crate::tree::{self, Ancestry};
use crate::{procfile, sockets};

/// How often a path is removed that comes back.
const ATTEMPTS: usize = 3;

/// The limit for reading a holder's command line.
const NAMING_TIME: Duration = Duration::from_millis(500);

/// Removes the path of a socket on which no process listens, and proves that no connection to it
/// can be made. Returns the holder if a process listens on it; nothing is removed then.
///
/// Blocks for microseconds; if the socket is held, while it searches all descriptors of the machine
/// for its holder.
///
/// # Errors
/// If the path can't be removed, or can't be connected to for another reason than that no process
/// listens: it is a directory, or belongs to another user.
pub fn clear(path: &Path) -> io::Result<Option<Holder>> {
    for _ in 0..ATTEMPTS {
        match try_connect(path) {
            Err(Errno::NOENT) => return Ok(None),
            // No process listens, or it is no socket at all.
            Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            // Its backlog is full, or it is a socket of another type: both have a living owner.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(Holder::Socket {
        path: path.to_owned(),
        process: holder(path)?,
    }))
}

fn try_connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

/// The owner of a worker's socket, as a connection to it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketOwner {
    /// A process of the tree.
    Tree,
    /// Another process: an answer would not come from the worker.
    Foreign(Holder),
    /// Unknown: the process that called listen(2) has ended, and none that may be inspected holds
    /// the socket; or `/proc` hides what it is below (`hidepid`).
    Unknown,
}

/// Whether the socket at `path` belongs to a descendant of `sitter`. `listener` is the process that
/// called listen(2), which a connection to the socket shows (SO_PEERCRED); `None` or 0: it is in
/// another PID namespace. If it has ended, the socket counts as that of the process that holds it.
///
/// Takes about as long as one walk of `/proc` from the listener to the sitter.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn owner(path: &Path, listener: Option<i32>, sitter: i32) -> io::Result<SocketOwner> {
    let listener = listener.filter(|pid| *pid > 0);
    let ancestry = listener.map(|pid| tree::ancestry(pid, sitter)).transpose()?;
    if ancestry == Some(Ancestry::Below) {
        return Ok(SocketOwner::Tree);
    }
    let inodes = listening(path)?;
    if !sockets::owners(&inodes, tree::descendants(sitter)?).by_inode.is_empty() {
        return Ok(SocketOwner::Tree);
    }
    if matches!(ancestry, Some(Ancestry::Unknown { pid }) if listener != Some(pid)) {
        return Ok(SocketOwner::Unknown);
    }
    let alive = |pid: &i32| matches!(procfile::stat(*pid), Ok(Some(stat)) if !stat.has_ended());
    let process = match listener.filter(alive) {
        Some(pid) => Some(named(pid)),
        None => holder(path)?,
    };
    Ok(process.map_or(SocketOwner::Unknown, |process| {
        SocketOwner::Foreign(Holder::Socket {
            path: path.to_owned(),
            process: Some(process),
        })
    }))
}

/// The inode numbers of the sockets that are bound to `path` and not connected.
fn listening(path: &Path) -> io::Result<HashSet<u64>> {
    let all = procfs::net::unix().map_err(io::Error::other)?;
    Ok(all
        .into_iter()
        .filter(|socket| socket.state == UnixState::UNCONNECTED && socket.path.as_deref() == Some(path))
        .map(|socket| socket.inode)
        .collect())
}

/// A process that holds the socket at `path`, of those that may be inspected.
fn holder(path: &Path) -> io::Result<Option<(i32, String)>> {
    let inodes = listening(path)?;
    let found = sockets::owners(&inodes, procfile::all_pids()?).by_inode;
    Ok(found.into_values().next().map(named))
}

fn named(pid: i32) -> (i32, String) {
    let mut commands = procfile::command_lines(&[pid], Instant::now() + NAMING_TIME);
    (pid, commands.remove(&pid).unwrap_or_default())
}
