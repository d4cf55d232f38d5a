//! What to watch of an incarnation: turns its specification into the plans of `watch`.

use std::net::SocketAddr;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{Port, Probe, Ready, WorkerSpec};

use super::incarnation::Incarnation;
use super::resources::Resources;
use super::watch::{HealthPlan, HealthProbe, Notify, ProbePlan, ReadyPlan, Sign};
use crate::follow::Endpoint;

/// How the worker's readiness is detected.
///
/// # Errors
/// When the socket, file or port that shows readiness is missing.
pub(super) fn ready(incarnation: &Incarnation, resources: &Resources) -> Result<ReadyPlan, Failure> {
    let sign = sign(incarnation, resources).ok_or_else(|| {
        let message = "its readiness can't be watched: the socket, file or port that shows it is missing";
        Failure::new(Reason::ReadyTimeout, message)
    })?;
    Ok(ReadyPlan {
        sign,
        last_answer: resources.last_answer.clone(),
    })
}

fn sign(incarnation: &Incarnation, resources: &Resources) -> Option<Sign> {
    let spec = incarnation.spec();
    let reported = reported(spec);
    Some(match spec.ready.as_ref() {
        None | Some(Ready::After(_)) => Sign::After(spec.ready_after()?),
        Some(Ready::Notify) => Sign::Notify {
            heard: resources.notify.as_ref()?.heard(),
            reported,
        },
        Some(Ready::Probe(probe)) => Sign::Probe(probe_plan(probe, incarnation, resources)?),
        Some(Ready::Line(_)) => Sign::Line(resources.lines.clone()?),
        Some(Ready::File) => Sign::File {
            path: resources.ready_file.clone()?,
            reported,
        },
    })
}

/// What to watch while the worker is ready, or `None`.
pub(super) fn health(incarnation: &Incarnation, resources: &Resources) -> Option<HealthPlan> {
    let spec = incarnation.spec();
    let probe = spec.health.as_ref().and_then(|rules| {
        Some(HealthProbe {
            plan: probe_plan(&rules.probe, incarnation, resources)?,
            rules: rules.clone(),
        })
    });
    let heartbeat = spec
        .watchdog
        .and_then(|longest| Some((resources.notify.as_ref().map(Notify::heard)?, longest)));
    (probe.is_some() || heartbeat.is_some()).then_some(HealthPlan { probe, heartbeat })
}

fn probe_plan(probe: &Probe, incarnation: &Incarnation, resources: &Resources) -> Option<ProbePlan> {
    let spec = incarnation.spec();
    let name = spec.probe_target(probe)?;
    let tcp = |port: &u16| Endpoint::Tcp(SocketAddr::new(spec.address, *port));
    let unix = || resources.sockets.get(name).cloned().map(Endpoint::Unix);
    Some(ProbePlan {
        kind: probe.kind.clone(),
        #[cfg(feature = "probe-http")]
        headers: probe.headers.clone(),
        endpoint: resources.ports.get(name).map(tcp).or_else(unix)?,
        sitter: resources.sitter_pid?,
        owner: probe.owner,
        uninspected: resources.uninspected(incarnation),
    })
}

/// The names of the ports that the worker chooses itself.
fn reported(spec: &WorkerSpec) -> Vec<String> {
    spec.ports
        .iter()
        .filter(|(_, port)| *port == Port::Reported)
        .map(|(name, _)| name.to_owned())
        .collect()
}
