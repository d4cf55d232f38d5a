//! Children that exit on their own, and restarts: of single children and of groups.

use std::time::Duration;

use super::{Doing, End, Group, Policy, Postponed};
use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::supervision::child::{Ended, Retry, StartFor, State, StopFor};
use crate::supervision::{AutoShutdown, ChildKey, Report, Restart, Strategy};

impl<S: Clone> Policy<S> {
    pub(super) fn ended(&mut self, key: ChildKey, incarnation: u64, reason: ExitReason, counted: bool, now: Moment) {
        let Some(child) = self.children.get(&key).filter(|child| child.incarnation == incarnation) else {
            return;
        };
        match &child.state {
            State::Running { since } => {
                let ended = Ended {
                    reason,
                    counted,
                    lasted: now.since(*since),
                };
                self.set_state(key, State::Ended(ended));
                self.mailbox.push_back(Postponed::Exit(key, incarnation));
            }
            State::Stopping { on_behalf_of, .. } => {
                let stop_for = on_behalf_of.clone();
                self.report_unexpected_stop(key, reason);
                self.settle_stopped(key, stop_for);
            }
            State::Undefined | State::Starting { .. } | State::Ended(_) | State::Restarting { .. } => {}
        }
    }

    /// OTP's `do_restart`.
    pub(super) fn handle_exit(&mut self, key: ChildKey, incarnation: u64, now: Moment) {
        let Some(child) = self.children.get(&key).filter(|child| child.incarnation == incarnation) else {
            return;
        };
        let State::Ended(ended) = &child.state else { return };
        let Ended {
            reason,
            counted,
            lasted,
        } = ended.clone();
        let (significant, restart) = (child.significant, child.restart);
        let reference = child.reference(key);
        if restart == Restart::Permanent || reason.is_abnormal() {
            self.report(Report::ChildTerminated {
                child: reference,
                reason: reason.clone(),
                counted,
            });
        }
        let restarts = match restart {
            Restart::Permanent => true,
            Restart::Transient => reason.is_abnormal(),
            Restart::Temporary => false,
        };
        if restarts {
            self.reset_attempts_after(key, lasted);
            self.restart(key, reason, counted, lasted, now);
        } else {
            self.mark_down(key);
            self.auto_shutdown(significant, now);
        }
    }

    fn auto_shutdown(&mut self, significant: bool, now: Moment) {
        let ends = significant
            && match self.flags.auto_shutdown {
                AutoShutdown::Never => false,
                AutoShutdown::AnySignificant => true,
                AutoShutdown::AllSignificant => !self
                    .children
                    .values()
                    .any(|child| child.significant && child.state != State::Undefined),
            };
        if ends {
            self.begin_end(End::AutoShutdown, now);
        }
    }

    /// A child that was running long enough starts counting consecutive restarts again.
    fn reset_attempts_after(&mut self, key: ChildKey, lasted: Duration) {
        let reset = self
            .flags
            .backoff
            .as_ref()
            .and_then(|backoff| backoff.reset)
            .unwrap_or(self.flags.period);
        if lasted >= reset
            && let Some(child) = self.children.get_mut(&key)
        {
            child.attempts = 0;
        }
    }

    /// OTP's `restart/2`: counts the restart, then carries it out according to the strategy. The
    /// child ran for `lasted`, which is part of the backoff's pause between two starts.
    fn restart(&mut self, key: ChildKey, reason: ExitReason, counted: bool, lasted: Duration, now: Moment) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        let reference = child.reference(key);
        if counted && self.intensity.add_restart(now) {
            let restarts = self.intensity.counted();
            self.report(Report::ReachedMaxRestartIntensity {
                child: reference.clone(),
                reason: reason.clone(),
                restarts,
            });
            self.set_state(key, State::Undefined);
            self.begin_end(
                End::MaxIntensity {
                    child: reference,
                    reason,
                },
                now,
            );
            return;
        }
        child.attempts = child.attempts.saturating_add(1);
        let attempt = child.attempts;
        let delay = match &self.flags.backoff {
            Some(backoff) => backoff.delay(attempt, self.fractions.next()).saturating_sub(lasted),
            None => Duration::ZERO,
        };
        let restarts = self.intensity.counted();
        self.report(Report::RestartScheduled {
            child: reference,
            reason: reason.clone(),
            attempt,
            delay,
            restarts,
            intensity: self.intensity.clone(),
            at: now,
        });
        let wait_until = (!delay.is_zero()).then(|| (now + delay, reason));
        self.begin_restart(key, wait_until);
    }

    /// The group is stopped immediately even if its start is delayed: its members depend on the
    /// child that is gone.
    fn begin_restart(&mut self, key: ChildKey, wait_until: Option<(Moment, ExitReason)>) {
        let first = match self.flags.strategy {
            Strategy::OneForOne | Strategy::SimpleOneForOne => {
                match wait_until {
                    Some(wait) => self.wait_for_restart(key, wait),
                    None => self.launch(key, StartFor::Restart),
                }
                return;
            }
            Strategy::OneForAll => ChildKey(0),
            Strategy::RestForOne => key,
        };
        self.set_state(key, State::Undefined);
        self.doing = Some(Doing::Restart(Group {
            offender: key,
            first,
            stopped_from: ChildKey(u64::MAX),
            wait_until,
            launched: None,
        }));
    }

    fn wait_for_restart(&mut self, key: ChildKey, (due, reason): (Moment, ExitReason)) {
        self.set_state(
            key,
            State::Restarting {
                due,
                next: Retry::Start,
                reason,
            },
        );
    }

    /// The delay of a restart is over, or the mailbox was handled after a failed attempt.
    pub(super) fn handle_due(&mut self, key: ChildKey, now: Moment) {
        let Some(State::Restarting { next, reason, due }) = self.children.get(&key).map(|child| &child.state) else {
            return;
        };
        if *due > now {
            return;
        }
        match *next {
            Retry::Count { counted } => {
                let reason = reason.clone();
                self.restart(key, reason, counted, Duration::ZERO, now);
            }
            Retry::Start => self.begin_restart(key, None),
        }
    }

    /// Stops the next member of the group, right to left, or starts the next one, left to right,
    /// once the previous one is done.
    pub(super) fn advance_restart(&mut self, now: Moment) {
        let Some(Doing::Restart(mut group)) = self.doing.take() else {
            return;
        };
        if group.launched.is_none() {
            if self.stop_next(&mut group, now) {
                self.doing = Some(Doing::Restart(group));
                return;
            }
            if let Some(wait) = group.wait_until.take() {
                self.wait_for_restart(group.offender, wait);
                return;
            }
        }
        if self.start_next(&mut group) {
            self.doing = Some(Doing::Restart(group));
        }
    }

    /// Returns whether a member is still stopping.
    fn stop_next(&mut self, group: &mut Group, now: Moment) -> bool {
        while let Some((&key, child)) = self.children.range(group.first..group.stopped_from).next_back() {
            match &child.state {
                State::Running { .. } => self.stop_child(key, StopFor::Group, now),
                State::Starting { .. } => self.cancel_start(key, StopFor::Group),
                State::Stopping { .. } => {}
                State::Undefined | State::Ended(_) | State::Restarting { .. } => {
                    group.stopped_from = key;
                    self.settle_unless_running(key);
                    continue;
                }
            }
            return true;
        }
        false
    }

    /// Returns whether a member is still starting. A failed start ends this attempt; it is retried
    /// later.
    fn start_next(&mut self, group: &mut Group) -> bool {
        match group
            .launched
            .and_then(|key| self.children.get(&key))
            .map(|child| &child.state)
        {
            Some(State::Starting { .. } | State::Stopping { .. }) => return true,
            Some(State::Restarting { .. }) => return false,
            Some(State::Undefined | State::Running { .. } | State::Ended(_)) | None => {}
        }
        let Some(key) = self.next_after(group.launched, group.first) else {
            return false;
        };
        group.launched = Some(key);
        self.launch(key, StartFor::Restart);
        true
    }
}
