//! A life and its clock.

use std::time::Duration;

use ostler_core::failure::{Failure, Reason};
use ostler_core::lifecycle::{Cause, Effect, Input, KILL_NOW, Lifecycle, Outcome, Rules, Start, State, Transition};
use ostler_core::moment::Moment;
use ostler_core::spec::StopSpec;

pub(crate) const TERM: StopSpec = StopSpec::term(Duration::from_secs(5));
pub(crate) const RELEASE: Duration = Duration::from_secs(10);

pub(crate) fn rules() -> Rules {
    Rules {
        start_timeout: Duration::from_secs(30),
        min_uptime: Duration::ZERO,
        stop: TERM,
        host_death: KILL_NOW,
        release_timeout: RELEASE,
        start: Start::Shown,
        has_ports: true,
    }
}

/// A life and its clock.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) life: Lifecycle,
    pub(crate) now: Moment,
}

impl Story {
    pub(crate) fn new(rules: Rules) -> Self {
        let (life, effects) = Lifecycle::new(rules, Moment::ORIGIN);
        assert_eq!(effects, [Effect::Record]);
        Self {
            life,
            now: Moment::ORIGIN,
        }
    }

    pub(crate) fn ready(rules: Rules) -> Self {
        let mut story = Self::new(rules);
        assert_eq!(story.does(Input::Recorded), [Effect::Spawn]);
        assert_eq!(story.does(Input::Spawned), [Effect::WatchReady]);
        assert_eq!(story.does(Input::Ready), [Effect::WatchHealth]);
        story
    }

    pub(crate) fn after(&mut self, pause: Duration) -> &mut Self {
        self.now = self.now + pause;
        self
    }

    pub(crate) fn step(&mut self, input: Input) -> Vec<Effect> {
        self.life.step(input, self.now)
    }

    /// The effects without the announcements.
    pub(crate) fn does(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.step(input);
        effects.retain(|effect| !matches!(effect, Effect::Announce { .. }));
        effects
    }

    pub(crate) fn announces(&mut self, input: Input) -> Vec<Transition> {
        let announced = |effect| match effect {
            Effect::Announce { what, .. } => Some(what),
            _ => None,
        };
        self.step(input).into_iter().filter_map(announced).collect()
    }

    pub(crate) fn at_deadline(&mut self) -> Vec<Effect> {
        self.now = self.life.deadline().expect("something is waited for");
        self.step(Input::Deadline)
    }

    pub(crate) fn ends(&mut self) -> Outcome {
        if self.life.state() == State::Exited {
            self.does(Input::TreeGone);
        }
        self.does(Input::PortsFree);
        match self.does(Input::Unrecorded).pop() {
            Some(Effect::Done(outcome)) => outcome,
            other => panic!("not done but {other:?}"),
        }
    }
}

pub(crate) fn stop() -> Input {
    Input::Stop {
        cause: Cause::UserStop,
        kill: false,
    }
}

pub(crate) fn kill() -> Input {
    Input::Stop {
        cause: Cause::InstanceStop,
        kill: true,
    }
}

pub(crate) fn failure(reason: Reason) -> Failure {
    Failure::new(reason, "it happened")
}

pub(crate) fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Failed(failure) => Some(failure.reason),
        Outcome::Stopped { .. } | Outcome::Finished { .. } => None,
    }
}
