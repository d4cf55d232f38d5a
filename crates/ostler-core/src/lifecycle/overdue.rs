//! What happens at deadlines: an overdue release is retried and reported, and never assumed to be
//! complete.

use std::time::Duration;

use super::machine::{Ending, Guard, Lifecycle, Phase, Reaction};
use super::{Cause, Effect, Ignored, RETRY_MAX, Transition};
use crate::failure::{Failure, Reason};

impl Lifecycle {
    pub(super) fn deadline_passed(&mut self) -> Reaction {
        let now = self.now;
        let retry = self.retry.is_some_and(|at| at <= now);
        let (limit, status) = (self.limit.has_passed(now), self.status_wait.has_passed(now));
        if !limit && !status && !retry {
            return Err(Ignored::TooEarly);
        }
        if status && !self.status_wait.rearm_when_late(now) {
            self.leader_vanished();
        } else if limit && !self.limit.rearm_when_late(now) {
            self.overdue();
        }
        if retry && self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.try_release();
        }
        Ok(())
    }

    fn overdue(&mut self) {
        match self.phase {
            Phase::Recording | Phase::Spawning => self.answer_overdue(),
            Phase::Spawned => self.not_ready_in_time(),
            Phase::Stopping | Phase::Exited => self.tree_overdue(),
            Phase::Ports | Phase::Unrecording => self.release_overdue(),
            // They have no limit.
            Phase::Ready | Phase::Released => {}
        }
    }

    fn not_ready_in_time(&mut self) {
        let limit = self.rules.start_timeout;
        self.fail_first(Failure::new(
            Reason::ReadyTimeout,
            format!("it was not ready within start_timeout ({limit:?})"),
        ));
        self.end_process(Cause::StartTimeout, false);
    }

    /// The table or the guardian has not answered: first that ends the start, then it is overdue.
    fn answer_overdue(&mut self) {
        if self.end.is_none() {
            let took = self.now.since(self.reserved_at);
            let failure = match self.phase {
                Phase::Recording => Failure::new(
                    Reason::StoreFailed,
                    format!("the process table did not take its record within {took:?}"),
                ),
                _ => Failure::new(Reason::ReadyTimeout, format!("it was not spawned within {took:?}")),
            };
            self.end = Some(Ending::failed(failure));
            self.end_at_birth = Some((Cause::StartTimeout, false));
            self.limit.arm(self.now, self.now + self.rules.release_timeout);
        } else if self.phase == Phase::Recording {
            let message = format!(
                "the process table has not answered for {:?}",
                self.now.since(self.reserved_at)
            );
            self.report(Failure::new(Reason::StoreFailed, message));
        } else {
            self.tree_overdue();
        }
    }

    /// The tree should be gone: kills it again, and asks which processes are left.
    fn tree_overdue(&mut self) {
        self.holder_not_named("their names could not be found in time");
        self.kill_tree(Cause::ReleaseRetry);
        self.naming = true;
        // Without a sitter, the work that ends the tree names what it could not end.
        if self.guard != Guard::HostAlone {
            self.effects.push(Effect::NameHolders);
        }
        self.limit.arm(self.now, self.now + self.rules.release_timeout);
    }

    /// The answer which processes are left.
    pub(super) fn named(&mut self, holder: &str) -> Reaction {
        if !self.naming {
            return Err(Ignored::NotAsked);
        }
        self.report_tree(holder);
        Ok(())
    }

    /// Each overdue release is reported once, with its holder or without.
    pub(super) fn holder_not_named(&mut self, why: &str) {
        if self.naming {
            self.report_tree(why);
        }
    }

    pub(super) fn report_tree(&mut self, holder: &str) {
        self.naming = false;
        let message = format!(
            "its processes were not gone in time (release_timeout {:?}): {holder}",
            self.rules.release_timeout
        );
        self.announce_overdue(Failure::new(Reason::ReleaseTimeout, message).with_holder(holder));
    }

    fn release_overdue(&mut self) {
        let limit = self.rules.release_timeout;
        let what = self.obstacle.clone().unwrap_or_else(|| "no answer came".to_owned());
        let failure = if self.phase == Phase::Ports {
            let message = format!("its ports were not free in time (release_timeout {limit:?}): {what}");
            let failure = Failure::new(Reason::ReleaseTimeout, message);
            Failure {
                holder: self.obstacle.clone(),
                ..failure
            }
        } else {
            let message = format!("its record could not be removed in time (release_timeout {limit:?}): {what}");
            Failure::new(Reason::StoreFailed, message)
        };
        self.report(failure);
        if self.retry.is_none() {
            self.try_release();
        }
    }

    fn report(&mut self, failure: Failure) {
        self.limit.arm(self.now, self.now + self.rules.release_timeout);
        self.announce_overdue(failure);
    }

    fn announce_overdue(&mut self, failure: Failure) {
        self.announce(Transition::Failed(failure.clone()));
        self.effects.push(Effect::ReleaseOverdue(failure));
    }

    /// Does what the phase waits for, for the first time or again.
    pub(super) fn try_release(&mut self) {
        self.effects.push(if self.phase == Phase::Ports {
            Effect::CheckPorts
        } else {
            Effect::Unrecord
        });
    }

    /// The last try failed; the pause before the next doubles.
    pub(super) fn try_again_later(&mut self, obstacle: String) {
        self.obstacle = Some(obstacle);
        if self.retry.is_none() {
            self.retry = Some(self.now + self.retry_pause);
            self.retry_pause = Duration::min(self.retry_pause * 2, RETRY_MAX);
        }
    }
}
