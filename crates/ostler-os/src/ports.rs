//! Is the port free, and whose is the listener? The release check and the readiness check on ports.
//!
//! No single question tells that a port is free (the table in ADR 0008 was measured). Two together do: *binding and
//! listening* as the next worker will, with SO_REUSEADDR and without SO_REUSEPORT, on the very address; and *asking the
//! kernel* for sockets that the bind does not collide with, because they are bound with SO_REUSEADDR and do not listen.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::holders::Holder;
use crate::sockets::{self, SocketState, TcpSocket, Which, name_holders, on_port};
use crate::tree;

/// Whether a port is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    /// It can be bound, and nobody has it.
    Free,
    /// It is held: never empty.
    Held(Vec<Holder>),
}

/// Why a port could not be checked or chosen.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it.
    #[error("{address} is in use: {}", holders.first().map(Holder::to_string).unwrap_or_default())]
    InUse {
        /// The address that was wanted.
        address: SocketAddr,
        /// Who has it: never empty.
        holders: Vec<Holder>,
    },
    /// Every port of a range is taken.
    #[error("every port from {first} to {last} on {ip} is taken, the first by {}", holders.first().map(Holder::to_string).unwrap_or_default())]
    RangeTaken {
        /// The address on which ports were looked for.
        ip: std::net::IpAddr,
        /// The first port of the range.
        first: u16,
        /// The last port of the range.
        last: u16,
        /// Who has them, the first few.
        holders: Vec<Holder>,
    },
    /// The kernel has no port left to choose from (`net.ipv4.ip_local_port_range`).
    #[error("no port is left on {ip}: the kernel's range of ports (net.ipv4.ip_local_port_range) is used up")]
    Exhausted {
        /// The address on which a port was wanted.
        ip: std::net::IpAddr,
    },
    /// This machine has no such address.
    #[error("{} is no address of this machine", address.ip())]
    NotOurs {
        /// The address.
        address: SocketAddr,
    },
    /// Ports below `net.ipv4.ip_unprivileged_port_start` (1024) need CAP_NET_BIND_SERVICE.
    #[error("we may not bind {address}: low ports need root or CAP_NET_BIND_SERVICE")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// The check itself failed.
    #[error("{address} could not be checked")]
    Check {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
}

/// Whether the next worker can bind and listen on `address`. A port of 0 is always free.
///
/// Blocks for microseconds when nothing uses the port, for about a millisecond when connections of its last owner
/// linger; when it is held, for as long as it takes to look through all descriptors of the machine for the holder. For
/// the moment of the check the port is ours and listens.
///
/// A socket that is bound with SO_REUSEADDR and does not listen is seen from Linux 6.8 on; before, such a port counts
/// as free, and the worker's own bind succeeds too.
///
/// # Errors
/// [`PortError::NotOurs`], [`PortError::NotPermitted`], [`PortError::Check`].
pub fn check(address: SocketAddr) -> Result<PortState, PortError> {
    Ok(match probe(address)? {
        Probe::Free => PortState::Free,
        Probe::Busy(sockets) if sockets.is_empty() => PortState::Held(vec![Holder::Unnamed { address }]),
        Probe::Busy(sockets) => PortState::Held(name_holders(&sockets)),
    })
}

/// What [`probe`] finds: like [`PortState`], before anybody is named.
pub(crate) enum Probe {
    Free,
    Busy(Vec<TcpSocket>),
}

/// A holder may be gone between the bind that failed and the question who it was: asked again, so many times.
const ATTEMPTS: usize = 3;

/// Binds, listens, asks, and closes again.
pub(crate) fn probe(address: SocketAddr) -> Result<Probe, PortError> {
    // Two probes of one port at once would each see the other: one at a time in this process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if address.port() == 0 {
        return Ok(Probe::Free);
    }
    let failed = |source| PortError::Check { address, source };
    // A bind that allows no reuse only succeeds when no socket of any kind is on the port: nothing is left to ask. The
    // kernel's answer on bound sockets costs a walk through its whole table.
    match bind_and_listen(address, Reuse::Nothing) {
        Ok(_) => return Ok(Probe::Free),
        Err(Errno::ADDRINUSE) => {}
        Err(error) => return Err(bind_error(address, error)),
    }
    for _ in 0..ATTEMPTS {
        let sockets = match bind_and_listen(address, Reuse::Address) {
            Ok(listener) => {
                let ours = inode_of(&listener).map_err(failed)?;
                let mut others = on_port(address.port(), Which::Owning).map_err(failed)?;
                others.retain(|socket| socket.inode != ours && socket.overlaps(address.ip()));
                if others.is_empty() {
                    return Ok(Probe::Free);
                }
                others
            }
            Err(Errno::ADDRINUSE) => {
                let mut all = on_port(address.port(), Which::All).map_err(failed)?;
                all.retain(|socket| socket.overlaps(address.ip()));
                keep_the_telling(all)
            }
            Err(error) => return Err(bind_error(address, error)),
        };
        if !sockets.is_empty() {
            return Ok(Probe::Busy(sockets));
        }
    }
    Ok(Probe::Busy(Vec::new()))
}

/// Beside a listener, its connections say nothing new.
fn keep_the_telling(mut sockets: Vec<TcpSocket>) -> Vec<TcpSocket> {
    let owns = |socket: &TcpSocket| matches!(socket.state, SocketState::Listening | SocketState::Bound);
    if sockets.iter().any(owns) {
        sockets.retain(owns);
    }
    sockets
}

/// What a probing socket allows others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// SO_REUSEADDR: as servers do, so that their own closed connections don't keep them out.
    Address,
    /// Nothing: the port must be wholly unused.
    Nothing,
}

pub(crate) fn bind_and_listen(address: SocketAddr, reuse: Reuse) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, reuse == Reuse::Address)?;
    bind(&socket, &address)?;
    listen(&socket, 1)?;
    Ok(socket)
}

pub(crate) fn bind_error(address: SocketAddr, error: Errno) -> PortError {
    match error {
        Errno::ADDRNOTAVAIL => PortError::NotOurs { address },
        Errno::ACCESS | Errno::PERM => PortError::NotPermitted { address },
        other => PortError::Check {
            address,
            source: other.into(),
        },
    }
}

fn inode_of(socket: &OwnedFd) -> io::Result<u64> {
    Ok(std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd()))?.ino())
}

/// The owner of the listener that a probe would connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerOwner {
    /// There is no listener.
    None,
    /// A process of the tree. If several sockets share the port (SO_REUSEPORT), all of them belong to
    /// the tree.
    Tree {
        /// One such process.
        pid: i32,
    },
    /// A foreign process, so an answer would not come from the worker. [`sockets::name_holders`] names
    /// it.
    Foreign(Vec<TcpSocket>),
    /// Unknown: no process that we may inspect holds the listener, and these processes of the tree may
    /// not be inspected (they belong to another user, or are protected).
    Unreadable {
        /// The processes of the tree that hide their descriptors.
        pids: Vec<i32>,
    },
}

/// Checks whether the listener that a connection to `address` would reach belongs to a descendant of
/// `sitter`, because an answer of a foreign process says nothing about the worker. Wildcard addresses
/// are treated as loopback, where a probe would reach them.
///
/// Cheap enough for every probe of a starting worker: one query to the kernel, and the descriptors of
/// the worker's own tree (about 0.1 ms for a small one).
///
/// # Errors
///
/// If the kernel cannot be queried.
pub fn listener_in_tree(address: SocketAddr, sitter: i32) -> io::Result<ListenerOwner> {
    let listeners = reached_by(address)?;
    if listeners.is_empty() {
        return Ok(ListenerOwner::None);
    }
    let inodes: HashSet<u64> = listeners.iter().map(|socket| socket.inode).collect();
    let owners = sockets::owners(&inodes, tree::descendants(sitter)?);
    let foreign: Vec<TcpSocket> = listeners
        .into_iter()
        .filter(|socket| !owners.by_inode.contains_key(&socket.inode))
        .collect();
    Ok(match owners.by_inode.values().next() {
        Some(&pid) if foreign.is_empty() => ListenerOwner::Tree { pid },
        _ if !owners.unreadable.is_empty() => ListenerOwner::Unreadable {
            pids: owners.unreadable,
        },
        _ => ListenerOwner::Foreign(foreign),
    })
}

/// The listeners among which the kernel chooses for a connection to `address`: those that fit best.
fn reached_by(address: SocketAddr) -> io::Result<Vec<TcpSocket>> {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => std::net::Ipv4Addr::LOCALHOST.into(),
        _ => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let mut listeners = on_port(address.port(), Which::Listening)?;
    let best = listeners.iter().filter_map(|socket| socket.fitness(ip)).max();
    listeners.retain(|socket| best.is_some() && socket.fitness(ip) == best);
    Ok(listeners)
}

/// A process that listens where a connection to `address` would arrive, with its socket's inode, looked for among all
/// that we may look into. `None`: nobody listens, or it can't be told who.
///
/// # Errors
/// When the kernel can't be asked.
pub fn owner(address: SocketAddr) -> io::Result<Option<(i32, u64)>> {
    let inodes: HashSet<u64> = reached_by(address)?.iter().map(|socket| socket.inode).collect();
    if inodes.is_empty() {
        return Ok(None);
    }
    let owners = sockets::owners(&inodes, crate::procfile::all_pids()?);
    Ok(owners.by_inode.into_iter().next().map(|(inode, pid)| (pid, inode)))
}

/// Binds a listening socket for a worker that takes it over (`LISTEN_FDS`), with SO_REUSEADDR and close-on-exec.
///
/// # Errors
/// [`PortError`]; a port in use is named with its holders.
pub fn bind_listener(address: SocketAddr) -> Result<TcpListener, PortError> {
    TcpListener::bind(address).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => match check(address) {
            Ok(PortState::Held(holders)) => PortError::InUse { address, holders },
            Ok(PortState::Free) => PortError::InUse {
                address,
                holders: vec![Holder::Unnamed { address }],
            },
            Err(error) => error,
        },
        Some(errno) => bind_error(address, errno),
        None => PortError::Check { address, source: error },
    })
}
