//! Release, as the driver carries it out: the tree, the ports, the record. Who holds what is still held is named.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::lifecycle::Input;
use ostler_core::spec::Port;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::cgroup::Group;
use ostler_os::holders::describe_processes;
use ostler_os::identity::{Attribution, ProcessIdentity};
use ostler_os::ports::{self, PortState};
use ostler_os::tree;

use super::driver::Driver;
use super::protocol::{Done, Work};
use crate::remains::{self, KILL_LIMIT, Remains};

/// How long the holders have to be named: 1 s.
const NAMING_LIMIT: Duration = Duration::from_secs(1);

/// Can every port be bound again? Ports that the host itself listens on are exempt.
pub(crate) fn check_ports(driver: &Driver) -> Work {
    let spec = &driver.slot.spec.worker;
    let exempt = |name: &str| spec.ports.iter().any(|(of, port)| of == name && port == Port::Listen);
    let taken = driver.resources.ports.iter().filter(|(name, _)| !exempt(name));
    let addresses: Vec<SocketAddr> = taken.map(|(_, port)| SocketAddr::new(spec.address, *port)).collect();
    blocking(move || {
        let held = addresses.into_iter().find_map(held);
        failpoint::reach(Point::PortsChecked);
        held.map_or(Input::PortsFree, Input::PortsHeld)
    })
}

fn held(address: SocketAddr) -> Option<String> {
    match ports::check(address) {
        Ok(PortState::Free) => None,
        Ok(PortState::Held(holders)) => {
            let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
            Some(format!("{address} is held by {}", names.join(", ")))
        }
        Err(error) => Some(format!("{address} can't be checked: {error}")),
    }
}

/// Removes the incarnation's record: the last step of a release.
pub(crate) fn unrecord(driver: &Driver) -> Work {
    let (table, key) = (driver.slot.services.table.clone(), driver.key());
    Box::pin(async move {
        let removed = table.remove(key).await;
        failpoint::reach(Point::Unrecorded);
        Done::Input(match removed {
            Ok(_) => Input::Unrecorded,
            Err(error) => Input::UnrecordFailed(error.to_string()),
        })
    })
}

/// Who of the tree is left. The root is a bare pid: nobody is touched by this, and its sitter lived a moment ago.
pub(crate) fn name_holders(driver: &Driver) -> Work {
    let root = driver.resources.sitter.or(driver.resources.pid);
    let sitter = driver.resources.sitter.and_then(|pid| i32::try_from(pid).ok());
    blocking(move || {
        let root = root.and_then(|pid| i32::try_from(pid).ok());
        let left = root
            .map(|root| tree::descendants(root).unwrap_or_default())
            .unwrap_or_default();
        let left: Vec<i32> = left.into_iter().filter(|pid| Some(*pid) != sitter).collect();
        let names: Vec<String> = describe_processes(&left, Instant::now() + NAMING_LIMIT)
            .iter()
            .map(ToString::to_string)
            .collect();
        Input::Held(if names.is_empty() {
            "nobody that /proc shows".to_owned()
        } else {
            names.join(", ")
        })
    })
}

/// Ends what an incarnation has left when neither its sitter nor the guardian lives to do it: by its identity and by
/// its marker, and the cgroup that it was born into.
pub(crate) fn end_without_sitter(driver: &Driver) -> Work {
    let left = Left::of(driver);
    Box::pin(async move {
        let ended = tokio::task::spawn_blocking(move || left.end()).await;
        if ended.unwrap_or(false) {
            Done::TreeEnded
        } else {
            Done::TreeLeft
        }
    })
}

/// Kills an incarnation whose sitter takes no orders, because its guardian is lost, and gives it a grace. The sitter tells of
/// the end; whoever escapes us has its grace.
pub(crate) fn kill_past_sitter(driver: &Driver) -> Work {
    let left = Left::of(driver);
    Box::pin(async move {
        drop(tokio::task::spawn_blocking(move || left.kill_past_sitter()).await);
        Done::KilledPastSitter
    })
}

/// By what the rest of an incarnation is found. All of it is the incarnation's own: this work may come late, when the
/// worker's next incarnation runs already.
struct Left {
    worker: WorkerId,
    incarnation: Incarnation,
    run: RunId,
    identity: Option<ProcessIdentity>,
    sitter: Option<ProcessIdentity>,
    cgroup: Option<Arc<Group>>,
}

impl Left {
    fn of(driver: &Driver) -> Self {
        Self {
            worker: driver.slot.worker.clone(),
            incarnation: driver.incarnation,
            run: driver.slot.services.run,
            identity: driver.resources.identity,
            sitter: driver.own_sitter(),
            cgroup: driver.resources.cgroup.clone(),
        }
    }

    /// Kills it. Returns whether nothing is left.
    fn end(&self) -> bool {
        self.kill_cgroup();
        let value = self.worker.marker_value(self.incarnation);
        let marked = Remains::marked_as(self.run, remains::own_host().as_ref(), |of| of == value);
        let deadline = Instant::now() + KILL_LIMIT;
        let clean = self.kill(marked, "its sitter is gone", deadline);
        let emptied = |group: &Group| group.is_empty_by(deadline).unwrap_or(false);
        clean && self.cgroup.as_deref().is_none_or(emptied)
    }

    /// Kills it under its living sitter, which is not touched. The sitter adopts orphans, so all are below it, and no marker has
    /// to be looked for.
    fn kill_past_sitter(&self) {
        self.kill_cgroup();
        let below = self.sitter.as_ref().map(Remains::below).unwrap_or_default();
        self.kill(below, "its sitter takes no orders", Instant::now() + KILL_LIMIT);
    }

    fn kill_cgroup(&self) {
        if let Some(Err(error)) = self.cgroup.as_deref().map(Group::kill) {
            tracing::warn!(target: "ostler", worker = %self.worker, %error, "its cgroup can't be killed");
        }
    }

    /// Kills these trees and the worker's own, for this reason. Returns whether nothing is left.
    fn kill(&self, remains: Remains, why: &str, deadline: Instant) -> bool {
        let by = Attribution::new("ostler", format!("{}: {why}", self.worker));
        let killed = remains.and(self.identity).kill(&by, deadline);
        for left in killed.left() {
            tracing::warn!(target: "ostler", worker = %self.worker, left, "{why}, and something is left");
        }
        killed.is_clean()
    }
}

fn blocking(work: impl FnOnce() -> Input + Send + 'static) -> Work {
    Box::pin(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(input) => Done::Input(input),
            // The runtime is shutting down, or the work panicked: the lifecycle asks again in its time.
            Err(_) => Done::Nothing,
        }
    })
}
