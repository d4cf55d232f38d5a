//! The choice of a worker's port: none is given to two workers of this machine's Ostler hosts.
//!
//! A port that is only *chosen* is nobody's until the worker binds it. In between, three things keep it ours:
//! - a table in this process, for as long as the [`PortReservation`] lives: no two workers of this host;
//! - a *claim*, an abstract Unix socket named after the port, for as long as the worker has not bound it: abstract names
//!   live in the network namespace, as ports do, and vanish with their process; no two Ostler hosts get one port;
//! - nothing against strangers: a program that knows nothing of us can take the port in the gap. The worker's bind then
//!   fails, its failure is classified (`port_in_use`), and the restart chooses anew.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::holders::Holder;
use crate::ports::{PortError, Probe, Reuse, bind_and_listen, bind_error, probe};
use crate::sockets::name_holders;

/// So many ports of the kernel's choice are tried before we say that none is left.
const MOST_TRIES: usize = 256;

/// So many holders are named when a whole range is taken.
const MOST_NAMED: usize = 8;

/// What port a worker is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// One of the kernel's choice, that no socket uses in any way.
    Any,
    /// This one.
    Fixed(u16),
    /// The first free one from `first` to `last`, both included.
    Range {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

/// A port that is a worker's, until this is dropped.
#[derive(Debug)]
pub struct PortReservation {
    address: SocketAddr,
    claim: Option<UnixDatagram>,
}

/// The ports reserved in this process, over all Ostler instances in it.
static RESERVED: Mutex<Vec<Reserved>> = Mutex::new(Vec::new());

struct Reserved {
    address: SocketAddr,
    owner: String,
}

fn reserved() -> MutexGuard<'static, Vec<Reserved>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reserves a port on `ip` for `owner` (such as `embed/0`, told to whoever wants the same port). `previous`, the port
/// that the worker had, is tried first unless the choice is a fixed one. Blocks for well under a millisecond; longer
/// when holders must be named.
///
/// # Errors
/// [`PortError`]: who has the port, or that none is left.
pub fn reserve(
    ip: IpAddr,
    choice: PortChoice,
    previous: Option<u16>,
    owner: &str,
) -> Result<PortReservation, PortError> {
    match choice {
        PortChoice::Fixed(port) => reserve_fixed(SocketAddr::new(ip, port), owner),
        PortChoice::Range { first, last } => {
            let previous = previous.filter(|port| (first..=last).contains(port));
            let rest = (first..=last).filter(|port| Some(*port) != previous);
            for port in previous.into_iter().chain(rest) {
                if let Some(reservation) = try_reserve(SocketAddr::new(ip, port), owner)? {
                    return Ok(reservation);
                }
            }
            Err(PortError::RangeTaken {
                ip,
                first,
                last,
                holders: holders_of_range(ip, first, last),
            })
        }
        PortChoice::Any => {
            if let Some(port) = previous.filter(|port| *port != 0)
                && let Some(reservation) = try_reserve(SocketAddr::new(ip, port), owner)?
            {
                return Ok(reservation);
            }
            reserve_any(ip, owner)
        }
    }
}

impl PortReservation {
    /// The address with the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says that the worker has bound the port: the claim against other hosts (one descriptor) is let go, as the port
    /// itself now keeps them out. The reservation in this process stays.
    pub fn settle(&mut self) {
        self.claim = None;
    }

    /// Takes the claim again for the gap of a restart, after the port was confirmed to be free. `false`: another Ostler
    /// host has claimed it meanwhile, and another port must be reserved.
    pub fn renew(&mut self) -> bool {
        if self.claim.is_none() {
            match claim(self.address.port()) {
                Claim::Taken => return false,
                Claim::Ours(claim) => self.claim = claim,
            }
        }
        true
    }
}

impl Drop for PortReservation {
    fn drop(&mut self) {
        reserved().retain(|entry| entry.address != self.address);
    }
}

impl fmt::Display for PortReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// A fixed port was promised to the user, so nobody's claim keeps us from it: only what really holds it.
fn reserve_fixed(address: SocketAddr, owner: &str) -> Result<PortReservation, PortError> {
    let in_use = |holders| Err(PortError::InUse { address, holders });
    if let Some(holder) = enter(address, owner) {
        return in_use(vec![holder]);
    }
    // From here on its drop takes the entry back.
    let mut reservation = PortReservation { address, claim: None };
    match probe(address)? {
        Probe::Free => {}
        Probe::Busy(sockets) if sockets.is_empty() => return in_use(vec![Holder::Unnamed { address }]),
        Probe::Busy(sockets) => return in_use(name_holders(&sockets)),
    }
    reservation.renew();
    Ok(reservation)
}

/// `None`: the port is taken in some way.
fn try_reserve(address: SocketAddr, owner: &str) -> Result<Option<PortReservation>, PortError> {
    if enter(address, owner).is_some() {
        return Ok(None);
    }
    let mut reservation = PortReservation { address, claim: None };
    let is_free = reservation.renew() && matches!(probe(address)?, Probe::Free);
    Ok(is_free.then_some(reservation))
}

/// The kernel's choice is only made among ports that nothing uses when the asking socket allows no reuse; it is a
/// random one, so what is reserved already is soon avoided.
fn reserve_any(ip: IpAddr, owner: &str) -> Result<PortReservation, PortError> {
    for _ in 0..MOST_TRIES {
        let wanted = SocketAddr::new(ip, 0);
        let listener = match bind_and_listen(wanted, Reuse::Nothing) {
            Ok(listener) => TcpListener::from(listener),
            Err(Errno::ADDRINUSE) => break,
            Err(error) => return Err(bind_error(wanted, error)),
        };
        let address = listener.local_addr().map_err(|source| PortError::Check {
            address: wanted,
            source,
        })?;
        if enter(address, owner).is_some() {
            continue;
        }
        let mut reservation = PortReservation { address, claim: None };
        if reservation.renew() {
            return Ok(reservation);
        }
    }
    Err(PortError::Exhausted { ip })
}

/// Enters the address in the table, or says who has it.
fn enter(address: SocketAddr, owner: &str) -> Option<Holder> {
    let mut reserved = reserved();
    let holder = reserved
        .iter()
        .find(|entry| overlap(entry.address, address))
        .map(|entry| Holder::Reserved {
            address: entry.address,
            owner: entry.owner.clone(),
        });
    if holder.is_none() {
        reserved.push(Reserved {
            address,
            owner: owner.to_owned(),
        });
    }
    holder
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_ip = one.ip().to_canonical() == other.ip().to_canonical();
    one.port() == other.port() && (same_ip || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn holders_of_range(ip: IpAddr, first: u16, last: u16) -> Vec<Holder> {
    let mut holders = Vec::new();
    for address in (first..=last).map(|port| SocketAddr::new(ip, port)) {
        let taken = reserved()
            .iter()
            .find(|entry| overlap(entry.address, address))
            .map(|entry| Holder::Reserved {
                address,
                owner: entry.owner.clone(),
            });
        match (taken, probe(address)) {
            (Some(holder), _) => holders.push(holder),
            (None, Ok(Probe::Busy(sockets))) => holders.extend(name_holders(&sockets)),
            (None, _) => holders.push(Holder::Reserved {
                address,
                owner: "another Ostler host".into(),
            }),
        }
        if holders.len() >= MOST_NAMED {
            break;
        }
    }
    holders
}

/// What became of a claim.
enum Claim {
    /// It is ours. Without a socket where none can be had: claims are a courtesy among hosts, and no descriptor left is
    /// no reason to refuse a port.
    Ours(Option<UnixDatagram>),
    /// Another host (or another instance in this one) has it.
    Taken,
}

fn claim(port: u16) -> Claim {
    let name = format!("ostler-port-{port}");
    match UnixAddr::from_abstract_name(name).and_then(|name| UnixDatagram::bind_addr(&name)) {
        Ok(socket) => Claim::Ours(Some(socket)),
        Err(error) if error.raw_os_error() == Some(Errno::ADDRINUSE.raw_os_error()) => Claim::Taken,
        Err(_) => Claim::Ours(None),
    }
}
