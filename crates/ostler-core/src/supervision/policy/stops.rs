//! Stopping children: one on request, a group for its restart, all at the supervisor's end.

use super::{Effect, End, Phase, Policy, Postponed};
use crate::alarm::Alarm;
use crate::exit::ExitReason;
use crate::moment::Moment;
use crate::supervision::child::{State, StopFor};
use crate::supervision::{
    CallId, ChildKey, DeleteChildError, Reply, Report, Request, RestartChildError, Shutdown, StartChildError, Strategy,
    TerminateChildError,
};

impl<S: Clone> Policy<S> {
    /// Stops a running child according to its specification: asks it to stop, or kills it.
    pub(super) fn stop_child(&mut self, key: ChildKey, on_behalf_of: StopFor, now: Moment) {
        let Some(child) = self.children.get(&key) else { return };
        let mut kill = Alarm::default();
        if let Shutdown::Timeout(grace) = child.shutdown {
            kill.arm(now, now + grace);
        }
        self.effects.push(match child.shutdown {
            Shutdown::BrutalKill => Effect::Kill(key, child.incarnation),
            Shutdown::Timeout(_) | Shutdown::Infinity => Effect::Stop(key, child.incarnation),
        });
        self.set_state(key, State::Stopping { on_behalf_of, kill });
    }

    /// Cancels a start in progress. If it is already cancelled, the first purpose is kept, and
    /// further calls join those that wait.
    pub(super) fn cancel_start(&mut self, key: ChildKey, on_behalf_of: StopFor) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        let State::Starting { cancelled, .. } = &mut child.state else {
            return;
        };
        match (cancelled, on_behalf_of) {
            (cancelled @ None, on_behalf_of) => {
                *cancelled = Some(on_behalf_of);
                self.effects.push(Effect::CancelStart(key, child.incarnation));
            }
            (Some(StopFor::Calls(waiting)), StopFor::Calls(more)) => waiting.extend(more),
            (Some(_), _) => {}
        }
    }

    /// Handles the end of a child that was stopped or whose start was cancelled.
    pub(super) fn settle_stopped(&mut self, key: ChildKey, on_behalf_of: StopFor) {
        self.mark_down(key);
        if let StopFor::Calls(calls) = on_behalf_of {
            for call in calls {
                self.reply(call, Reply::TerminateChild(Ok(())));
            }
        }
    }

    /// Handles a stop of a child that is already down: it exited before its turn came, or waits for
    /// its restart.
    pub(super) fn settle_unless_running(&mut self, key: ChildKey) {
        if let Some(State::Ended(ended)) = self.children.get(&key).map(|child| &child.state) {
            let reason = ended.reason.clone();
            self.report_unexpected_stop(key, reason);
        }
        self.mark_down(key);
    }

    pub(super) fn report_unexpected_stop(&mut self, key: ChildKey, reason: ExitReason) {
        let Some(child) = self.children.get(&key) else { return };
        if !child.stopped_as_expected(&reason) {
            let child = child.reference(key);
            self.report(Report::ShutdownError { child, reason });
        }
    }

    /// Begins to end the supervisor, unless it is already ending. The first cause wins.
    pub(super) fn begin_end(&mut self, end: End, now: Moment) {
        if self.is_ending() {
            return;
        }
        self.phase = Phase::Stopping(end);
        self.doing = None;
        for postponed in std::mem::take(&mut self.mailbox) {
            if let Postponed::Call(call, request) = postponed {
                self.refuse(call, &request);
            }
        }
        if self.flags.strategy == Strategy::SimpleOneForOne {
            let all: Vec<ChildKey> = self.children.keys().copied().collect();
            for key in all {
                self.stop_for_the_end(key, now);
            }
        }
    }

    /// Stops the children right to left, one at a time. Dynamic children were all stopped at once
    /// by `begin_end`.
    pub(super) fn advance_end(&mut self, now: Moment) {
        if self.flags.strategy != Strategy::SimpleOneForOne {
            while let Some((&last, _)) = self.children.last_key_value() {
                self.stop_for_the_end(last, now);
                if self.children.contains_key(&last) {
                    return;
                }
            }
        }
        if self.children.is_empty()
            && let Phase::Stopping(end) = std::mem::replace(&mut self.phase, Phase::Ended)
        {
            self.refuse_postponed();
            self.effects.push(Effect::End(end));
        }
    }

    /// Stops a child that is up, which is then waited for; removes one that is down.
    fn stop_for_the_end(&mut self, key: ChildKey, now: Moment) {
        match self.children.get(&key).map(|child| &child.state) {
            Some(State::Running { .. }) => self.stop_child(key, StopFor::End, now),
            Some(State::Starting { .. }) => self.cancel_start(key, StopFor::End),
            Some(State::Stopping { .. }) | None => {}
            Some(State::Undefined | State::Ended(_) | State::Restarting { .. }) => self.settle_unless_running(key),
        }
    }

    /// Refuses a request because the supervisor is ending.
    pub(super) fn refuse(&mut self, call: CallId, request: &Request<S>) {
        let reply = match request {
            Request::StartChild(_) => Reply::StartChild(Err(StartChildError::Stopping)),
            Request::TerminateChild(_) => Reply::TerminateChild(Err(TerminateChildError::Stopping)),
            Request::RestartChild(_) => Reply::RestartChild(Err(RestartChildError::Stopping)),
            Request::DeleteChild(_) => Reply::DeleteChild(Err(DeleteChildError::Stopping)),
        };
        self.reply(call, reply);
    }

    fn refuse_postponed(&mut self) {
        for postponed in std::mem::take(&mut self.mailbox) {
            if let Postponed::Call(call, request) = postponed {
                self.refuse(call, &request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::alarm::LATE;
    use crate::supervision::{ChildSpec, Event, SupervisorFlags};

    const GRACE: Duration = Duration::from_secs(2);

    fn at(elapsed: Duration) -> Moment {
        Moment::after_origin(elapsed)
    }

    /// A supervisor that stops its one child, which does not end.
    fn stopping(grace: Duration) -> Policy<()> {
        let mut child = ChildSpec::new("child", ());
        child.shutdown = Shutdown::Timeout(grace);
        let mut policy = Policy::new(SupervisorFlags::default(), vec![child], 1).unwrap();
        let started = policy.handle(Event::Begin, at(Duration::ZERO));
        let [Effect::Start { child, .. }] = &started[..] else {
            panic!("{started:?}");
        };
        policy.handle(Event::Started(child.key, child.incarnation), at(Duration::ZERO));
        policy.handle(Event::Stop, at(Duration::ZERO));
        policy
    }

    fn kills(policy: &mut Policy<()>, now: Duration) -> bool {
        let effects = policy.handle(Event::Tick, at(now));
        effects.iter().any(|effect| matches!(effect, Effect::Kill(..)))
    }

    #[test]
    fn a_grace_that_ends_in_time_ends_in_a_kill() {
        assert!(kills(&mut stopping(GRACE), GRACE + LATE));
        assert!(kills(&mut stopping(Duration::ZERO), GRACE), "no grace is not extended");
    }

    #[test]
    fn a_grace_whose_end_is_noticed_late_is_extended_once() {
        let mut policy = stopping(GRACE);
        let resumed = GRACE + Duration::from_secs(1);
        assert!(!kills(&mut policy, resumed), "the host could not run");
        let extended = resumed + Duration::from_secs(1);
        assert_eq!(policy.next_deadline(), Some(at(extended)));
        assert!(kills(&mut policy, extended + Duration::from_secs(5)), "only once");
        assert_eq!(policy.next_deadline(), None);
    }
}
