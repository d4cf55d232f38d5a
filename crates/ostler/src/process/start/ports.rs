//! The ports and Unix sockets of the next incarnation.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{PoolSpec, Port, Ports, WorkerSpec};
use ostler_os::port_choice::{self, PortChoice};
use ostler_os::ports;
use ostler_os::{socket_path, worker_socket};
use ostler_registry::RecordedPort;

use super::super::protocol::{ChosenPorts, Listeners};
use super::refusal;
use crate::status::PortMap;

/// The worker for which ports are chosen.
pub(super) struct Chooser {
    pub(super) pool: Arc<PoolSpec>,
    pub(super) worker: String,
    /// Its slot's number at the guardian, unique in the run: the name of its sockets.
    pub(super) slot: u32,
    /// The private directory of its sockets, if it has any.
    pub(super) directory: Option<io::Result<PathBuf>>,
}

/// Chooses them on a thread that may block, when there is anything to choose. `before` are those of
/// the incarnation before: they are tried first.
pub(super) async fn choose(chooser: Chooser, before: (PortMap, Listeners)) -> Result<ChosenPorts, Failure> {
    if chooser.pool.worker.ports == Ports::None {
        return Ok(ChosenPorts::default());
    }
    let chosen = tokio::task::spawn_blocking(move || choose_now(&chooser, before)).await;
    chosen.unwrap_or_else(|lost| {
        Err(Failure::new(
            Reason::PortInUse,
            format!("no port could be chosen: {lost}"),
        ))
    })
}

/// Ports that the worker reports come later. Blocks for as long as it takes to name a holder.
fn choose_now(chooser: &Chooser, before: (PortMap, Listeners)) -> Result<ChosenPorts, Failure> {
    let (spec, worker) = (&chooser.pool.worker, chooser.worker.as_str());
    let (previous, mut bound) = before;
    let mut chosen = ChosenPorts::default();
    for (name, port) in spec.ports.iter() {
        let choice = match port {
            Port::Any => PortChoice::Any,
            Port::Fixed(number) if spec.is_anyones(name) => {
                chosen.ports.insert(name.to_owned(), number);
                continue;
            }
            Port::Fixed(number) => PortChoice::Fixed(number),
            Port::Range(first, last) => PortChoice::Range { first, last },
            Port::Reported => continue,
            Port::Unix => {
                chosen.sockets.insert(name.to_owned(), chooser.socket(name)?);
                continue;
            }
            Port::Listen => {
                let kept = bound.remove(name).filter(|listener| ports::still_listens(listener));
                let listener = match kept {
                    Some(listener) => listener,
                    None => Arc::new(listen(spec.address, previous.get(name).copied())?),
                };
                let number = listener
                    .local_addr()
                    .map_err(|error| refusal::of_io("its listening socket", &error))?
                    .port();
                chosen.ports.insert(name.to_owned(), number);
                chosen.listeners.insert(name.to_owned(), listener);
                continue;
            }
            // `Port` is non_exhaustive; this crate and its core are of one version.
            _ => continue,
        };
        let reservation = port_choice::reserve(spec.address, choice, previous.get(name).copied(), worker)
            .map_err(|error| refusal::of_port(&error))?;
        chosen.ports.insert(name.to_owned(), reservation.address().port());
        chosen.reservations.push(reservation);
    }
    Ok(chosen)
}

/// A listener on the port that the worker had, if it can still be bound, or else on another one.
fn listen(address: IpAddr, previous: Option<u16>) -> Result<TcpListener, Failure> {
    let bind = |port| ports::bind_listener(SocketAddr::new(address, port));
    let again = previous.and_then(|port| bind(port).ok());
    let listener = again.map_or_else(|| bind(0), Ok);
    listener.map_err(|error| refusal::of_port(&error))
}

impl Chooser {
    /// The path of the socket with this name, free for the worker to bind. What a dead server left
    /// there is removed.
    fn socket(&self, name: &str) -> Result<PathBuf, Failure> {
        let failed = |error: &io::Error| refusal::of_io("the path of its Unix socket", error);
        let directory = match &self.directory {
            Some(Ok(directory)) => directory,
            Some(Err(error)) => return Err(failed(error)),
            None => return Err(failed(&io::Error::other("it has no directory"))),
        };
        let file = match name {
            "" => format!("{}.sock", self.slot),
            name => format!("{}.{name}.sock", self.slot),
        };
        let path = socket_path::place(directory, &file).map_err(|error| failed(&error))?;
        match worker_socket::clear(&path) {
            Ok(None) => Ok(path),
            Ok(Some(holder)) => {
                let message = format!("the Unix socket {} is in use: {holder}", path.display());
                Err(Failure::new(Reason::PortInUse, message).with_holder(holder.to_string()))
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The ports as the record has them. Sockets are not in it: they lie in the run's own directory;
/// nor are ports that may be anyone's.
pub(in crate::process) fn recorded(spec: &WorkerSpec, ports: &PortMap) -> Vec<RecordedPort> {
    let ports = ports.iter().filter(|(name, _)| !spec.is_anyones(name));
    let row = |(name, port): (&String, &u16)| RecordedPort {
        name: name.clone(),
        address: spec.address,
        port: *port,
    };
    ports.map(row).collect()
}
