//! The release of an incarnation: its tree, its ports, its record. What is still held is reported
//! with its holder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ostler_core::chain::chain;
use ostler_core::lifecycle::{Input, Rest};
use ostler_core::spec::Port;
use ostler_failpoint::{self as failpoint, Point};

use super::host::{Host, Machine};
use super::incarnation::Incarnation;
use super::protocol::{Done, Work};
use super::remnants::Remnants;
use super::resources::Resources;
use super::slot::Slot;

/// Checks that every port can be bound again and every socket is gone. Exempt are ports that the
/// host itself listens on, and those that another daemon may have for good.
pub(super) fn check_ports(incarnation: &Incarnation, resources: &Resources, host: &Host) -> Work {
    let spec = incarnation.spec();
    let ours = |name: &str| spec.ports.iter().any(|(of, port)| of == name && port == Port::Listen);
    let exempt = |name: &str| ours(name) || spec.is_anyones(name);
    let taken = resources.ports.iter().filter(|(name, _)| !exempt(name));
    let addresses: Vec<SocketAddr> = taken.map(|(_, port)| SocketAddr::new(spec.address, *port)).collect();
    let sockets: Vec<PathBuf> = resources.sockets.values().cloned().collect();
    on_machine(host, Done::Nothing, move |machine| {
        let held = machine.held(&addresses, &sockets);
        failpoint::reach(Point::PortsChecked);
        Done::Input(held.map_or(Input::PortsFree, Input::PortsHeld))
    })
}

/// Removes the incarnation's record: the last step of a release.
pub(super) fn unrecord(incarnation: &Incarnation, host: &Host) -> Work {
    let (table, key) = (Arc::clone(&host.table), incarnation.key());
    Box::pin(async move {
        let removed = table.remove(key).await;
        failpoint::reach(Point::Unrecorded);
        Done::Input(match removed {
            Ok(_) => Input::Unrecorded,
            Err(error) => Input::UnrecordFailed(chain(&error)),
        })
    })
}

/// Looks up the names of the processes that are left of the tree, and of its probe.
pub(super) fn name_holders(resources: &Resources, slot: &Slot, host: &Host) -> Work {
    let root = resources
        .sitter_pid
        .or_else(|| resources.pid.and_then(|pid| i32::try_from(pid).ok()));
    let probe = slot.probe.as_ref().and_then(|place| place.sitter());
    on_machine(host, Done::Nothing, move |machine| {
        let roots = root.into_iter().chain(probe);
        let names: Vec<String> = roots.flat_map(|root| machine.name_tree(root)).collect();
        Done::Input(Input::Held(if names.is_empty() {
            "no process that /proc shows".to_owned()
        } else {
            names.join(", ")
        }))
    })
}

/// Kills an incarnation whose sitter takes no orders because its guardian is lost. The sitter
/// reports the end.
pub(super) fn kill_past_sitter(incarnation: &Incarnation, resources: &Resources, host: &Host) -> Work {
    let remnants = remnants(incarnation, resources);
    on_machine(host, Done::Input(Input::KilledPastSitter), move |machine| {
        machine.kill_past_sitter(&remnants);
        Done::Input(Input::KilledPastSitter)
    })
}

/// Ends what is left of an incarnation whose sitter and guardian are both gone. If that is lost,
/// the lifecycle asks again.
pub(super) fn end_without_sitter(incarnation: &Incarnation, resources: &Resources, host: &Host) -> Work {
    let ended = host.machine.end_without_sitter(remnants(incarnation, resources));
    Box::pin(async {
        let lost = || Rest::Left("unknown: the work that ends it was lost".to_owned());
        Done::EndedWithoutSitter(ended.await.unwrap_or_else(lost))
    })
}

fn remnants(incarnation: &Incarnation, resources: &Resources) -> Remnants {
    Remnants {
        worker: incarnation.worker.clone(),
        marker: incarnation.worker.marker_value(incarnation.number),
        identity: resources.identity,
        sitter: resources.sitter,
        cgroup: resources.cgroup.clone(),
    }
}

/// Blocking work. If it is lost (it panicked, or the runtime is shutting down), its result is
/// `lost`, so that the lifecycle can ask again.
fn on_machine(host: &Host, lost: Done, work: impl FnOnce(&dyn Machine) -> Done + Send + 'static) -> Work {
    let machine = Arc::clone(&host.machine);
    Box::pin(async move {
        tokio::task::spawn_blocking(move || work(&*machine))
            .await
            .unwrap_or(lost)
    })
}
