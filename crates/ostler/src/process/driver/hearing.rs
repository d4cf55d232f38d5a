//! What reaches a driver from outside, as inputs for its lifecycle.

use std::os::unix::process::ExitStatusExt;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::{Input, State};
use ostler_core::signal::Signal;
use ostler_failpoint::{self as failpoint, Point};
use ostler_os::guardian::{GuardianEvent, SignalCause};

use super::super::protocol::{Done, Message};
use super::super::{announce, start};
use super::Driver;

impl Driver {
    /// What a message is to the lifecycle; `None`: nothing, or it is under way still.
    pub(super) fn heard(&mut self, message: Message) -> Option<Input> {
        match message {
            Message::Stop { cause, kill } => Some(Input::Stop { cause, kill }),
            Message::GuardianLost => {
                self.unguarded = true;
                if self.kill_ordered && !self.tree_gone {
                    self.kill_past_sitter();
                }
                Some(Input::GuardianLost)
            }
            Message::SittersEnded if self.tree_gone => None,
            Message::SittersEnded => {
                self.sitterless = true;
                self.end_without_sitter();
                None
            }
            Message::Guardian(event) => self.heard_from_guardian(*event),
        }
    }

    fn heard_from_guardian(&mut self, event: GuardianEvent) -> Option<Input> {
        match event {
            GuardianEvent::Spawned {
                worker,
                sitter,
                in_cgroup,
                ..
            } => {
                let activate = self.spawned(&worker, sitter, in_cgroup);
                self.pending.push(activate);
                Some(Input::Spawned)
            }
            GuardianEvent::SpawnFailed { step, errno, .. } => {
                self.tree_gone = true;
                let failure = start::of_spawn(&self.slot.spec.worker, step, errno);
                Some(Input::SpawnFailed(failure))
            }
            GuardianEvent::Exited { status, .. } => {
                let drained = self.resources.drain_output();
                self.pending.push(Box::pin(async move {
                    drained.await;
                    exit_status(status).map_or(Done::Nothing, |status| Done::Input(Input::Exited(status)))
                }));
                None
            }
            GuardianEvent::TreeGone { how, .. } => {
                failpoint::reach(Point::TreeGoneTold);
                self.tree_gone = true;
                if how.cgroup {
                    self.drop_cgroup();
                }
                Some(Input::TreeGone)
            }
            // Told before the exit that it brings, so that the exit is known to be nobody's fault.
            GuardianEvent::Signalled {
                cause: SignalCause::GuardianDeath,
                ..
            } => Some(Input::GuardianLost),
            GuardianEvent::SitterLost { .. } => Some(self.tree_ended_by_kill()),
            GuardianEvent::Signalled {
                signal,
                cause: SignalCause::GraceOver,
                ..
            } => {
                announce::grace_over(self, signal);
                None
            }
            other => {
                tracing::debug!(target: "ostler", worker = %self.slot.worker, incarnation = self.incarnation.0, ?other);
                None
            }
        }
    }

    /// Its sitter was killed: the kernel killed the worker with it, and all the rest was killed by others. Nobody could
    /// wait for an exit status.
    pub(super) fn tree_ended_by_kill(&mut self) -> Input {
        self.tree_gone = true;
        // Its kill was used, by the guardian or by us.
        self.drop_cgroup();
        if self.lifecycle.state() == State::Reserved {
            return Input::SpawnFailed(Failure::new(
                Reason::GuardianLost,
                "its sitter was killed while it was spawned",
            ));
        }
        self.backlog.push_back(Input::TreeGone);
        Input::Exited(ExitStatus::Signal(Signal::KILL))
    }
}

/// The end of a process as the pure core has it; `None` for a status that is no end.
fn exit_status(status: std::process::ExitStatus) -> Option<ExitStatus> {
    let by_signal = || status.signal().and_then(Signal::from_number).map(ExitStatus::Signal);
    status.code().map(ExitStatus::Code).or_else(by_signal)
}
