//! From a transition of the lifecycle to the event that the world sees, and to what the slot shows of its worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_core::lifecycle::{State, Transition};
use ostler_core::signal::Signal;
use ostler_failpoint::{self as failpoint, Point};
use ostler_telemetry::{EventKind, Facts};

use super::driver::Driver;
use super::watch::reachable;
use crate::follow::{Endpoint, ReadyWorker, WorkerChange};
use crate::hub::About;
use crate::status::WorkerState;

/// Tells the world of a transition.
pub(super) fn announce(driver: &mut Driver, what: Transition, elapsed: Duration) {
    let what = match what {
        Transition::Failed(failure) => Transition::Failed(driver.with_stderr(failure)),
        other => other,
    };
    driver.slot.update_state(|state| show(driver, state, &what));
    let (kind, facts) = event(&what);
    match what {
        Transition::Ready => failpoint::reach(Point::Ready),
        Transition::Exited(_) => failpoint::reach(Point::ExitTold),
        _ => {}
    }
    let facts = Facts {
        elapsed: Some(elapsed),
        ..driver.resources.complete(facts)
    };
    let about = About::worker(&driver.slot.worker, Some(driver.incarnation));
    let pid = driver.resources.pid;
    let (span, link) = driver.spans.enter(&driver.slot, driver.incarnation, pid, &what);
    driver.slot.services.hub.emit_in(span, link, kind, about, facts);
    driver.spans.leave(&driver.slot, &what);
    tell_followers(driver, what);
}

fn tell_followers(driver: &Driver, what: Transition) {
    let change = match what {
        Transition::Reserved | Transition::Spawned => return,
        Transition::Ready => WorkerChange::Ready(ready_worker(driver)),
        Transition::Stopping { .. } | Transition::Unhealthy(_) => WorkerChange::Stopping,
        Transition::Exited(_) => WorkerChange::Exited,
        Transition::Failed(failure) => WorkerChange::Failed(Arc::new(failure)),
        Transition::Released => WorkerChange::Released,
    };
    let slot = &driver.slot;
    slot.followers.tell(&slot.worker, driver.incarnation, change);
}

fn ready_worker(driver: &Driver) -> ReadyWorker {
    let address = driver.slot.spec.worker.address;
    let ports = driver.resources.ports.iter();
    let endpoint = |(name, port): (&String, &u16)| {
        let address = reachable(SocketAddr::new(address, *port));
        (name.clone(), Endpoint::Tcp(address))
    };
    ReadyWorker {
        id: driver.slot.worker.clone(),
        incarnation: driver.incarnation,
        pid: driver.resources.pid,
        endpoints: ports.map(endpoint).collect(),
        stdio: driver.resources.stdio.clone(),
    }
}

/// Tells the world that the grace of a stop is over, and that the sitter has killed what was left.
pub(super) fn grace_over(driver: &mut Driver, signal: Signal) {
    let facts = Facts {
        signal: Some(signal.name()),
        cause: Some("grace_over".to_owned()),
        ..Facts::default()
    };
    let about = About::worker(&driver.slot.worker, Some(driver.incarnation));
    let stopping = EventKind::WorkerStopping;
    let facts = driver.resources.complete(facts);
    let (span, link) = driver.spans.stop();
    let hub = &driver.slot.services.hub;
    hub.emit_in(span, link, stopping, about, facts);
    driver.spans.killed();
}

fn event(what: &Transition) -> (EventKind, Facts) {
    match what {
        Transition::Reserved => (EventKind::WorkerReserved, Facts::default()),
        Transition::Spawned => (EventKind::WorkerSpawned, Facts::default()),
        Transition::Ready => (EventKind::WorkerReady, Facts::default()),
        Transition::Unhealthy(failure) => (EventKind::WorkerUnhealthy, Facts::of_failure(failure)),
        Transition::Stopping { cause, stop } => {
            let signal = Some(stop.signal.name());
            let cause = Some(cause.name().to_owned());
            (
                EventKind::WorkerStopping,
                Facts {
                    signal,
                    cause,
                    ..Facts::default()
                },
            )
        }
        Transition::Exited(status) => (
            EventKind::WorkerExited,
            Facts {
                exit: Some(*status),
                ..Facts::default()
            },
        ),
        Transition::Failed(failure) => (EventKind::WorkerFailed, Facts::of_failure(failure)),
        Transition::Released => (EventKind::WorkerReleased, Facts::default()),
    }
}

fn show(driver: &Driver, state: &mut WorkerState, what: &Transition) {
    state.state = Some(match what {
        Transition::Reserved => {
            state.incarnation = Some(driver.incarnation);
            state.restarts = driver.incarnation.0 - 1;
            state.ports = driver.resources.ports.clone();
            State::Reserved
        }
        Transition::Spawned => {
            state.pid = driver.resources.pid;
            state.since = Some(Instant::now());
            State::Spawned
        }
        Transition::Ready => {
            state.ports = driver.resources.ports.clone();
            State::Ready
        }
        Transition::Stopping { .. } | Transition::Unhealthy(_) => State::Stopping,
        Transition::Exited(_) => State::Exited,
        Transition::Failed(failure) => {
            state.last_failure = Some(failure.clone());
            return;
        }
        Transition::Released => {
            state.pid = None;
            State::Released
        }
    });
}
