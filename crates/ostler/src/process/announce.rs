//! Translates a transition of the lifecycle into the public event, the slot's public state, and the
//! notices to owner and followers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ostler_core::failure::{Failure, Reason};
use ostler_core::lifecycle::{Cause, State, Transition};
use ostler_core::signal::Signal;
use ostler_telemetry::{EventKind, Facts};

use super::incarnation::Incarnation;
use super::protocol::Notice;
use super::resources::Resources;
use super::watch::reachable;
use crate::follow::{Endpoint, ReadyWorker, WorkerChange};
use crate::status::WorkerState;

/// The event of a transition.
pub(super) fn event(what: &Transition) -> (EventKind, Facts) {
    match what {
        Transition::Reserved => (EventKind::WorkerReserved, Facts::default()),
        Transition::Spawned => (EventKind::WorkerSpawned, Facts::default()),
        Transition::Ready => (EventKind::WorkerReady, Facts::default()),
        Transition::Unhealthy(failure) => (EventKind::WorkerUnhealthy, Facts::of_failure(failure)),
        Transition::Stopping { cause, stop } => {
            let facts = Facts::default().with_signal(stop.signal).with_cause(*cause);
            (EventKind::WorkerStopping, facts)
        }
        Transition::Exited(status) => (EventKind::WorkerExited, Facts::default().with_exit(*status)),
        Transition::Failed(failure) => (EventKind::WorkerFailed, Facts::of_failure(failure)),
        Transition::Released => (EventKind::WorkerReleased, Facts::default()),
        Transition::Unseen(why) => {
            let facts = Facts::of_failure(&unseen(why)).with_cause(Cause::Unseen);
            (EventKind::WorkerFailed, facts)
        }
    }
}

fn unseen(why: &str) -> Failure {
    let message = format!("it could not be confirmed that all its processes are gone: {why}");
    Failure::new(Reason::GuardianLost, message).with_suggestion(
        "look for processes that it started as daemons; where Ostler may write its cgroup v2, none can escape",
    )
}

/// The event of a stop whose grace is over: the sitter has killed the rest.
pub(super) fn grace_over(signal: Signal) -> (EventKind, Facts) {
    let facts = Facts::default().with_signal(signal).with_cause(Cause::GraceOver);
    (EventKind::WorkerStopping, facts)
}

/// Updates the worker's public state.
pub(super) fn show(state: &mut WorkerState, incarnation: &Incarnation, resources: &Resources, what: &Transition) {
    state.state = Some(match what {
        Transition::Reserved => {
            state.incarnation = Some(incarnation.number);
            state.restarts = incarnation.number.0 - 1;
            state.ports.clone_from(&resources.ports);
            state.sockets.clone_from(&resources.sockets);
            State::Reserved
        }
        Transition::Spawned => {
            state.pid = resources.pid;
            state.since = Some(Instant::now());
            State::Spawned
        }
        Transition::Ready => {
            state.ports.clone_from(&resources.ports);
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
        Transition::Unseen(why) => {
            state.pid = None;
            state.last_failure = Some(unseen(why));
            State::Released
        }
    });
}

/// The change that followers receive for a transition.
pub(super) fn for_followers(
    what: Transition,
    incarnation: &Incarnation,
    resources: &Resources,
) -> Option<WorkerChange> {
    Some(match what {
        Transition::Reserved | Transition::Spawned => return None,
        Transition::Ready => WorkerChange::Ready(ready_worker(incarnation, resources)),
        Transition::Stopping { .. } | Transition::Unhealthy(_) => WorkerChange::Stopping,
        Transition::Exited(_) => WorkerChange::Exited,
        Transition::Failed(failure) => WorkerChange::Failed(Arc::new(failure)),
        Transition::Released | Transition::Unseen(_) => WorkerChange::Released,
    })
}

fn ready_worker(incarnation: &Incarnation, resources: &Resources) -> ReadyWorker {
    let address = incarnation.spec().address;
    let endpoint = |(name, port): (&String, &u16)| {
        let address = reachable(SocketAddr::new(address, *port));
        (name.clone(), Endpoint::Tcp(address))
    };
    let socket = |(name, path): (&String, &PathBuf)| (name.clone(), Endpoint::Unix(path.clone()));
    let (tcp, unix) = (
        resources.ports.iter().map(endpoint),
        resources.sockets.iter().map(socket),
    );
    ReadyWorker {
        id: incarnation.worker.clone(),
        incarnation: incarnation.number,
        pid: resources.pid,
        endpoints: tcp.chain(unix).collect(),
        stdio: resources.stdio.clone(),
    }
}

/// The notice that the owner receives for a transition.
pub(super) fn for_owner(what: &Transition) -> Option<Notice> {
    match what {
        Transition::Ready => Some(Notice::Ready),
        Transition::Stopping { .. } | Transition::Exited(_) | Transition::Unhealthy(_) => Some(Notice::NotReady),
        Transition::Reserved | Transition::Spawned | Transition::Failed(_) => None,
        Transition::Released | Transition::Unseen(_) => None,
    }
}
