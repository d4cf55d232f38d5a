//! The independent model: a handful of facts that a history establishes, from which the state
//! follows.

use std::time::Duration;

use ostler_core::failure::{ExitStatus, Reason, judge_exit};
use ostler_core::lifecycle::{EXIT_STATUS_WAIT, Effect, Input, LATE, Outcome, Rest, Rules, Start, State};
use ostler_core::moment::Moment;
use ostler_core::signal::Signal;

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
    sitters_ended: bool,
    /// The host was asked to end it, and has not answered.
    ending_without_sitter: bool,
    /// Nothing proves that the tree is gone.
    pub(crate) unseen: bool,
    /// When the limit of the start was armed last, and until when it was extended because the host
    /// could not run.
    armed_at: Moment,
    extended: Option<Moment>,
    /// The same for the exit status.
    status_extended: Option<Moment>,
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
            sitters_ended: false,
            ending_without_sitter: false,
            unseen: false,
            armed_at: now,
            extended: None,
            status_extended: None,
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

    /// A process may live that must end, and no sitter ends it by itself.
    pub(crate) fn must_be_ended(&self) -> bool {
        let left_to_sitter = self.guardian_lost && !self.sitters_ended;
        self.born.is_some() && self.end.is_some() && self.gone.is_none() && !left_to_sitter
    }

    pub(crate) fn hear(&mut self, effects: &[Effect]) {
        self.ending_without_sitter |= effects.contains(&Effect::EndWithoutSitter);
    }

    fn settled(&self) -> bool {
        self.never_asked || self.stillborn || (self.gone.is_some() && self.exited) || self.given_up
    }

    fn spawn_open(&self) -> bool {
        self.spawn_asked() && self.born.is_none() && !self.stillborn
    }

    fn is_starting(&self) -> bool {
        !self.ready && self.rules.start == Start::Shown
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
                self.arm(now);
            }
            Input::RecordFailed(failure) if self.recorded.is_none() => {
                self.because(Why::Failed(failure.reason));
                self.over = true;
            }
            Input::Spawned if self.spawn_open() => self.bear(now),
            Input::SpawnFailed(failure) if self.spawn_open() => {
                self.because(Why::Failed(failure.reason));
                self.stillborn = true;
            }
            Input::Ready if self.alive() && self.end.is_none() => self.ready = true,
            Input::StartFailed(failure) if self.alive() && !self.ready => self.because(Why::Failed(failure.reason)),
            Input::Unhealthy(failure) if self.alive() && self.ready => self.because(Why::Failed(failure.reason)),
            Input::Stop { .. } if !self.settled() => self.because(Why::Asked),
            Input::Exited(status) if self.alive() || self.spawn_open() => self.exit(*status, now),
            Input::TreeGone if self.spawn_asked() && self.gone.is_none() && !self.settled() => {
                self.gone = Some(now);
                self.given_up = self.guardian_lost && self.alive();
                self.stillborn |= self.sitters_ended && self.spawn_open();
            }
            Input::SitterLost => self.killed(now),
            Input::GuardianLost => self.lose_guardian(),
            Input::SittersEnded => {
                self.lose_guardian();
                self.sitters_ended |= self.spawn_asked() && !self.settled();
                self.stillborn |= self.sitters_ended && self.spawn_open() && self.gone.is_some();
            }
            Input::EndedWithoutSitter(rest) if !self.settled() => {
                let answered = std::mem::take(&mut self.ending_without_sitter);
                if answered && !matches!(rest, Rest::Left(_)) {
                    self.unseen = matches!(rest, Rest::Unseen(_));
                    self.killed(now);
                }
            }
            Input::PortsFree if self.settled() && self.needs_ports() => self.free = true,
            Input::Unrecorded if self.settled() && (self.free || !self.needs_ports()) => self.over = true,
            Input::Deadline => self.time_passed(now),
            _ => {}
        }
    }

    fn bear(&mut self, now: Moment) {
        self.born = Some(now);
        self.gone = self.gone.map(|_| now);
        self.ready = self.rules.start == Start::AtOnce && self.end.is_none();
        self.arm(now);
    }

    fn exit(&mut self, status: ExitStatus, now: Moment) {
        if self.born.is_none() {
            self.bear(now);
        }
        let uptime = self.born.map_or(Duration::ZERO, |born| now.since(born));
        let judged = judge_exit(status, self.is_starting(), uptime, self.rules.min_uptime);
        self.because(judged.map_or(Why::Well, |failure| Why::Failed(failure.reason)));
        self.exited = true;
    }

    /// The tree was killed, by others than its sitter.
    fn killed(&mut self, now: Moment) {
        if !self.spawn_asked() || self.gone.is_some() || self.settled() {
            return;
        }
        self.gone = Some(now);
        if self.spawn_open() {
            self.because(Why::Failed(Reason::GuardianLost));
            self.stillborn = true;
        } else if !self.exited {
            self.exit(ExitStatus::Signal(Signal::KILL), now);
        }
    }

    fn lose_guardian(&mut self) {
        if !self.spawn_asked() || self.settled() || self.guardian_lost {
            return;
        }
        self.guardian_lost = true;
        self.because(Why::Failed(Reason::GuardianLost));
        self.given_up = self.gone.is_some() && self.alive();
    }

    fn arm(&mut self, now: Moment) {
        self.armed_at = now;
        self.extended = None;
    }

    fn time_passed(&mut self, now: Moment) {
        let status_limit = self.gone.map(|gone| gone + EXIT_STATUS_WAIT).filter(|_| self.alive());
        let status = verdict(status_limit, EXIT_STATUS_WAIT, &mut self.status_extended, now);
        if status {
            let reason = if self.is_starting() {
                Reason::ExitedBeforeReady
            } else {
                Reason::Killed
            };
            self.because(Why::Failed(reason));
            self.given_up = true;
            return;
        }
        let limit = self.start_limit().filter(|_| self.end.is_none() && !self.ready);
        let length = limit.map_or(Duration::ZERO, |limit| limit.since(self.armed_at));
        if verdict(limit, length, &mut self.extended, now) {
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
        let from = self.recorded.unwrap_or(self.reserved_at);
        match (self.rules.start_timeout.is_zero(), self.born) {
            (false, _) => Some(from + self.rules.start_timeout),
            (true, None) => Some(from + answer),
            (true, Some(_)) => None,
        }
    }
}

/// Whether this limit leads to its verdict now. Noticed late for the first time, it is extended
/// instead.
fn verdict(limit: Option<Moment>, length: Duration, extended: &mut Option<Moment>, now: Moment) -> bool {
    let Some(limit) = limit
        .map(|limit| extended.unwrap_or(limit))
        .filter(|limit| now >= *limit)
    else {
        return false;
    };
    let late = now.since(limit);
    if extended.is_none() && late > LATE && !length.is_zero() {
        *extended = Some(now + late.min(length));
        return false;
    }
    true
}
