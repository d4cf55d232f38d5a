//! Turns what reaches a driver into inputs for its lifecycle.

use ostler_core::failure::ExitStatus;
use ostler_core::lifecycle::{Input, Rest, State};
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::guardian::{GuardianEvent, SignalCause};

use super::super::announce;
use super::super::place::Place;
use super::super::protocol::{Done, Prepared, exit_status};
use super::super::start;
use super::Driver;
use crate::guard::News;

impl Driver<'_> {
    /// The input for the result of work; `None` if there is none.
    pub(super) fn done(&mut self, done: Done) -> Option<Input> {
        match done {
            Done::Input(input) => Some(input),
            Done::Prepare => {
                self.prepare();
                None
            }
            Done::Reserved(prepared) => Some(self.reserved(prepared)),
            Done::Ready(reported) => {
                if !reported.is_empty() {
                    let recorded = start::learn_ports(&self.incarnation, &mut self.resources, self.host, reported);
                    self.pending.push(recorded);
                }
                Some(Input::Ready)
            }
            Done::EndedWithoutSitter(rest) => {
                if !matches!(rest, Rest::Left(_)) {
                    self.drop_cgroup();
                }
                self.once_no_probe_is_left(Input::EndedWithoutSitter(rest))
            }
            Done::Nothing => None,
        }
    }

    /// Adds to the exit status what the cgroup knows. Read at once, because the cgroup is removed
    /// when the tree is gone.
    fn explained(&mut self, status: ExitStatus) -> ExitStatus {
        match self.lifecycle.state() {
            State::Reserved | State::Spawned | State::Ready => self.resources.explain_exit(status),
            // Ostler is ending it.
            State::Stopping | State::Exited | State::Releasing | State::Released => status,
        }
    }

    /// Before the lifecycle judges what has failed: whether the worker still has the paths that it
    /// depends on.
    pub(super) fn look_before_verdict(&mut self, input: &Input) {
        let lives = matches!(self.lifecycle.state(), State::Reserved | State::Spawned | State::Ready);
        let is_verdict = matches!(
            input,
            Input::Deadline | Input::StartFailed(_) | Input::Unhealthy(_) | Input::Exited(_)
        );
        if lives && is_verdict {
            self.resources.look_at_places();
        }
    }

    fn reserved(&mut self, prepared: Prepared) -> Input {
        match prepared.ports {
            Ok(chosen) => {
                self.slot.remember_ports(&chosen.ports, &chosen.listeners);
                self.resources.ports = chosen.ports;
                let places = chosen.sockets.values().map(|path| Place::socket(path));
                self.resources.places.extend(places);
                self.resources.sockets = chosen.sockets;
                self.resources.reservations = chosen.reservations;
                self.resources.listeners = chosen.listeners;
            }
            Err(failure) => self.resources.port_failure = Some(Box::new(failure)),
        }
        match prepared.recorded {
            Ok(()) => Input::Recorded,
            Err(failure) => Input::RecordFailed(failure),
        }
    }

    /// A tree is gone with the process of its `exec` probe, which is ended now if it is under way.
    fn once_no_probe_is_left(&mut self, input: Input) -> Option<Input> {
        let Some(place) = self.slot.probe.as_ref().filter(|place| !place.is_idle()) else {
            return Some(input);
        };
        let idle = place.idle();
        self.watching = None;
        self.pending.push(Box::pin(async move {
            idle.await;
            Done::Input(input)
        }));
        None
    }

    /// The input for news from the guardian; `None` if there is none, or if it follows later.
    pub(super) fn heard(&mut self, news: News) -> Option<Input> {
        match news {
            News::GuardianLost => Some(Input::GuardianLost),
            News::SittersEnded => Some(Input::SittersEnded),
            News::Event(event) => self.heard_of(*event),
        }
    }

    fn heard_of(&mut self, event: GuardianEvent) -> Option<Input> {
        match event {
            GuardianEvent::Spawned {
                worker,
                sitter,
                in_cgroup,
                ..
            } => {
                let (span, process) = (self.spans.activating(worker.pid), (&worker, &sitter, in_cgroup));
                let activated = start::spawned(&self.incarnation, &mut self.resources, self.host, process, span);
                self.pending.push(activated);
                self.slot.note_process(self.resources.identity, self.resources.sitter);
                self.listen();
                Some(Input::Spawned)
            }
            GuardianEvent::SpawnFailed { step, errno, .. } => {
                let failure = start::of_spawn(self.incarnation.spec(), step, errno);
                Some(Input::SpawnFailed(failure))
            }
            GuardianEvent::Exited { status, .. } => {
                let status = exit_status(status).map(|status| self.explained(status));
                let drained = self.resources.drain_output();
                let by_itself = matches!(self.lifecycle.state(), State::Spawned | State::Ready);
                let succeeded = status.is_some_and(ExitStatus::success);
                let counted = (by_itself && succeeded).then(|| self.resources.tree_counted());
                self.pending.push(Box::pin(async move {
                    drained.await;
                    if let Some(counted) = counted {
                        counted.await;
                    }
                    status.map_or(Done::Nothing, |status| Done::Input(Input::Exited(status)))
                }));
                None
            }
            GuardianEvent::TreeGone { how, killed, .. } => {
                failpoint::reach(Point::TreeGoneReported);
                self.resources.left_behind.set(Some(killed));
                if how.cgroup {
                    self.drop_cgroup();
                }
                self.once_no_probe_is_left(Input::TreeGone)
            }
            // Arrives before the exit that it causes, so that the exit is not blamed on the worker.
            GuardianEvent::Signalled {
                cause: SignalCause::GuardianDeath,
                ..
            } => Some(Input::GuardianLost),
            GuardianEvent::SitterLost { .. } => {
                // The guardian has killed the cgroup.
                self.drop_cgroup();
                self.once_no_probe_is_left(Input::SitterLost)
            }
            GuardianEvent::Signalled {
                signal,
                cause: SignalCause::GraceOver,
                ..
            } => {
                self.emit_stop(announce::grace_over(signal));
                None
            }
            other => {
                let (worker, incarnation) = (&self.incarnation.worker, self.incarnation.number.0);
                tracing::debug!(target: "ostler", %worker, incarnation, ?other);
                None
            }
        }
    }
}
