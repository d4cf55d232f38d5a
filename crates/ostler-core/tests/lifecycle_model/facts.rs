//! The independent model: a handful of facts that a history establishes, from which the state follows.

use std::time::Duration;

use ostler_core::failure::{Reason, judge_exit};
use ostler_core::lifecycle::{EXIT_STATUS_WAIT, Input, Outcome, Rules, State};
use ostler_core::moment::Moment;

/// What ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Asked,
    Well,
    Failed(Reason),
}

impl Why {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Stopped { .. } => Self::Asked,
            Outcome::Finished { .. } => Self::Well,
            Outcome::Failed(failure) => Self::Failed(failure.reason),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Facts {
    rules: Rules,
    reserved_at: Moment,
    recorded: Option<Moment>,
    /// Something had ended it before it was recorded.
    never_asked: bool,
    born: Option<Moment>,
    stillborn: bool,
    ready: bool,
    exited: bool,
    gone: Option<Moment>,
    /// The tree is gone, and its status is no longer waited for.
    given_up: bool,
    guardian_lost: bool,
    /// The guardian was lost, before anything else ended it.
    left_to_sitter: bool,
    end: Option<Why>,
    free: bool,
    pub(crate) over: bool,
}

impl Facts {
    pub(crate) fn new(rules: Rules, now: Moment) -> Self {
        Self {
            rules,
            reserved_at: now,
            recorded: None,
            never_asked: false,
            born: None,
            stillborn: false,
            ready: false,
            exited: false,
            gone: None,
            given_up: false,
            guardian_lost: false,
            left_to_sitter: false,
            end: None,
            free: false,
            over: false,
        }
    }

    pub(crate) fn state(&self) -> State {
        match () {
            () if self.over => State::Released,
            () if self.settled() => State::Releasing,
            () if self.exited => State::Exited,
            () if self.born.is_some() && self.end.is_some() => State::Stopping,
            () if self.ready => State::Ready,
            () if self.born.is_some() => State::Spawned,
            () => State::Reserved,
        }
    }

    pub(crate) fn why(&self) -> Why {
        self.end.expect("what is over has an end")
    }

    pub(crate) fn spawn_asked(&self) -> bool {
        self.recorded.is_some() && !self.never_asked
    }

    /// A process may live that is no longer wanted, and no sitter ends it by itself.
    pub(crate) fn must_be_ended(&self) -> bool {
        self.born.is_some() && self.end.is_some() && self.gone.is_none() && !self.guardian_lost && !self.left_to_sitter
    }

    fn settled(&self) -> bool {
        self.never_asked || self.stillborn || (self.gone.is_some() && self.exited) || self.given_up
    }

    fn spawn_open(&self) -> bool {
        self.spawn_asked() && self.born.is_none() && !self.stillborn
    }

    fn alive(&self) -> bool {
        self.born.is_some() && !self.exited && !self.settled()
    }

    fn needs_ports(&self) -> bool {
        self.rules.has_ports && self.born.is_some() && self.end != Some(Why::Failed(Reason::PortInUse))
    }

    fn because(&mut self, why: Why) {
        self.end.get_or_insert(why);
    }

    pub(crate) fn take(&mut self, input: &Input, now: Moment) {
        if self.over {
            return;
        }
        match input {
            Input::Recorded if self.recorded.is_none() => {
                self.recorded = Some(now);
                self.never_asked = self.end.is_some();
            }
            Input::RecordFailed(failure) if self.recorded.is_none() => {
                self.because(Why::Failed(failure.reason));
                self.over = true;
            }
            Input::Spawned if self.spawn_open() => {
                self.born = Some(now);
                self.gone = self.gone.map(|_| now);
            }
            Input::SpawnFailed(failure) if self.spawn_open() => {
                self.because(Why::Failed(failure.reason));
                self.stillborn = true;
            }
            Input::Ready if self.alive() && self.end.is_none() => self.ready = true,
            Input::StartFailed(failure) if self.alive() && !self.ready => self.because(Why::Failed(failure.reason)),
            Input::Unhealthy(failure) if self.alive() && self.ready => self.because(Why::Failed(failure.reason)),
            Input::Stop { .. } if !self.settled() => self.because(Why::Asked),
            Input::Exited(status) if self.alive() || self.spawn_open() => {
                let born = *self.born.get_or_insert(now);
                let judged = judge_exit(*status, self.ready, now.since(born), self.rules.min_uptime);
                self.because(judged.map_or(Why::Well, |failure| Why::Failed(failure.reason)));
                self.exited = true;
            }
            Input::TreeGone if self.spawn_asked() && self.gone.is_none() && !self.settled() => {
                self.gone = Some(now);
                self.given_up = self.guardian_lost && !self.exited;
            }
            Input::GuardianLost if !self.exited && !self.settled() => {
                self.left_to_sitter |= self.end.is_none();
                self.because(Why::Failed(Reason::GuardianLost));
                self.guardian_lost = self.born.is_some();
                self.given_up = self.guardian_lost && self.gone.is_some();
            }
            Input::PortsFree if self.settled() && self.needs_ports() => self.free = true,
            Input::Unrecorded if self.settled() && (self.free || !self.needs_ports()) => self.over = true,
            Input::Deadline => self.time_passed(now),
            _ => {}
        }
    }

    fn time_passed(&mut self, now: Moment) {
        if self.gone.is_some_and(|gone| now >= gone + EXIT_STATUS_WAIT) && self.alive() {
            let reason = if self.ready {
                Reason::Killed
            } else {
                Reason::ExitedBeforeReady
            };
            self.because(Why::Failed(reason));
            self.given_up = true;
        } else if self.end.is_none() && !self.ready && self.start_limit().is_some_and(|limit| now >= limit) {
            let recorded = self.recorded.is_some();
            self.because(Why::Failed(if recorded {
                Reason::ReadyTimeout
            } else {
                Reason::StoreFailed
            }));
        }
    }

    fn start_limit(&self) -> Option<Moment> {
        let answer = self.rules.release_timeout.max(Duration::from_millis(1));
        match (self.rules.start_timeout.is_zero(), self.born) {
            (false, _) => Some(self.reserved_at + self.rules.start_timeout),
            (true, None) => Some(self.recorded.unwrap_or(self.reserved_at) + answer),
            (true, Some(_)) => None,
        }
    }
}
