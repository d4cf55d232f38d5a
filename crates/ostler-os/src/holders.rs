//! The holders of resources that should have been released. Everything that is still held has a
//! named holder.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use crate::procfile;

/// A holder that keeps a resource from being released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process that has not ended.
    Process(ProcessHolder),
    /// A socket on the port.
    Port(PortHolder),
    /// Closed connections in TIME_WAIT whose listener lacked SO_REUSEADDR: the kernel holds the
    /// port for up to 60 s.
    TimeWait {
        /// The address that cannot be bound.
        address: SocketAddr,
        /// The number of connections.
        connections: usize,
    },
    /// The port is reserved for another worker of this host.
    Reserved {
        /// The address.
        address: SocketAddr,
        /// The other worker, for example `embed/0`.
        owner: String,
    },
    /// A Unix socket on which a process listens.
    Socket {
        /// The socket.
        path: PathBuf,
        /// Pid and command line of that process. `None`: no process that may be inspected.
        process: Option<(i32, String)>,
    },
    /// The bind reports that the address is in use, but no socket is visible: its owner is in
    /// another network namespace, or ended before it could be named.
    Unnamed {
        /// The address.
        address: SocketAddr,
    },
}

/// A process that has not ended, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessHolder {
    /// Its pid.
    pub pid: i32,
    /// Its command line, cut at 4 KiB.
    pub command: String,
    /// Its effective user.
    pub uid: u32,
    /// Its state letter (`D` is uninterruptible, `t` stopped by a tracer).
    pub state: char,
    /// The tracer: a killed process does not end before its stopped tracer does, and stays after
    /// its end (state `Z`) until the tracer waits for it or lets it go (ptrace(2)).
    pub tracer: Option<i32>,
    /// The kernel function in which it waits, if known.
    pub wait_channel: Option<String>,
}

/// A socket on a port, with its process if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The local address of the socket.
    pub address: SocketAddr,
    /// The state of the socket, for example `listening`.
    pub state: &'static str,
    /// The user that created it.
    pub uid: u32,
    /// Its inode number; 0 if the kernel no longer has one.
    pub inode: u64,
    /// Pid and command line of a process that has it open. `None`: no process that may be
    /// inspected.
    pub process: Option<(i32, String)>,
}

/// Describes those of `pids` that have not ended, or that a tracer keeps after their end. Returns
/// at about `deadline` at the latest; command lines that could not be read by then are replaced by
/// the short name.
pub fn describe_processes(pids: &[i32], deadline: Instant) -> Vec<ProcessHolder> {
    let mut commands = procfile::command_lines(pids, deadline);
    pids.iter()
        .filter_map(|&pid| {
            let stat = procfile::stat(pid).ok()??;
            let status = procfile::status(pid).ok()??;
            let command = commands.remove(&pid).unwrap_or(stat.name.clone());
            let wait_channel = procfile::wait_channel(pid);
            let holder = ProcessHolder {
                pid,
                command,
                uid: status.uid,
                state: stat.state,
                tracer: status.tracer,
                wait_channel,
            };
            // A process that has ended under a tracer stays until that one has waited for it.
            (!stat.has_ended() || holder.tracer.is_some()).then_some(holder)
        })
        .collect()
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => process.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::TimeWait { address, connections } => write!(
                f,
                "{connections} closed connection(s) of {address} in TIME_WAIT, held by the kernel for up to 60 s because \
                 the listener did not set SO_REUSEADDR"
            ),
            Self::Reserved { address, owner } => write!(f, "{address} is reserved for {owner} of this host"),
            Self::Socket { path, process } => match process {
                Some((pid, command)) => write!(f, "pid {pid} ({command}), listening on {}", path.display()),
                None => write!(
                    f,
                    "a process that may not be inspected, listening on {}",
                    path.display()
                ),
            },
            Self::Unnamed { address } => write!(f, "{address} is in use by a socket that is not visible from here"),
        }
    }
}

impl fmt::Display for ProcessHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pid {} ({}) of user {}, state {}",
            self.pid, self.command, self.uid, self.state
        )?;
        if let Some(tracer) = self.tracer {
            write!(f, ", traced by pid {tracer}")?;
        }
        if let Some(channel) = &self.wait_channel {
            write!(f, ", waiting in {channel}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, command)) => write!(f, "pid {pid} ({command})")?,
            None => write!(f, "a process of user {} that may not be inspected", self.uid)?,
        }
        write!(f, ", {} on {}", self.state, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_described() {
        let address = "127.0.0.1:7001".parse().expect("valid address");
        let port = PortHolder {
            address,
            state: "listening",
            uid: 1000,
            inode: 7,
            process: Some((42, "python3 worker.py".into())),
        };
        assert_eq!(
            Holder::Port(port.clone()).to_string(),
            "pid 42 (python3 worker.py), listening on 127.0.0.1:7001"
        );
        let unseen = PortHolder { process: None, ..port };
        assert!(unseen.to_string().starts_with("a process of user 1000"));
        let process = ProcessHolder {
            pid: 7,
            command: "dd".into(),
            uid: 0,
            state: 't',
            tracer: Some(9),
            wait_channel: Some("ptrace_stop".into()),
        };
        assert_eq!(
            process.to_string(),
            "pid 7 (dd) of user 0, state t, traced by pid 9, waiting in ptrace_stop"
        );
        assert!(
            Holder::TimeWait {
                address,
                connections: 2
            }
            .to_string()
            .contains("TIME_WAIT")
        );
    }

    #[test]
    fn ended_process_holds_nothing() {
        let soon = Instant::now() + std::time::Duration::from_secs(10);
        let mut child = std::process::Command::new("true").spawn().expect("starting true");
        let pid = child.id() as i32;
        let handle = crate::identity::ProcessHandle::open(pid).expect("readable");
        if let Some(handle) = handle {
            assert!(handle.wait_until(soon).expect("polled"));
        }
        // Not reaped yet: a zombie.
        assert_eq!(describe_processes(&[pid], soon), vec![]);
        child.wait().expect("reaped");
        let us = std::process::id() as i32;
        let described = describe_processes(&[us], soon);
        assert_eq!(described.len(), 1);
        assert_eq!(described[0].pid, us);
    }
}
