//! Chooses a worker's port so that no two workers of this machine's Ostler hosts get the same one.
//!
//! A port that is only *chosen* is free until the worker binds it. In the meantime it is protected
//! by:
//!
//! - a table in this process, while the [`PortReservation`] exists, against other workers of this
//!   host;
//! - a *claim*, an abstract Unix socket named after the port, until the worker has bound it,
//!   against other Ostler hosts. Abstract names belong to the network namespace, like ports, and
//!   vanish with their process;
//! - nothing against foreign programs, which can take the port in between. The worker's bind then
//!   fails with `port_in_use`, and the restart chooses again.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::holders::Holder;
use crate::ports::{PortError, Probe, Reuse, bind_and_listen, bind_error, probe};
use crate::sockets::name_holders;

/// How many ports of the kernel's choice are tried before giving up.
const MOST_TRIES: usize = 256;

/// How many holders are named if a whole range is in use.
const MOST_NAMED: usize = 8;

/// Which port a worker gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// A port of the kernel's choice that no socket uses in any way.
    Any,
    /// This port.
    Fixed(u16),
    /// The first free port from `first` to `last`, inclusive.
    Range {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

/// A port reserved for a worker until this value is dropped.
#[derive(Debug)]
pub struct PortReservation {
    address: SocketAddr,
    claim: Option<UnixDatagram>,
}

/// The ports reserved in this process, by all of its Ostler instances.
static RESERVED: Mutex<Vec<Reserved>> = Mutex::new(Vec::new());

struct Reserved {
    address: SocketAddr,
    owner: String,
}

fn reserved() -> MutexGuard<'static, Vec<Reserved>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reserves a port on `ip` for `owner` (for example `embed/0`, reported to others that want the
/// same port). The worker's `previous` port is tried first, unless the choice is a fixed port.
/// Blocks for well under a millisecond, or longer if holders must be named.
///
/// # Errors
///
/// [`PortError`]: who holds the port, or that none is left.
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
            for claims in [Claims::Respected, Claims::Ignored] {
                let rest = (first..=last).filter(|port| Some(*port) != previous);
                for port in previous.into_iter().chain(rest) {
                    if let Some(reservation) = try_reserve(SocketAddr::new(ip, port), owner, claims)? {
                        return Ok(reservation);
                    }
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
                && let Some(reservation) = try_reserve(SocketAddr::new(ip, port), owner, Claims::Respected)?
            {
                return Ok(reservation);
            }
            match reserve_any(ip, owner, Claims::Respected) {
                Err(PortError::Exhausted { .. }) => reserve_any(ip, owner, Claims::Ignored),
                other => other,
            }
        }
    }
}

impl PortReservation {
    /// The address with the reserved port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Call this once the worker has bound the port: releases the claim against other hosts (one
    /// descriptor), because the port itself now excludes them. The reservation in this process is
    /// kept.
    pub fn settle(&mut self) {
        self.claim = None;
    }

    /// Claims the port, so that other Ostler hosts choose another one. False if another host has
    /// claimed it.
    fn claim(&mut self) -> bool {
        match claim(self.address.port()) {
            Claim::Taken => false,
            Claim::Ours(claim) => {
                self.claim = claim;
                true
            }
        }
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

/// The user was promised a fixed port, so a claim does not prevent it; only a real holder does.
fn reserve_fixed(address: SocketAddr, owner: &str) -> Result<PortReservation, PortError> {
    let in_use = |holders| Err(PortError::InUse { address, holders });
    if let Some(holder) = enter(address, owner) {
        return in_use(vec![holder]);
    }
    // From here on, dropping it removes the entry.
    let mut reservation = PortReservation { address, claim: None };
    match probe(address)? {
        Probe::Free => {}
        Probe::Unbindable => tracing::warn!(
            target: "ostler", worker = owner, %address,
            "whether the port can be bound is not known: low ports take root or CAP_NET_BIND_SERVICE, which the worker has to have"
        ),
        Probe::Busy(sockets) if sockets.is_empty() => return in_use(vec![Holder::Unnamed { address }]),
        Probe::Busy(sockets) => return in_use(name_holders(&sockets)),
    }
    reservation.claim();
    Ok(reservation)
}

/// `None`: the port is taken in some way.
fn try_reserve(address: SocketAddr, owner: &str, claims: Claims) -> Result<Option<PortReservation>, PortError> {
    if enter(address, owner).is_some() {
        return Ok(None);
    }
    let mut reservation = PortReservation { address, claim: None };
    let may_have = reservation.claim() || claims == Claims::Ignored;
    let is_free = may_have && matches!(probe(address)?, Probe::Free | Probe::Unbindable);
    Ok(is_free.then_some(reservation))
}

/// The kernel's choice is only made among ports that nothing uses when the asking socket allows no
/// reuse; it is a random one, so what is reserved already is soon avoided.
fn reserve_any(ip: IpAddr, owner: &str, claims: Claims) -> Result<PortReservation, PortError> {
    for _ in 0..MOST_TRIES {
        let any = SocketAddr::new(ip, 0);
        let listener = match bind_and_listen(any, Reuse::Nothing) {
            Ok(listener) => TcpListener::from(listener),
            Err(Errno::ADDRINUSE) => break,
            Err(error) => return Err(bind_error(any, error)),
        };
        let address = listener
            .local_addr()
            .map_err(|source| PortError::Check { address: any, source })?;
        if enter(address, owner).is_some() {
            continue;
        }
        let mut reservation = PortReservation { address, claim: None };
        if reservation.claim() || claims == Claims::Ignored {
            return Ok(reservation);
        }
    }
    Err(PortError::Exhausted { ip })
}

/// Adds the address to the table, or returns its holder.
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

/// What another host's claim means. Any process of the network namespace can bind the names of
/// claims, so a claim is only a hint: where nothing else is left, a probe alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claims {
    Respected,
    Ignored,
}

/// What became of a claim.
enum Claim {
    /// The claim succeeded. Without a socket if none could be created: claims are a courtesy
    /// between hosts, and a lack of descriptors must not prevent a port.
    Ours(Option<UnixDatagram>),
    /// Another host, or another instance in this process, has claimed the port.
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
