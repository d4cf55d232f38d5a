//! What is watched of an incarnation: from its specification to the plans of `ready`.

use std::net::SocketAddr;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{Port, Probe, Ready, WorkerSpec};
use ostler_os::identity::ProcessIdentity;

use super::super::driver::Driver;
use super::{HealthPlan, HealthProbe, Notifications, ProbePlan, ReadyPlan, Sign};

impl Driver {
    /// How it is seen that the worker is ready; `None`: it is, since exec has succeeded.
    ///
    /// # Errors
    /// When readiness can't be watched: what it would be seen by is not there.
    pub(in crate::process) fn ready_plan(&self) -> Result<Option<ReadyPlan>, Failure> {
        let Some(ready) = &self.slot.spec.worker.ready else {
            return Ok(None);
        };
        let unwatchable = || {
            Failure::new(
                Reason::ReadyTimeout,
                "its readiness can't be watched: what it is seen by is missing",
            )
        };
        let sign = self.sign(ready).ok_or_else(unwatchable)?;
        Ok(Some(ReadyPlan {
            sign,
            last_answer: self.resources.last_answer.clone(),
        }))
    }

    fn sign(&self, ready: &Ready) -> Option<Sign> {
        let reported = reported(&self.slot.spec.worker);
        Some(match ready {
            Ready::Notify => Sign::Notify {
                messages: self.notifications()?,
                reported,
            },
            Ready::Probe(probe) => Sign::Probe(self.probe_plan(probe)?),
            Ready::Line(_) => Sign::Line(self.resources.lines.clone()?),
            Ready::File => Sign::File {
                path: self.resources.ready_file.clone()?,
                reported,
            },
            Ready::After(time) => Sign::After(*time),
        })
    }

    /// What is watched while the worker is ready; `None`: nothing.
    pub(in crate::process) fn health_plan(&self) -> Option<HealthPlan> {
        let spec = &self.slot.spec.worker;
        let probe = spec.health.as_ref().and_then(|rules| {
            Some(HealthProbe {
                plan: self.probe_plan(&rules.probe)?,
                rules: rules.clone(),
            })
        });
        let messages = self.notifications();
        (probe.is_some() || messages.is_some()).then_some(HealthPlan {
            probe,
            messages,
            watchdog: spec.watchdog,
        })
    }

    fn notifications(&self) -> Option<Notifications> {
        Some(Notifications {
            socket: self.resources.notify.clone()?,
            sitter: self.sitter()?,
        })
    }

    fn probe_plan(&self, probe: &Probe) -> Option<ProbePlan> {
        let spec = &self.slot.spec.worker;
        let name = spec.probe_target(probe)?;
        let port = *self.resources.ports.get(name)?;
        Some(ProbePlan {
            kind: probe.kind.clone(),
            address: SocketAddr::new(spec.address, port),
            sitter: self.sitter()?,
        })
    }

    /// The sitter as it was identified at the spawn. A stranger that has its pid since is younger than the worker.
    pub(crate) fn own_sitter(&self) -> Option<ProcessIdentity> {
        let (pid, worker) = (self.sitter()?, self.resources.identity?);
        let is_ours = |sitter: &ProcessIdentity| sitter.pid == pid && sitter.start_time <= worker.start_time;
        self.slot.sitter().filter(is_ours)
    }

    fn sitter(&self) -> Option<i32> {
        i32::try_from(self.resources.sitter?).ok()
    }
}

/// The names of the ports that the worker picks itself.
fn reported(spec: &WorkerSpec) -> Vec<String> {
    spec.ports
        .iter()
        .filter(|(_, port)| *port == Port::Reported)
        .map(|(name, _)| name.to_owned())
        .collect()
}
