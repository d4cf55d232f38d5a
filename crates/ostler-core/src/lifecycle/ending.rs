//! How a life goes on and ends: what the phases of the machine have in common.

use super::machine::{Ending, Lifecycle, Phase, Reaction};
use super::{Cause, EXIT_STATUS_WAIT, Effect, Ignored, KILL_NOW, Outcome, RETRY_FIRST, Transition};
use crate::failure::{ExitStatus, Failure, Reason, judge_exit};
use crate::moment::Moment;
use crate::spec::StopSpec;

impl Lifecycle {
    /// Enters a phase that is a new state to everybody.
    pub(super) fn enter(&mut self, phase: Phase, what: Transition) {
        self.phase = phase;
        self.announce(what);
        self.entered_at = self.now;
    }

    pub(super) fn announce(&mut self, what: Transition) {
        let elapsed = self.now.since(self.entered_at);
        self.effects.push(Effect::Announce { what, elapsed });
    }

    /// Tells of the failure that ended it, if one did.
    pub(super) fn announce_failure(&mut self) {
        if let Some(Ending::Failed(failure)) = &self.end {
            let failure = failure.clone();
            self.announce(Transition::Failed(failure));
        }
    }

    /// The first cause stands.
    pub(super) fn fail_first(&mut self, failure: Failure) {
        self.end.get_or_insert(Ending::Failed(failure));
    }

    /// When the table or the guardian has to have answered.
    pub(super) fn answer_limit(&self) -> Moment {
        match self.rules.start_timeout {
            none if none.is_zero() => self.now + self.rules.release_timeout,
            limit => self.reserved_at + limit,
        }
    }

    /// An answer is under way that decides whether there is a process: the end waits for it.
    pub(super) fn end_when_born(&mut self, ending: Ending, cause: Cause, kill: bool) -> Reaction {
        let stop = if kill { KILL_NOW } else { self.rules.stop };
        let harder = kill && self.end_at_birth.is_some_and(|(_, noted)| noted != KILL_NOW);
        if self.end.is_some() && !harder {
            return Err(Ignored::Ending);
        }
        if self.end.is_none() {
            let patience = self.now + self.rules.release_timeout;
            self.limit = Some(self.limit.map_or(patience, |limit| limit.min(patience)));
        }
        self.end.get_or_insert(ending);
        self.end_at_birth = Some((cause, stop));
        Ok(())
    }

    pub(super) fn guardian_lost_before_birth(&mut self) -> Reaction {
        let ending = Ending::Failed(guardian_lost());
        self.end_when_born(ending, Cause::GuardianLost, false)?;
        self.end_at_birth = Some((Cause::GuardianLost, self.rules.host_death));
        Ok(())
    }

    /// A stop of a process that runs.
    pub(super) fn stop_process(&mut self, cause: Cause, kill: bool) -> Reaction {
        self.end = Some(Ending::Asked);
        self.end_process(cause, if kill { KILL_NOW } else { self.rules.stop });
        Ok(())
    }

    /// Signals it, and waits for its end.
    pub(super) fn end_process(&mut self, cause: Cause, stop: StopSpec) {
        self.enter(Phase::Stopping, Transition::Stopping { cause, stop });
        self.effects.push(Effect::End(stop));
        self.killed = stop == KILL_NOW;
        self.limit = Some(self.now + stop.grace + self.rules.release_timeout);
    }

    /// A further stop, while one is under way: only a harder one changes anything.
    pub(super) fn escalate(&mut self, cause: Cause, kill: bool) -> Reaction {
        if !kill {
            return Err(Ignored::Ending);
        }
        if self.killed {
            return Err(Ignored::Already);
        }
        self.kill_tree(cause);
        self.limit = Some(self.now + self.rules.release_timeout);
        Ok(())
    }

    pub(super) fn kill_tree(&mut self, cause: Cause) {
        self.killed = true;
        self.announce(Transition::Stopping { cause, stop: KILL_NOW });
        self.effects.push(Effect::End(KILL_NOW));
    }

    pub(super) fn lose_guardian(&mut self) -> Reaction {
        self.guardian_lost = true;
        self.end = Some(Ending::Failed(guardian_lost()));
        self.leave_to_sitter();
        if self.tree_gone {
            self.leader_vanished();
        }
        Ok(())
    }

    /// The sitter has seen the guardian's pipe close and ends the tree, so nothing is signalled from here at first.
    pub(super) fn leave_to_sitter(&mut self) {
        let stop = self.rules.host_death;
        self.killed = false;
        self.enter(
            Phase::Stopping,
            Transition::Stopping {
                cause: Cause::GuardianLost,
                stop,
            },
        );
        self.limit = Some(self.now + stop.grace + self.rules.release_timeout);
    }

    /// An exit that nobody asked for. What it leaves behind has nobody to finish for, and is killed at once.
    pub(super) fn exited_by_itself(&mut self, status: ExitStatus) -> Reaction {
        let uptime = self.now.since(self.spawned_at);
        self.end = Some(
            match judge_exit(status, self.was_ready, uptime, self.rules.min_uptime) {
                Some(failure) => Ending::Failed(failure),
                None => Ending::Finished(status),
            },
        );
        self.limit = None;
        if !self.tree_gone {
            self.killed = true;
            self.effects.push(Effect::End(KILL_NOW));
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
        // The rest of the tree keeps the grace that a stop gave it: a shell dies of TERM at once, its child finishes.
        let patience = self.now + self.rules.release_timeout;
        self.limit = Some(self.limit.map_or(patience, |limit| limit.max(patience)));
        if self.tree_gone {
            self.release_ports();
        }
    }

    /// The tree is gone, and its leader's status has not come. It may still be on its way; not so without a guardian.
    pub(super) fn tree_gone_unexplained(&mut self) -> Reaction {
        if self.tree_gone {
            return Err(Ignored::Already);
        }
        self.tree_gone = true;
        if self.guardian_lost {
            self.leader_vanished();
        } else {
            self.retry = Some(self.now + EXIT_STATUS_WAIT);
        }
        Ok(())
    }

    /// The tree is gone, and nobody can tell how its leader ended.
    pub(super) fn leader_vanished(&mut self) {
        let reason = if self.was_ready {
            Reason::Killed
        } else {
            Reason::ExitedBeforeReady
        };
        self.fail_first(Failure::new(
            reason,
            "its process is gone, and nobody could tell how it ended",
        ));
        self.announce_failure();
        self.limit = None;
        self.release_ports();
    }

    /// Nothing was spawned that could hold a port.
    pub(super) fn release_without_process(&mut self) {
        self.announce_failure();
        self.limit = None;
        self.release(Phase::Unrecording);
    }

    /// The tree is gone. A port that a stranger had before us is not ours to wait for.
    pub(super) fn release_ports(&mut self) {
        let never_ours = matches!(&self.end, Some(Ending::Failed(failure)) if failure.reason == Reason::PortInUse);
        let phase = if self.rules.has_ports && !never_ours {
            Phase::Ports
        } else {
            Phase::Unrecording
        };
        self.release(phase);
    }

    /// The ports are free.
    pub(super) fn remove_record(&mut self) {
        self.release(Phase::Unrecording);
    }

    fn release(&mut self, phase: Phase) {
        self.holder_not_named("it was gone before it could be named");
        self.phase = phase;
        let patience = self.now + self.rules.release_timeout;
        self.limit = Some(self.limit.map_or(patience, |limit| limit.min(patience)));
        self.retry = None;
        self.retry_pause = RETRY_FIRST;
        self.obstacle = None;
        self.try_release();
    }

    /// The last step of a life.
    pub(super) fn finish(&mut self) {
        self.limit = None;
        self.retry = None;
        self.enter(Phase::Released, Transition::Released);
        let outcome = match self.end.take() {
            Some(Ending::Failed(failure)) => Outcome::Failed(failure),
            Some(Ending::Finished(status)) => Outcome::Finished { status },
            Some(Ending::Asked) | None => Outcome::Stopped { status: self.status },
        };
        self.effects.push(Effect::Done(outcome));
    }
}

fn guardian_lost() -> Failure {
    Failure::new(
        Reason::GuardianLost,
        "the guardian is gone, and its sitter ended the worker",
    )
}
