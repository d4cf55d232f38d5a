//! Steps that the phases of the machine share: from birth to release.

use super::machine::{Ending, Guard, Lifecycle, Phase, Reaction};
use super::{Cause, EXIT_STATUS_WAIT, Effect, Ignored, KILL_NOW, Outcome, RETRY_FIRST, Start, Transition};
use crate::failure::{ExitStatus, Failure, Reason, judge_exit};
use crate::moment::Moment;

impl Lifecycle {
    /// Enters a phase that is a new public state, and announces it.
    pub(super) fn enter(&mut self, phase: Phase, what: Transition) {
        self.phase = phase;
        self.announce(what);
        self.entered_at = self.now;
    }

    pub(super) fn announce(&mut self, what: Transition) {
        let elapsed = self.now.since(self.entered_at);
        self.effects.push(Effect::Announce { what, elapsed });
    }

    /// Announces the failure that ended the incarnation, if it was a failure.
    pub(super) fn announce_failure(&mut self) {
        if let Some(Ending::Failed(failure)) = &self.end {
            let failure = Failure::clone(failure);
            self.announce(Transition::Failed(failure));
        }
    }

    /// Records a failure as the cause of the end, unless there is one already.
    pub(super) fn fail_first(&mut self, failure: Failure) {
        self.end.get_or_insert_with(|| Ending::failed(failure));
    }

    /// The deadline for the answer of the table or the guardian.
    pub(super) fn answer_limit(&self) -> Moment {
        match self.rules.start_timeout {
            none if none.is_zero() => self.now + self.rules.release_timeout,
            limit => self.reserved_at + limit,
        }
    }

    /// Postpones an end until the answer arrives that decides whether there is a process.
    pub(super) fn end_when_born(&mut self, ending: Ending, cause: Cause, kill: bool) -> Reaction {
        let harder = kill && self.end_at_birth.is_some_and(|(_, killed)| !killed);
        if self.end.is_some() && !harder {
            return Err(Ignored::Ending);
        }
        if self.end.is_none() {
            self.limit.advance(self.now, self.now + self.rules.release_timeout);
        }
        self.end.get_or_insert(ending);
        self.end_at_birth = Some((cause, kill));
        Ok(())
    }

    /// exec has succeeded: the process exists.
    pub(super) fn born(&mut self) {
        self.spawned_at = self.now;
        if self.tree_gone {
            self.status_wait.arm(self.now, self.now + EXIT_STATUS_WAIT);
        }
        self.enter(Phase::Spawned, Transition::Spawned);
        match self.end_at_birth.take() {
            Some((cause, kill)) => self.end_process(cause, kill),
            None if self.rules.start == Start::AtOnce => self.become_ready(),
            None => {
                if self.rules.start_timeout.is_zero() {
                    self.limit.clear();
                } else {
                    self.limit.arm(self.now, self.answer_limit());
                }
                self.effects.push(Effect::WatchReady);
            }
        }
    }

    /// Nothing was spawned, or nothing of it is left.
    pub(super) fn stillborn(&mut self, failure: Failure) {
        self.fail_first(failure);
        self.announce_stop_of_nothing();
        self.release_without_process();
    }

    /// Announces a stop that came before anything was spawned. Returns whether there was one.
    pub(super) fn announce_stop_of_nothing(&mut self) -> bool {
        let Some((cause, kill)) = self.end_at_birth else {
            return false;
        };
        let stop = self.stop_for(kill);
        self.announce(Transition::Stopping { cause, stop });
        true
    }

    /// Whether it has yet to show that it is ready, so that an exit is a failed start.
    fn is_starting(&self) -> bool {
        self.rules.start == Start::Shown && !self.was_ready
    }

    pub(super) fn become_ready(&mut self) {
        self.was_ready = true;
        self.limit.clear();
        self.enter(Phase::Ready, Transition::Ready);
        self.effects.push(Effect::WatchHealth);
    }

    /// Orders the end of the process.
    pub(super) fn end_process(&mut self, cause: Cause, kill: bool) {
        if self.guard == Guard::SitterAlone && !kill {
            return self.leave_to_sitter(cause);
        }
        let stop = self.stop_for(kill);
        self.enter(Phase::Stopping, Transition::Stopping { cause, stop });
        self.order_end(stop);
        self.limit
            .arm(self.now, self.now + stop.grace + self.rules.release_timeout);
    }

    /// A further stop while one is under way. Only a kill after a stop with grace has an effect.
    pub(super) fn escalate(&mut self, cause: Cause, kill: bool) -> Reaction {
        if !kill {
            return Err(Ignored::Ending);
        }
        if self.killed {
            return Err(Ignored::Already);
        }
        self.kill_tree(cause);
        self.limit.arm(self.now, self.now + self.rules.release_timeout);
        Ok(())
    }

    pub(super) fn kill_tree(&mut self, cause: Cause) {
        self.announce(Transition::Stopping { cause, stop: KILL_NOW });
        self.order_end(KILL_NOW);
    }

    /// An exit without a stop. The rest of the tree is killed at once: it has nothing to finish.
    pub(super) fn exited_by_itself(&mut self, status: ExitStatus) -> Reaction {
        let uptime = self.now.since(self.spawned_at);
        self.end = Some(
            match judge_exit(status, self.is_starting(), uptime, self.rules.min_uptime) {
                Some(failure) => Ending::failed(failure),
                None => Ending::Finished(status),
            },
        );
        self.limit.clear();
        if !self.tree_gone {
            self.order_end(KILL_NOW);
        }
        self.leader_exited(status);
        Ok(())
    }

    pub(super) fn leader_exited(&mut self, status: ExitStatus) {
        self.status = Some(status);
        if let Some(Ending::Failed(failure)) = &mut self.end {
            failure.status.get_or_insert(status);
        }
        self.enter(Phase::Exited, Transition::Exited(status));
        self.announce_failure();
        // The rest of the tree keeps the grace of a stop: a shell dies of TERM at once while its
        // child finishes.
        self.limit.postpone(self.now, self.now + self.rules.release_timeout);
        if self.tree_gone {
            self.release_ports();
        }
    }

    /// The tree is gone, and its leader's status has not arrived. It may still arrive, unless the
    /// guardian is lost.
    pub(super) fn tree_gone_unexplained(&mut self) -> Reaction {
        if self.tree_gone {
            return Err(Ignored::Already);
        }
        self.tree_gone = true;
        if self.guard == Guard::Serving {
            self.status_wait.arm(self.now, self.now + EXIT_STATUS_WAIT);
        } else {
            self.leader_vanished();
        }
        Ok(())
    }

    /// The tree is gone, and its leader's exit status is unknown.
    pub(super) fn leader_vanished(&mut self) {
        let reason = if self.is_starting() {
            Reason::ExitedBeforeReady
        } else {
            Reason::Killed
        };
        self.fail_first(Failure::new(
            reason,
            "its process is gone, and its exit status is unknown",
        ));
        self.announce_failure();
        self.limit.clear();
        self.release_ports();
    }

    /// Nothing was spawned that could hold a port.
    pub(super) fn release_without_process(&mut self) {
        self.announce_failure();
        self.limit.clear();
        self.release(Phase::Unrecording);
    }

    /// The tree is gone. A port that an unrelated process had first is not waited for.
    pub(super) fn release_ports(&mut self) {
        let never_ours = matches!(&self.end, Some(Ending::Failed(failure)) if failure.reason == Reason::PortInUse);
        let phase = if self.rules.has_ports && !never_ours {
            Phase::Ports
        } else {
            Phase::Unrecording
        };
        self.release(phase);
    }

    pub(super) fn release(&mut self, phase: Phase) {
        self.holder_not_named("it was gone before it could be named");
        self.phase = phase;
        self.limit.advance(self.now, self.now + self.rules.release_timeout);
        self.status_wait.clear();
        self.retry = None;
        self.retry_pause = RETRY_FIRST;
        self.obstacle = None;
        self.try_release();
    }

    /// Everything is released: the last step.
    pub(super) fn finish(&mut self) {
        self.limit.clear();
        self.retry = None;
        let what = self.unseen.take().map_or(Transition::Released, Transition::Unseen);
        self.enter(Phase::Released, what);
        let outcome = match self.end.take() {
            Some(Ending::Failed(failure)) => Outcome::Failed(*failure),
            Some(Ending::Finished(status)) => Outcome::Finished { status },
            Some(Ending::Asked) | None => Outcome::Stopped { status: self.status },
        };
        self.effects.push(Effect::Done(outcome));
    }
}
