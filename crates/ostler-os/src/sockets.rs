//! TCP sockets on a local port according to the kernel, and their owners.
//!
//! The query uses sock_diag(7), which filters by port and state in the kernel, so its cost does not
//! grow with the machine's connections. If it is refused (by a seccomp filter, or a kernel without
//! INET_DIAG), `/proc/net/tcp` and `tcp6` are read instead; they do not show sockets that are bound
//! and do not listen.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::holders::{Holder, PortHolder};
use crate::identity;
use crate::procfile;

/// TCP_BOUND_INACTIVE of the kernel's `tcp_states.h` (6.8): bound, neither listening nor connected.
/// A pseudo state for sock_diag filters; in the answers such a socket has state CLOSE.
const TCP_BOUND_INACTIVE: u32 = 13;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// Sockets on any port. sock_diag matches every port if the filter's port is 0.
const ANY_PORT: u16 = 0;

/// The limit for the kernel's answer. It answers immediately; the limit only prevents a hang.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The limit for reading the holders' command lines.
const NAMING_TIME: Duration = Duration::from_millis(500);

/// What a socket does with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// It accepts connections.
    Listening,
    /// It is bound, and neither listens nor is connected.
    Bound,
    /// A closed connection that the kernel keeps for a while; it belongs to no process.
    TimeWait,
    /// Any state of a connection.
    Connected,
}

impl SocketState {
    /// The state in a word, as used in [`PortHolder`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Bound => "bound",
            Self::TimeWait => "in TIME_WAIT",
            Self::Connected => "connected",
        }
    }

    fn of(kernel: u8) -> Self {
        match kernel {
            TCP_LISTEN => Self::Listening,
            TCP_TIME_WAIT => Self::TimeWait,
            TCP_CLOSE => Self::Bound,
            other if u32::from(other) == TCP_BOUND_INACTIVE => Self::Bound,
            _ => Self::Connected,
        }
    }
}

/// Which sockets to query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Listening sockets only.
    Listening,
    /// Listening sockets, and those that are bound and do not listen (since Linux 6.8).
    Owning,
    /// All sockets in any state.
    All,
}

/// A TCP socket on a local port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its local address.
    pub address: SocketAddr,
    /// Its state.
    pub state: SocketState,
    /// The user that created it.
    pub uid: u32,
    /// Its inode number, which identifies a process's descriptor; 0 if it belongs to no process.
    pub inode: u64,
    /// Whether it accepts IPv6 only although it is bound to `::`. `false` if unknown.
    pub v6_only: bool,
}

impl TcpSocket {
    /// How specifically this socket's address matches a connection to `ip`, in the kernel's order:
    /// the address itself (3), all IPv4 addresses (2), `::` that also accepts IPv4 (1). `None`: the
    /// connection does not arrive here.
    pub fn fitness(&self, ip: IpAddr) -> Option<u8> {
        let (own, target) = (self.address.ip().to_canonical(), ip.to_canonical());
        match own {
            _ if own == target => Some(3),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) if target.is_ipv4() => Some(2),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if target.is_ipv6() => Some(2),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if !self.v6_only => Some(1),
            _ => None,
        }
    }

    /// Whether it prevents others from binding `ip` on its port: it would receive its connections,
    /// or `ip` is a wildcard that includes its address.
    pub fn overlaps(&self, ip: IpAddr) -> bool {
        let own = self.address.ip().to_canonical();
        self.fitness(ip).is_some() || (ip.is_unspecified() && (ip.is_ipv6() || own.is_ipv4()))
    }
}

/// Returns the TCP sockets in this network namespace whose local port is `port`, for both address
/// families; those on any port if it is 0.
///
/// # Errors
///
/// If neither sock_diag nor `/proc/net` can be read.
pub fn on_port(port: u16, which: Which) -> io::Result<Vec<TcpSocket>> {
    match ask_kernel(port, which) {
        Ok(sockets) => Ok(sockets),
        Err(diag) => read_proc_net(port, which).map_err(|proc| io::Error::new(proc.kind(), format!("{proc}; {diag}"))),
    }
}

/// Returns the addresses on which these processes listen, sorted. Processes that may not be
/// inspected are left out.
///
/// Costs one read of the processes' descriptors and, if they have any sockets, one query that
/// returns every listening socket in this network namespace.
///
/// # Errors
///
/// If neither sock_diag nor `/proc/net` can be read.
pub fn listeners_of(pids: &[i32]) -> io::Result<Vec<SocketAddr>> {
    let inodes: HashSet<u64> = pids
        .iter()
        .flat_map(|pid| sockets_of(*pid).unwrap_or_default())
        .collect();
    if inodes.is_empty() {
        return Ok(Vec::new());
    }
    let listening = on_port(ANY_PORT, Which::Listening)?;
    let mut addresses: Vec<SocketAddr> = listening
        .into_iter()
        .filter(|socket| inodes.contains(&socket.inode))
        .map(|socket| socket.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn ask_kernel(port: u16, which: Which) -> io::Result<Vec<TcpSocket>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIME))?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    for family in [AF_INET, AF_INET6] {
        sendto(
            &socket,
            &request(family, port, which),
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        loop {
            let (received, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            if read_answer(&buffer[..received], &mut sockets)? {
                break;
            }
        }
    }
    sockets.retain(|socket: &TcpSocket| port == ANY_PORT || socket.address.port() == port);
    Ok(sockets)
}

/// Adds the sockets in one datagram of the kernel's answer. Returns whether the answer is complete.
pub(crate) fn read_answer(mut datagram: &[u8], sockets: &mut Vec<TcpSocket>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                sockets.push(socket_of(&response));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            // Not `to_io`: it overflows for the smallest code
            // (fuzz/corpus/sock_diag/smallest-error).
            NetlinkPayload::Error(error) => {
                return Err(io::Error::from_raw_os_error(error.raw_code().saturating_abs()));
            }
            _ => {}
        }
        // Messages are padded to 4 bytes; a length of 0 would loop.
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(false)
}

fn request(family: u8, port: u16, which: Which) -> Vec<u8> {
    let bound = StateFlags::from_bits_retain(1 << TCP_BOUND_INACTIVE);
    let states = match which {
        Which::Listening => StateFlags::LISTEN,
        Which::Owning => StateFlags::LISTEN | bound,
        Which::All => StateFlags::all() | bound,
    };
    let any = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId {
            source_port: port,
            ..any
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::InetRequest(request)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn socket_of(response: &InetResponse) -> TcpSocket {
    let header = &response.header;
    TcpSocket {
        address: SocketAddr::new(header.socket_id.source_address, header.socket_id.source_port),
        state: SocketState::of(header.state),
        uid: header.uid,
        inode: u64::from(header.inode),
        v6_only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
    }
}

fn read_proc_net(port: u16, which: Which) -> io::Result<Vec<TcpSocket>> {
    let mut entries = procfs::net::tcp().map_err(io::Error::other)?;
    // A kernel without IPv6 has no such file.
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let sockets = entries
        .into_iter()
        .filter(|entry| port == ANY_PORT || entry.local_address.port() == port)
        .map(|entry| TcpSocket {
            address: entry.local_address,
            state: SocketState::of(entry.state.to_u8()),
            uid: entry.uid,
            inode: entry.inode,
            v6_only: false,
        });
    Ok(sockets
        .filter(|socket| which == Which::All || socket.state == SocketState::Listening)
        .collect())
}

/// The result of searching the descriptors of processes for sockets.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// A process for each inode found.
    pub(crate) by_inode: HashMap<u64, i32>,
    /// Living processes whose descriptors may not be inspected.
    pub(crate) unreadable: Vec<i32>,
}

/// Searches the descriptors of `pids` until each inode has an owner.
pub(crate) fn owners(inodes: &HashSet<u64>, pids: impl IntoIterator<Item = i32>) -> Owners {
    let mut owners = Owners::default();
    for pid in pids {
        if owners.by_inode.len() == inodes.len() {
            break;
        }
        match sockets_of(pid) {
            Ok(found) => {
                for inode in found.into_iter().filter(|inode| inodes.contains(inode)) {
                    owners.by_inode.entry(inode).or_insert(pid);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => owners.unreadable.push(pid),
            Err(_) if is_hidden(pid) => owners.unreadable.push(pid),
            // It has ended.
            Err(_) => {}
        }
    }
    owners
}

/// Whether the process lives and `/proc` hides it (`hidepid=2`).
fn is_hidden(pid: i32) -> bool {
    identity::of(pid).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The inode numbers of a process's sockets.
fn sockets_of(pid: i32) -> io::Result<Vec<u64>> {
    let of_main = sockets_in(&procfile::directory(pid));
    if let Ok((sockets, 1..)) = of_main {
        return Ok(sockets);
    }
    // A main thread that has ended has none, and its list is refused to all but root.
    match procfile::stat(pid) {
        Ok(Some(stat)) if stat.has_ended() => Ok(Vec::new()),
        Ok(Some(stat)) if stat.lost_main_thread => sockets_of_threads(pid),
        _ => of_main.map(|(sockets, _)| sockets),
    }
}

/// The sockets of a process that has lost its main thread. Its other threads still have them.
fn sockets_of_threads(pid: i32) -> io::Result<Vec<u64>> {
    let mut answered = false;
    let found = procfile::from_threads(pid, |thread| {
        let (sockets, descriptors) = sockets_in(thread)?;
        answered = true;
        Ok((descriptors > 0).then_some(sockets))
    });
    match found {
        Err(refusal) if !answered => Err(refusal),
        found => Ok(found.ok().flatten().unwrap_or_default()),
    }
}

/// The sockets among the descriptors that a process or thread has according to its directory in
/// `/proc`, and the number of all descriptors.
fn sockets_in(directory: &Path) -> io::Result<(Vec<u64>, usize)> {
    let links: Vec<_> = fs::read_dir(directory.join("fd"))?
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect();
    let sockets = links.iter().filter_map(|link| socket_inode(link.to_str()?)).collect();
    Ok((sockets, links.len()))
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Names the holders of these sockets by searching the descriptors of all processes that may be
/// inspected. Sockets in TIME_WAIT belong to no process, and count as one holder per address.
/// Blocks for about 10 µs per descriptor of the machine.
pub fn name_holders(sockets: &[TcpSocket]) -> Vec<Holder> {
    let inodes: HashSet<u64> = sockets
        .iter()
        .map(|socket| socket.inode)
        .filter(|&inode| inode != 0)
        .collect();
    let found = owners(&inodes, procfile::all_pids().unwrap_or_default()).by_inode;
    let pids: Vec<i32> = found.values().copied().collect::<HashSet<_>>().into_iter().collect();
    let commands = procfile::command_lines(&pids, Instant::now() + NAMING_TIME);

    let mut time_waits: HashMap<SocketAddr, usize> = HashMap::new();
    let mut holders = Vec::new();
    for socket in sockets {
        if socket.state == SocketState::TimeWait {
            *time_waits.entry(socket.address).or_default() += 1;
            continue;
        }
        let process = found
            .get(&socket.inode)
            .map(|pid| (*pid, commands.get(pid).cloned().unwrap_or_default()));
        holders.push(Holder::Port(PortHolder {
            address: socket.address,
            state: socket.state.as_str(),
            uid: socket.uid,
            inode: socket.inode,
            process,
        }));
    }
    holders.extend(
        time_waits
            .into_iter()
            .map(|(address, connections)| Holder::TimeWait { address, connections }),
    );
    holders
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn socket(address: &str, v6_only: bool) -> TcpSocket {
        let address = SocketAddr::new(address.parse().expect("valid address"), 7001);
        TcpSocket {
            address,
            state: SocketState::Listening,
            uid: 0,
            inode: 1,
            v6_only,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("valid address")
    }

    #[test]
    fn connections_reach_the_most_specific_listener() {
        let local = ip("127.0.0.1");
        assert_eq!(socket("127.0.0.1", false).fitness(local), Some(3));
        assert_eq!(socket("::ffff:127.0.0.1", false).fitness(local), Some(3));
        assert_eq!(socket("0.0.0.0", false).fitness(local), Some(2));
        assert_eq!(socket("::", false).fitness(local), Some(1));
        assert_eq!(socket("::", true).fitness(local), None);
        assert_eq!(socket("127.0.0.2", false).fitness(local), None);
        assert_eq!(socket("0.0.0.0", false).fitness(ip("::1")), None);
        assert_eq!(socket("::", true).fitness(ip("::1")), Some(2));
    }

    #[test]
    fn wildcards_overlap_the_addresses_they_include() {
        assert!(socket("127.0.0.1", false).overlaps(ip("0.0.0.0")));
        assert!(socket("127.0.0.1", false).overlaps(ip("::")));
        assert!(socket("0.0.0.0", false).overlaps(ip("127.0.0.1")));
        assert!(socket("::", false).overlaps(ip("127.0.0.1")));
        assert!(!socket("127.0.0.1", false).overlaps(ip("127.0.0.2")));
        assert!(!socket("::1", false).overlaps(ip("0.0.0.0")));
        assert!(!socket("::", true).overlaps(ip("127.0.0.1")));
    }

    #[test]
    fn listeners_of_a_process_are_found_on_any_port() {
        let listeners = ["127.0.0.1:0", "127.0.0.1:0"].map(|address| TcpListener::bind(address).expect("free port"));
        let found = listeners_of(&[std::process::id().cast_signed()]).expect("readable");
        for listener in &listeners {
            let address = listener.local_addr().expect("bound");
            assert!(found.contains(&address), "{address} is not in {found:?}");
            let from_proc = read_proc_net(ANY_PORT, Which::Listening).expect("readable");
            assert!(from_proc.iter().any(|socket| socket.address == address));
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("starting sleep");
        let of_child = listeners_of(&[child.id().cast_signed()]).expect("readable");
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(of_child, []);
    }

    /// Tests both sources on every machine, so that the fallback keeps working.
    #[test]
    fn kernel_and_proc_net_agree_on_listeners() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped: no {address}");
                continue;
            };
            let address = listener.local_addr().expect("bound");
            let mut from_kernel = ask_kernel(address.port(), Which::Listening).expect("querying sock_diag");
            let from_proc = read_proc_net(address.port(), Which::Listening).expect("readable");
            from_kernel.iter_mut().for_each(|socket| socket.v6_only = false);
            assert_eq!(from_kernel, from_proc);
            assert_eq!(from_kernel.len(), 1);
            assert_eq!(from_kernel[0].address, address);
        }
    }
}
