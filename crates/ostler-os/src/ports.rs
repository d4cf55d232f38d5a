//! Checks whether a port is free, and who owns a listener: the release check and the readiness
//! check on ports.
//!
//! No single check proves that a port is free (see the measurements in ADR 0008); two together do.
//! One *binds and listens* as the next worker will, with SO_REUSEADDR and without SO_REUSEPORT, on
//! the exact address. The other *queries the kernel* for sockets that do not collide with that
//! bind, because they are bound with SO_REUSEADDR and do not listen.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_reuseaddr, socket_acceptconn};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::geteuid;

use crate::holders::Holder;
use crate::procfile;
use crate::sockets::{self, SocketState, TcpSocket, Which, name_holders, on_port};
use crate::tree;

/// Whether a port is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    /// The port can be bound, and no socket uses it.
    Free,
    /// The port is held. The list is never empty.
    Held(Vec<Holder>),
}

/// Why a port could not be checked or chosen.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another socket uses the port.
    #[error("{address} is in use: {}", holders.first().map(Holder::to_string).unwrap_or_default())]
    InUse {
        /// The requested address.
        address: SocketAddr,
        /// The holders; never empty.
        holders: Vec<Holder>,
    },
    /// Every port of a range is in use.
    #[error("every port from {first} to {last} on {ip} is in use, the first by {}", holders.first().map(Holder::to_string).unwrap_or_default())]
    RangeTaken {
        /// The address on which a port was requested.
        ip: std::net::IpAddr,
        /// The first port of the range.
        first: u16,
        /// The last port of the range.
        last: u16,
        /// The first few holders.
        holders: Vec<Holder>,
    },
    /// The kernel has no ephemeral port left (`net.ipv4.ip_local_port_range`).
    #[error(
        "no port is left on {ip}: the kernel's range of ephemeral ports (net.ipv4.ip_local_port_range) is exhausted"
    )]
    Exhausted {
        /// The address on which a port was requested.
        ip: std::net::IpAddr,
    },
    /// This machine has no such address.
    #[error("{} is not an address of this machine", address.ip())]
    NotOurs {
        /// The address.
        address: SocketAddr,
    },
    /// A security module forbids it.
    #[error("no permission to bind {address}")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// The check itself failed.
    #[error("{address} could not be checked")]
    Check {
        /// The address.
        address: SocketAddr,
        /// The error.
        source: io::Error,
    },
}

/// Checks whether the next worker can bind and listen on `address`. Port 0 is always free.
///
/// Blocks for microseconds if nothing uses the port, and for about a millisecond if connections of
/// its last owner linger. If it is held, blocks while it searches all descriptors of the machine
/// for the holder. During the check, this process listens on the port.
///
/// A socket that is bound with SO_REUSEADDR and does not listen is visible since Linux 6.8. Before,
/// such a port counts as free, and the worker's own bind succeeds too.
///
/// A port that this process may not bind (below `net.ipv4.ip_unprivileged_port_start`, without
/// CAP_NET_BIND_SERVICE), and the worker perhaps may, is free if the kernel shows no socket that
/// owns it.
///
/// # Errors
///
/// [`PortError::NotOurs`], [`PortError::NotPermitted`], [`PortError::Check`].
pub fn check(address: SocketAddr) -> Result<PortState, PortError> {
    Ok(match probe(address)? {
        Probe::Free | Probe::Unbindable => PortState::Free,
        Probe::Busy(sockets) if sockets.is_empty() => PortState::Held(vec![Holder::Unnamed { address }]),
        Probe::Busy(sockets) => PortState::Held(name_holders(&sockets)),
    })
}

/// The result of [`probe`]: like [`PortState`], before the holders are named.
pub(crate) enum Probe {
    Free,
    /// No socket owns it, and a bind was not possible: this process may not bind low ports.
    Unbindable,
    Busy(Vec<TcpSocket>),
}

/// A holder may be gone between the failed bind and the search for it, so the probe is repeated
/// this often.
const ATTEMPTS: usize = 3;

/// Binds, listens, queries the kernel, and closes again.
pub(crate) fn probe(address: SocketAddr) -> Result<Probe, PortError> {
    // Two concurrent probes of a port would each see the other, so this process makes one at a
    // time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if address.port() == 0 {
        return Ok(Probe::Free);
    }
    let failed = |source| PortError::Check { address, source };
    // A bind without any reuse only succeeds if no socket of any kind is on the port, so there is
    // nothing to query. Querying bound sockets makes the kernel walk its whole table.
    match bind_and_listen(address, Reuse::Nothing) {
        Ok(_) => return Ok(Probe::Free),
        Err(Errno::ADDRINUSE) => {}
        Err(Errno::ACCESS) if address.port() < first_unprivileged() => return unbound(address).map_err(failed),
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
                drop_redundant(all)
            }
            Err(error) => return Err(bind_error(address, error)),
        };
        if !sockets.is_empty() {
            return Ok(Probe::Busy(sockets));
        }
    }
    Ok(Probe::Busy(Vec::new()))
}

/// The lowest port that takes no CAP_NET_BIND_SERVICE (`net.ipv4.ip_unprivileged_port_start`,
/// ip(7)).
fn first_unprivileged() -> u16 {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// What the kernel shows of a port that this process may not bind. The worker may have file
/// capabilities, or be set-uid.
fn unbound(address: SocketAddr) -> io::Result<Probe> {
    let mut owners = on_port(address.port(), Which::Owning)?;
    owners.retain(|socket| socket.overlaps(address.ip()));
    Ok(match owners.is_empty() {
        true => Probe::Unbindable,
        false => Probe::Busy(owners),
    })
}

/// Drops the connections of a listener, which add no information.
fn drop_redundant(mut sockets: Vec<TcpSocket>) -> Vec<TcpSocket> {
    let owns = |socket: &TcpSocket| matches!(socket.state, SocketState::Listening | SocketState::Bound);
    if sockets.iter().any(owns) {
        sockets.retain(owns);
    }
    sockets
}

/// The reuse that a probing socket allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// SO_REUSEADDR, as servers set it so that their own closed connections do not keep them out.
    Address,
    /// None: the port must be completely unused.
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
    /// A process of the tree. If several sockets share the port (SO_REUSEPORT), all of them belong
    /// to the tree.
    Tree {
        /// One such process.
        pid: i32,
    },
    /// A foreign process, so an answer would not come from the worker. [`sockets::name_holders`]
    /// names it.
    Foreign(Vec<TcpSocket>),
    /// Unknown: these processes of the tree can't be inspected (they belong to another user, are
    /// protected, or `/proc` hides them), and the listener may be theirs. What can be seen does not
    /// speak against it: no other process that can be inspected has the listener open, and it
    /// belongs to this user or to one that such a process of the tree has or had.
    Unreadable {
        /// The processes of the tree that hide their descriptors.
        pids: Vec<i32>,
    },
}

/// Checks whether the listener that a connection to `address` would reach belongs to a descendant
/// of `sitter`, because an answer of a foreign process says nothing about the worker. Wildcard
/// addresses are treated as loopback, where a probe would reach them.
///
/// Cheap enough for every probe of a starting worker: one query to the kernel, and the descriptors
/// of the worker's own tree (about 0.1 ms for a small one). If some of the tree can't be inspected,
/// those of all other processes too.
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
    let tree = tree::descendants(sitter)?;
    let owners = sockets::owners(&inodes, tree.iter().copied());
    let foreign: Vec<TcpSocket> = listeners
        .into_iter()
        .filter(|socket| !owners.by_inode.contains_key(&socket.inode))
        .collect();
    Ok(match owners.by_inode.values().next() {
        Some(&pid) if foreign.is_empty() => ListenerOwner::Tree { pid },
        _ if owners.unreadable.is_empty() => ListenerOwner::Foreign(foreign),
        _ => of_unreadable(owners.unreadable, &tree, foreign)?,
    })
}

/// Whether listeners that no readable process of the tree has open may be those of its unreadable
/// ones.
fn of_unreadable(pids: Vec<i32>, tree: &[i32], listeners: Vec<TcpSocket>) -> io::Result<ListenerOwner> {
    let users = users_of(&pids);
    // The host has the listeners open that it passes on.
    let us = std::process::id() as i32;
    let others = procfile::all_pids()?;
    let others = others.into_iter().filter(|pid| *pid != us && !tree.contains(pid));
    let inodes: HashSet<u64> = listeners.iter().map(|socket| socket.inode).collect();
    let held = sockets::owners(&inodes, others).by_inode;
    let is_foreign = |socket: &TcpSocket| held.contains_key(&socket.inode) || !users.contains(&socket.uid);
    let foreign: Vec<TcpSocket> = listeners.into_iter().filter(is_foreign).collect();
    Ok(if foreign.is_empty() {
        ListenerOwner::Unreadable { pids }
    } else {
        ListenerOwner::Foreign(foreign)
    })
}

/// The users as whom these processes, which this user started, may have made a socket.
fn users_of(pids: &[i32]) -> HashSet<u32> {
    let own = geteuid().as_raw();
    let mut users = HashSet::from([own]);
    for pid in pids {
        match procfile::status(*pid) {
            Ok(Some(status)) if status.uid == own => {}
            // A set-uid program: it may have been root when it made its sockets.
            Ok(Some(status)) => users.extend([status.uid, 0]),
            Ok(None) | Err(_) => _ = users.insert(0),
        }
    }
    users
}

/// The listeners among which the kernel chooses for a connection to `address`: those with the most
/// specific address.
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

/// Binds a listening socket for a worker that takes it over (`LISTEN_FDS`), with SO_REUSEADDR and
/// close-on-exec.
///
/// # Errors
///
/// [`PortError`]; for a port in use, with its holders.
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

/// Whether the socket still listens: a process that has it too may have shut it down (shutdown(2)),
/// which ends the listening for all, and may give up the port.
pub fn still_listens(listener: &TcpListener) -> bool {
    socket_acceptconn(listener).unwrap_or(true)
}
