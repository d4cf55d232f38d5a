//! The ports of the next incarnation.

use std::net::SocketAddr;
use std::sync::Arc;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{Port, Ports, WorkerSpec};
use ostler_os::port_choice::{self, PortChoice};
use ostler_os::ports;
use ostler_registry::RecordedPort;

use super::super::protocol::{ChosenPorts, Listeners};
use super::refusal;
use crate::status::PortMap;

/// Chooses them on a thread that may block, when there is anything to choose. `before` are those of
/// the incarnation before: they are tried first.
pub(super) async fn choose(
    spec: WorkerSpec,
    worker: String,
    before: (PortMap, Listeners),
) -> Result<ChosenPorts, Failure> {
    if spec.ports == Ports::None {
        return Ok(ChosenPorts::default());
    }
    let chosen = tokio::task::spawn_blocking(move || choose_now(&spec, &worker, before)).await;
    chosen.unwrap_or_else(|lost| {
        Err(Failure::new(
            Reason::PortInUse,
            format!("no port could be chosen: {lost}"),
        ))
    })
}

/// Ports that the worker reports come later. Blocks for as long as it takes to name a holder.
fn choose_now(spec: &WorkerSpec, worker: &str, before: (PortMap, Listeners)) -> Result<ChosenPorts, Failure> {
    let (previous, mut bound) = before;
    let mut chosen = ChosenPorts::default();
    for (name, port) in spec.ports.iter() {
        let choice = match port {
            Port::Any => PortChoice::Any,
            Port::Fixed(number) => PortChoice::Fixed(number),
            Port::Range(first, last) => PortChoice::Range { first, last },
            Port::Reported => continue,
            Port::Listen => {
                let listener = match bound.remove(name) {
                    Some(listener) => listener,
                    None => Arc::new(
                        ports::bind_listener(SocketAddr::new(spec.address, 0))
                            .map_err(|error| refusal::of_port(&error))?,
                    ),
                };
                let number = listener
                    .local_addr()
                    .map_err(|error| refusal::of_io("its listening socket", &error))?
                    .port();
                chosen.ports.insert(name.to_owned(), number);
                chosen.listeners.insert(name.to_owned(), listener);
                continue;
            }
        };
        let reservation = port_choice::reserve(spec.address, choice, previous.get(name).copied(), worker)
            .map_err(|error| refusal::of_port(&error))?;
        chosen.ports.insert(name.to_owned(), reservation.address().port());
        chosen.reservations.push(reservation);
    }
    Ok(chosen)
}

/// The ports as the record has them.
pub(in crate::process) fn recorded(spec: &WorkerSpec, ports: &PortMap) -> Vec<RecordedPort> {
    let row = |(name, port): (&String, &u16)| RecordedPort {
        name: name.clone(),
        address: spec.address,
        port: *port,
    };
    ports.iter().map(row).collect()
}
