//! What to watch of an incarnation: turns its specification into the plans of `watch`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{Port, Probe, ProbeKind, Ready, WorkerSpec};

use super::host::Setup;
use super::incarnation::Incarnation;
use super::resources::Resources;
use super::slot::Slot;
use super::start::Beside;
use super::watch::{ExecPlan, HealthPlan, HealthProbe, Notify, PortPlan, Question, ReadyPlan, Request, Sign};
use crate::follow::Endpoint;

/// An incarnation that is watched.
pub(super) struct Watched<'a> {
    pub(super) setup: &'a Arc<Setup>,
    pub(super) slot: &'a Slot,
    pub(super) incarnation: &'a Incarnation,
    pub(super) resources: &'a Resources,
}

/// How the worker's readiness is detected.
///
/// # Errors
/// When the socket, file or port that shows readiness is missing.
pub(super) fn ready(watched: &Watched<'_>) -> Result<ReadyPlan, Failure> {
    let sign = watched.sign().ok_or_else(|| {
        let message = "its readiness can't be watched: the socket, file or port that shows it is missing";
        Failure::new(Reason::ReadyTimeout, message)
    })?;
    Ok(ReadyPlan {
        sign,
        last_answer: watched.resources.last_answer.clone(),
    })
}

/// What to watch while the worker is ready, or `None`.
pub(super) fn health(watched: &Watched<'_>) -> Option<HealthPlan> {
    let spec = watched.incarnation.spec();
    let probe = spec.health.as_ref().and_then(|rules| {
        Some(HealthProbe {
            question: watched.question(&rules.probe)?,
            rules: rules.clone(),
        })
    });
    let notify = watched.resources.notify.as_ref();
    let heartbeat = spec
        .watchdog
        .and_then(|longest| Some((notify.map(Notify::heard)?, longest)));
    (probe.is_some() || heartbeat.is_some()).then_some(HealthPlan { probe, heartbeat })
}

impl Watched<'_> {
    fn sign(&self) -> Option<Sign> {
        let (spec, resources) = (self.incarnation.spec(), self.resources);
        let reported = reported(spec);
        Some(match spec.ready.as_ref() {
            None | Some(Ready::After(_)) => Sign::After(spec.ready_after()?),
            Some(Ready::Notify) => Sign::Notify {
                heard: resources.notify.as_ref()?.heard(),
                reported,
            },
            Some(Ready::Probe(probe)) => Sign::Probe(self.question(probe)?),
            Some(Ready::Line(_)) => Sign::Line(resources.lines.clone()?),
            Some(Ready::File) => Sign::File {
                path: resources.ready_file.clone()?,
                reported,
            },
            // `Ready` is non_exhaustive; this crate and its core are of one version.
            Some(_) => return None,
        })
    }

    fn question(&self, probe: &Probe) -> Option<Question> {
        let request = match &probe.kind {
            ProbeKind::Exec(command) => return Some(Question::Exec(Box::new(self.exec(command)?))),
            ProbeKind::Http(path) => Request::Http {
                path: path.clone(),
                headers: probe.headers.clone(),
            },
            ProbeKind::Tcp => Request::Tcp,
            ProbeKind::Grpc(service) => Request::Grpc(service.clone()),
            _ => return None,
        };
        let (spec, resources) = (self.incarnation.spec(), self.resources);
        let name = spec.probe_target(probe)?;
        let tcp = |port: &u16| Endpoint::Tcp(SocketAddr::new(spec.address, *port));
        let unix = || resources.sockets.get(name).cloned().map(Endpoint::Unix);
        Some(Question::Port(PortPlan {
            request,
            endpoint: resources.ports.get(name).map(tcp).or_else(unix)?,
            sitter: resources.sitter_pid?,
            owner: probe.owner,
            uninspected: resources.uninspected(self.incarnation),
        }))
    }

    fn exec(&self, command: &[String]) -> Option<ExecPlan> {
        let command = Beside::new(self.incarnation, self.resources, command);
        Some(ExecPlan {
            setup: Arc::clone(self.setup),
            place: self.slot.probe.clone()?,
            incarnation: self.incarnation.clone(),
            spec: Arc::clone(&command.spec),
            prepare: Box::new(move || command.request()),
            warned: AtomicBool::new(false),
        })
    }
}

/// The names of the ports that the worker chooses itself.
fn reported(spec: &WorkerSpec) -> Vec<String> {
    spec.ports
        .iter()
        .filter(|(_, port)| *port == Port::Reported)
        .map(|(name, _)| name.to_owned())
        .collect()
}
