//! The machine itself: one method a phase, each a match over every input.

use std::time::Duration;

use super::{Cause, EXIT_STATUS_WAIT, Effect, Ignored, Input, RETRY_FIRST, Rules, State, Transition};
use crate::failure::{ExitStatus, Failure};
use crate::moment::Moment;
use crate::spec::StopSpec;

/// A state, with [`State::Reserved`] and [`State::Releasing`] taken apart by what they wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Recording,
    Spawning,
    Spawned,
    Ready,
    Stopping,
    Exited,
    Ports,
    Unrecording,
    Released,
}

/// What ended it first.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    Asked,
    Finished(ExitStatus),
    Failed(Failure),
}

/// What a phase makes of an input.
pub(super) type Reaction = Result<(), Ignored>;

/// One incarnation of a worker. See the [module](super) for what holds.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    pub(super) rules: Rules,
    pub(super) phase: Phase,
    /// The latest time that was passed in: time never runs backwards here.
    pub(super) now: Moment,
    pub(super) reserved_at: Moment,
    pub(super) spawned_at: Moment,
    /// When the last state was entered that was announced.
    pub(super) entered_at: Moment,
    pub(super) was_ready: bool,
    pub(super) end: Option<Ending>,
    /// How to end the process that a spawn under way may still bring.
    pub(super) end_at_birth: Option<(Cause, StopSpec)>,
    /// The tree has been sent [`KILL_NOW`].
    pub(super) killed: bool,
    pub(super) status: Option<ExitStatus>,
    pub(super) tree_gone: bool,
    pub(super) guardian_lost: bool,
    /// When the phase has taken too long.
    pub(super) limit: Option<Moment>,
    /// When to try again, or (before the exit was seen) to go on without a status.
    pub(super) retry: Option<Moment>,
    pub(super) retry_pause: Duration,
    /// What stood in the way of the last try to release.
    pub(super) obstacle: Option<String>,
    /// The release is overdue, and who holds it has been asked but not answered.
    pub(super) naming: bool,
    pub(super) effects: Vec<Effect>,
}

impl Lifecycle {
    /// A new incarnation, and its first effects.
    pub fn new(rules: Rules, now: Moment) -> (Self, Vec<Effect>) {
        let rules = Rules {
            release_timeout: rules.release_timeout.max(Duration::from_millis(1)),
            ..rules
        };
        let mut life = Self {
            rules,
            phase: Phase::Recording,
            now,
            reserved_at: now,
            spawned_at: now,
            entered_at: now,
            was_ready: false,
            end: None,
            end_at_birth: None,
            killed: false,
            status: None,
            tree_gone: false,
            guardian_lost: false,
            limit: None,
            retry: None,
            retry_pause: RETRY_FIRST,
            obstacle: None,
            naming: false,
            effects: vec![Effect::Record],
        };
        life.limit = Some(life.answer_limit());
        let effects = std::mem::take(&mut life.effects);
        (life, effects)
    }

    /// Takes what happened at `now`, and returns what is to be done. What doesn't fit the state changes nothing.
    pub fn step(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        self.try_step(input, now).unwrap_or_default()
    }

    /// The same, and says why when `input` changes nothing.
    ///
    /// # Errors
    /// The reason for which this state ignores this input. That is no fault: inputs cross each other.
    pub fn try_step(&mut self, input: Input, now: Moment) -> Result<Vec<Effect>, Ignored> {
        self.now = self.now.max(now);
        self.react(input)?;
        Ok(std::mem::take(&mut self.effects))
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Recording | Phase::Spawning => State::Reserved,
            Phase::Spawned => State::Spawned,
            Phase::Ready => State::Ready,
            Phase::Stopping => State::Stopping,
            Phase::Exited => State::Exited,
            Phase::Ports | Phase::Unrecording => State::Releasing,
            Phase::Released => State::Released,
        }
    }

    /// When [`Input::Deadline`] is due; `None` while nothing is waited for that has a limit.
    pub fn deadline(&self) -> Option<Moment> {
        match (self.limit, self.retry) {
            (Some(limit), Some(retry)) => Some(limit.min(retry)),
            (limit, retry) => limit.or(retry),
        }
    }

    fn react(&mut self, input: Input) -> Reaction {
        match self.phase {
            Phase::Recording => self.recording(input),
            Phase::Spawning => self.spawning(input),
            Phase::Spawned => self.spawned(input),
            Phase::Ready => self.ready(input),
            Phase::Stopping => self.stopping(input),
            Phase::Exited => self.exited(input),
            Phase::Ports => self.ports(input),
            Phase::Unrecording => self.unrecording(input),
            Phase::Released => Err(Ignored::Over),
        }
    }

    /// The reservation is being written. A stop waits for it, so that no record is left that nobody knows of.
    fn recording(&mut self, input: Input) -> Reaction {
        match input {
            Input::Recorded => {
                self.enter(Phase::Spawning, Transition::Reserved);
                match self.end_at_birth {
                    None => {
                        self.limit = Some(self.answer_limit());
                        self.effects.push(Effect::Spawn);
                    }
                    Some((cause, stop)) => {
                        self.announce(Transition::Stopping { cause, stop });
                        self.release_without_process();
                    }
                }
                Ok(())
            }
            Input::RecordFailed(failure) => {
                self.fail_first(failure);
                self.announce_failure();
                self.finish();
                Ok(())
            }
            Input::Stop { cause, kill } => self.end_when_born(Ending::Asked, cause, kill),
            Input::GuardianLost => self.guardian_lost_before_birth(),
            Input::Deadline => self.deadline_passed(),
            Input::Spawned | Input::SpawnFailed(_) | Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) => {
                Err(Ignored::NotAsked)
            }
            Input::Exited(_) | Input::TreeGone => Err(Ignored::NoProcess),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) | Input::Held(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// exec is under way. Whatever ends it waits for the answer, and then acts on what was born.
    fn spawning(&mut self, input: Input) -> Reaction {
        match input {
            Input::Spawned => {
                self.spawned_at = self.now;
                self.retry = self.tree_gone.then(|| self.now + EXIT_STATUS_WAIT);
                self.enter(Phase::Spawned, Transition::Spawned);
                match self.end_at_birth.take() {
                    None => {
                        let has_limit = !self.rules.start_timeout.is_zero();
                        self.limit = has_limit.then(|| self.reserved_at + self.rules.start_timeout);
                        self.effects.push(Effect::WatchReady);
                    }
                    Some((Cause::GuardianLost, _)) => self.leave_to_sitter(),
                    Some((cause, stop)) => self.end_process(cause, stop),
                }
                Ok(())
            }
            Input::SpawnFailed(failure) => {
                self.fail_first(failure);
                if let Some((cause, stop)) = self.end_at_birth {
                    self.announce(Transition::Stopping { cause, stop });
                }
                self.release_without_process();
                Ok(())
            }
            Input::Exited(status) => {
                self.spawning(Input::Spawned)?;
                self.react(Input::Exited(status))
            }
            Input::Stop { cause, kill } => self.end_when_born(Ending::Asked, cause, kill),
            Input::GuardianLost => self.guardian_lost_before_birth(),
            Input::Held(holder) => self.named(holder),
            Input::Deadline => self.deadline_passed(),
            Input::TreeGone if self.tree_gone => Err(Ignored::Already),
            Input::TreeGone => {
                self.tree_gone = true;
                Ok(())
            }
            Input::Recorded => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) => {
                Err(Ignored::NotAsked)
            }
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// It runs, and is not ready.
    fn spawned(&mut self, input: Input) -> Reaction {
        match input {
            Input::Ready => {
                self.was_ready = true;
                self.limit = None;
                self.enter(Phase::Ready, Transition::Ready);
                self.effects.push(Effect::WatchHealth);
                Ok(())
            }
            Input::StartFailed(failure) => {
                self.end = Some(Ending::Failed(failure));
                self.end_process(Cause::StartFailed, self.rules.stop);
                Ok(())
            }
            Input::Stop { cause, kill } => self.stop_process(cause, kill),
            Input::Exited(status) => self.exited_by_itself(status),
            Input::TreeGone => self.tree_gone_unexplained(),
            Input::GuardianLost => self.lose_guardian(),
            Input::Deadline => self.deadline_passed(),
            Input::Recorded | Input::Spawned => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) | Input::Unhealthy(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) | Input::Held(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// It runs, and can be used.
    fn ready(&mut self, input: Input) -> Reaction {
        match input {
            Input::Unhealthy(failure) => {
                self.announce(Transition::Unhealthy(failure.clone()));
                self.end = Some(Ending::Failed(failure));
                self.end_process(Cause::Unhealthy, self.rules.stop);
                Ok(())
            }
            Input::Stop { cause, kill } => self.stop_process(cause, kill),
            Input::Exited(status) => self.exited_by_itself(status),
            Input::TreeGone => self.tree_gone_unexplained(),
            Input::GuardianLost => self.lose_guardian(),
            Input::Deadline => self.deadline_passed(),
            Input::Recorded | Input::Spawned | Input::Ready => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) | Input::StartFailed(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) | Input::Held(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// It has been told to end, and its exit has not been seen.
    fn stopping(&mut self, input: Input) -> Reaction {
        match input {
            Input::Stop { cause, kill } => self.escalate(cause, kill),
            Input::Exited(status) => {
                self.leader_exited(status);
                Ok(())
            }
            Input::TreeGone => self.tree_gone_unexplained(),
            Input::GuardianLost => {
                self.guardian_lost = true;
                if self.tree_gone {
                    self.leader_vanished();
                }
                Ok(())
            }
            Input::Held(holder) => self.named(holder),
            Input::Deadline => self.deadline_passed(),
            Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) => Err(Ignored::Ending),
            Input::Recorded | Input::Spawned => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// Its leader has ended. What is left of the tree still has the grace of a stop; after an exit of its own, none.
    fn exited(&mut self, input: Input) -> Reaction {
        match input {
            Input::TreeGone => {
                self.release_ports();
                Ok(())
            }
            Input::Stop { cause, kill } => self.escalate(cause, kill),
            Input::Held(holder) => self.named(holder),
            Input::Deadline => self.deadline_passed(),
            Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) | Input::GuardianLost => Err(Ignored::Ending),
            Input::Recorded | Input::Spawned | Input::Exited(_) => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// The tree is gone; its ports are to be free.
    fn ports(&mut self, input: Input) -> Reaction {
        match input {
            Input::PortsFree => {
                self.remove_record();
                Ok(())
            }
            Input::PortsHeld(holder) => {
                self.try_again_later(holder);
                Ok(())
            }
            Input::Deadline => self.deadline_passed(),
            Input::Stop { .. } | Input::StartFailed(_) | Input::Unhealthy(_) => Err(Ignored::Ending),
            Input::Ready | Input::GuardianLost | Input::Held(_) => Err(Ignored::Ending),
            Input::Recorded | Input::Spawned | Input::Exited(_) | Input::TreeGone => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) => Err(Ignored::NotAsked),
            Input::Unrecorded | Input::UnrecordFailed(_) => Err(Ignored::NotAsked),
        }
    }

    /// All is free; its record is to go.
    fn unrecording(&mut self, input: Input) -> Reaction {
        match input {
            Input::Unrecorded => {
                self.finish();
                Ok(())
            }
            Input::UnrecordFailed(why) => {
                self.try_again_later(why);
                Ok(())
            }
            Input::Deadline => self.deadline_passed(),
            Input::Stop { .. } | Input::StartFailed(_) | Input::Unhealthy(_) => Err(Ignored::Ending),
            Input::Ready | Input::GuardianLost | Input::Held(_) => Err(Ignored::Ending),
            Input::Recorded | Input::Spawned | Input::Exited(_) | Input::TreeGone | Input::PortsFree => {
                Err(Ignored::Already)
            }
            Input::RecordFailed(_) | Input::SpawnFailed(_) | Input::PortsHeld(_) => Err(Ignored::NotAsked),
        }
    }
}
