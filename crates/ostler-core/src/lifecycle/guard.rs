//! Which process ends a tree: the sitter on the guardian's order, the sitter alone, or the host.

use super::machine::{Ending, Guard, Lifecycle, Phase, Reaction};
use super::{Cause, Effect, Ignored, Input, KILL_NOW, Rest, Transition};
use crate::failure::{ExitStatus, Failure, Reason};
use crate::signal::Signal;
use crate::spec::StopSpec;

impl Lifecycle {
    /// Orders the end of the tree from whatever is left to do it. Work that is under way is not
    /// started again.
    pub(super) fn order_end(&mut self, stop: StopSpec) {
        self.killed = stop.grace.is_zero();
        match self.guard {
            Guard::Serving => self.effects.push(Effect::End(stop)),
            // The sitter gives the tree the grace of `host_death`. Only a kill bypasses it.
            Guard::SitterAlone if !self.killed => {}
            Guard::SitterAlone => {
                if !std::mem::replace(&mut self.killing_past_sitter, true) {
                    self.effects.push(Effect::KillPastSitter);
                }
            }
            Guard::HostAlone => {
                if !std::mem::replace(&mut self.ending_without_sitter, true) {
                    self.effects.push(Effect::EndWithoutSitter);
                }
            }
        }
    }

    /// The stop that applies in the current situation.
    pub(super) fn stop_for(&self, kill: bool) -> StopSpec {
        match self.guard {
            _ if kill => KILL_NOW,
            Guard::Serving => self.rules.stop,
            Guard::SitterAlone | Guard::HostAlone => self.rules.host_death,
        }
    }

    pub(super) fn lose_guardian(&mut self) -> Reaction {
        if self.guard != Guard::Serving {
            return Err(Ignored::Already);
        }
        self.guard = Guard::SitterAlone;
        match self.phase {
            Phase::Spawning if self.end.is_none() => {
                self.end_when_born(Ending::failed(guardian_lost()), Cause::GuardianLost, false)?;
            }
            Phase::Spawned | Phase::Ready => {
                self.end = Some(Ending::failed(guardian_lost()));
                self.leave_to_sitter(Cause::GuardianLost);
            }
            _ => {}
        }
        if self.tree_gone && self.phase != Phase::Spawning {
            self.leader_vanished();
        } else if self.killed && !self.tree_gone {
            // The guardian may have died before it read the order.
            self.order_end(KILL_NOW);
        }
        Ok(())
    }

    /// The sitter has noticed the end of the guardian and ends the tree, so nothing is signalled
    /// from here at first.
    pub(super) fn leave_to_sitter(&mut self, cause: Cause) {
        let stop = self.rules.host_death;
        self.killed = false;
        self.enter(Phase::Stopping, Transition::Stopping { cause, stop });
        self.limit
            .arm(self.now, self.now + stop.grace + self.rules.release_timeout);
    }

    pub(super) fn lose_sitters(&mut self) -> Reaction {
        if self.guard == Guard::HostAlone {
            return Err(Ignored::Already);
        }
        if self.guard == Guard::Serving {
            self.lose_guardian()?;
        }
        self.guard = Guard::HostAlone;
        match self.phase {
            Phase::Spawning if self.tree_gone => self.stillborn_without_answer(),
            Phase::Spawning | Phase::Stopping | Phase::Exited if !self.tree_gone => self.order_end(KILL_NOW),
            // The tree was gone, and its end is being released.
            _ => {}
        }
        Ok(())
    }

    /// The tree is gone, and so are guardian and sitters, so the spawn will not be answered.
    pub(super) fn stillborn_without_answer(&mut self) {
        if self.guard == Guard::HostAlone {
            self.stillborn(lost_at_spawn());
        }
    }

    pub(super) fn killed_past_sitter(&mut self) -> Reaction {
        match std::mem::take(&mut self.killing_past_sitter) {
            true => Ok(()),
            false => Err(Ignored::NotAsked),
        }
    }

    pub(super) fn ended_without_sitter(&mut self, rest: Rest) -> Reaction {
        if !std::mem::take(&mut self.ending_without_sitter) {
            return Err(Ignored::NotAsked);
        }
        match rest {
            Rest::Gone => self.tree_killed(),
            Rest::Unseen(why) => {
                self.unseen = Some(why);
                self.tree_killed()
            }
            // Killed again when the release is overdue.
            Rest::Left(who) => {
                if self.naming {
                    self.report_tree(&who);
                }
                Ok(())
            }
        }
    }

    /// The tree was killed by the guardian or the host, so its exit status is unknown.
    pub(super) fn tree_killed(&mut self) -> Reaction {
        if self.tree_gone {
            return Err(Ignored::Already);
        }
        self.tree_gone = true;
        match self.phase {
            Phase::Spawning => self.stillborn(lost_at_spawn()),
            Phase::Exited => self.release_ports(),
            _ => return self.react(Input::Exited(ExitStatus::Signal(Signal::KILL))),
        }
        Ok(())
    }
}

fn guardian_lost() -> Failure {
    Failure::new(
        Reason::GuardianLost,
        "the guardian is gone, and the worker's sitter ended it",
    )
}

fn lost_at_spawn() -> Failure {
    Failure::new(Reason::GuardianLost, "its sitter was killed while it was spawned")
}
