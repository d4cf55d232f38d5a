//! The machine itself: one method per phase, each a match over every input.

use std::time::Duration;

use super::{Cause, Effect, Ignored, Input, RETRY_FIRST, Rules, State, Transition};
use crate::alarm::Alarm;
use crate::failure::{ExitStatus, Failure};
use crate::moment::Moment;

/// A state, with [`State::Reserved`] and [`State::Releasing`] divided by what they wait for.
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

/// The first cause of the end.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    Asked,
    Finished(ExitStatus),
    /// Boxed: most incarnations have none, and each has room for one.
    Failed(Box<Failure>),
}

impl Ending {
    pub(super) fn failed(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// Which process ends the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// The guardian passes orders to the sitter.
    Serving,
    /// The guardian is gone. The sitter ends the tree as `host_death` says, and takes no orders.
    SitterAlone,
    /// The sitter is gone too, and only the host is left.
    HostAlone,
}

/// The reaction of a phase to an input.
pub(super) type Reaction = Result<(), Ignored>;

/// One incarnation of a worker. See the [module](super) for its invariants.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    pub(super) rules: Rules,
    pub(super) phase: Phase,
    /// The latest time that was passed in. It never goes backwards.
    pub(super) now: Moment,
    /// When the record was requested, later when it was written.
    pub(super) reserved_at: Moment,
    pub(super) spawned_at: Moment,
    /// When the last announced state was entered.
    pub(super) entered_at: Moment,
    pub(super) was_ready: bool,
    pub(super) end: Option<Ending>,
    /// A stop that arrived during the spawn: its cause, and whether it is a kill.
    pub(super) end_at_birth: Option<(Cause, bool)>,
    /// KILL was ordered for the whole tree.
    pub(super) killed: bool,
    pub(super) status: Option<ExitStatus>,
    pub(super) tree_gone: bool,
    /// Why it is not proven that the tree is gone.
    pub(super) unseen: Option<String>,
    pub(super) guard: Guard,
    /// An [`Effect::KillPastSitter`] is not answered yet.
    pub(super) killing_past_sitter: bool,
    /// An [`Effect::EndWithoutSitter`] is not answered yet.
    pub(super) ending_without_sitter: bool,
    /// The deadline of the phase.
    pub(super) limit: Alarm,
    /// Until when to wait for the leader's exit status after the tree is gone.
    pub(super) status_wait: Alarm,
    /// When to try to release again.
    pub(super) retry: Option<Moment>,
    pub(super) retry_pause: Duration,
    /// What prevented the last release.
    pub(super) obstacle: Option<String>,
    /// The release is overdue, and an [`Effect::NameHolders`] is not answered yet.
    pub(super) naming: bool,
    pub(super) effects: Vec<Effect>,
}

impl Lifecycle {
    /// Creates an incarnation. Returns it with its first effects.
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
            unseen: None,
            guard: Guard::Serving,
            killing_past_sitter: false,
            ending_without_sitter: false,
            limit: Alarm::default(),
            status_wait: Alarm::default(),
            retry: None,
            retry_pause: RETRY_FIRST,
            obstacle: None,
            naming: false,
            effects: vec![Effect::Record],
        };
        life.limit.arm(now, life.answer_limit());
        let effects = std::mem::take(&mut life.effects);
        (life, effects)
    }

    /// Processes an input at `now`, and returns what to do. An input that doesn't fit the state is
    /// ignored.
    pub fn step(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        self.try_step(input, now).unwrap_or_default()
    }

    /// Like [`Lifecycle::step`], but returns the reason if the input is ignored.
    ///
    /// # Errors
    /// Why this state ignores this input. That is not a fault, because inputs can cross each other.
    pub fn try_step(&mut self, input: Input, now: Moment) -> Result<Vec<Effect>, Ignored> {
        self.now = self.now.max(now);
        self.react(input)?;
        Ok(std::mem::take(&mut self.effects))
    }

    /// The current state.
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

    /// When [`Input::Deadline`] is due; `None` if there is no deadline.
    pub fn deadline(&self) -> Option<Moment> {
        [self.limit.at(), self.status_wait.at(), self.retry]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn react(&mut self, input: Input) -> Reaction {
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

    /// The reservation is being written. A stop waits for it, so that no unknown record is left.
    fn recording(&mut self, input: Input) -> Reaction {
        match input {
            Input::Recorded => {
                self.reserved_at = self.now;
                self.enter(Phase::Spawning, Transition::Reserved);
                if self.announce_stop_of_nothing() {
                    self.release_without_process();
                } else {
                    self.limit.arm(self.now, self.answer_limit());
                    self.effects.push(Effect::Spawn);
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
            Input::Deadline => self.deadline_passed(),
            Input::Exited(_) | Input::TreeGone | Input::SitterLost | Input::GuardianLost | Input::SittersEnded => {
                Err(Ignored::NoProcess)
            }
            Input::Spawned | Input::SpawnFailed(_) | Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) => {
                Err(Ignored::NotAsked)
            }
            Input::KilledPastSitter | Input::EndedWithoutSitter(_) | Input::Held(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// exec is under way. An end waits for the answer, and then acts on the process, if there is
    /// one.
    fn spawning(&mut self, input: Input) -> Reaction {
        match input {
            Input::Spawned => {
                self.born();
                Ok(())
            }
            Input::SpawnFailed(failure) => {
                self.stillborn(failure);
                Ok(())
            }
            Input::Exited(status) => {
                self.born();
                self.react(Input::Exited(status))
            }
            Input::Stop { cause, kill } => self.end_when_born(Ending::Asked, cause, kill),
            Input::GuardianLost => self.lose_guardian(),
            Input::SittersEnded => self.lose_sitters(),
            Input::SitterLost => self.tree_killed(),
            Input::KilledPastSitter => self.killed_past_sitter(),
            Input::EndedWithoutSitter(rest) => self.ended_without_sitter(rest),
            Input::Held(holder) => self.named(&holder),
            Input::Deadline => self.deadline_passed(),
            Input::TreeGone if self.tree_gone => Err(Ignored::Already),
            Input::TreeGone => {
                self.tree_gone = true;
                self.stillborn_without_answer();
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

    /// The process runs, but is not ready.
    fn spawned(&mut self, input: Input) -> Reaction {
        match input {
            Input::Ready => {
                self.become_ready();
                Ok(())
            }
            Input::StartFailed(failure) => {
                self.end = Some(Ending::failed(failure));
                self.end_process(Cause::StartFailed, false);
                Ok(())
            }
            Input::Recorded | Input::Spawned => Err(Ignored::Already),
            Input::Unhealthy(_) => Err(Ignored::NotAsked),
            other => self.running(other),
        }
    }

    /// The worker is ready.
    fn ready(&mut self, input: Input) -> Reaction {
        match input {
            Input::Unhealthy(failure) => {
                self.announce(Transition::Unhealthy(failure.clone()));
                self.end = Some(Ending::failed(failure));
                self.end_process(Cause::Unhealthy, false);
                Ok(())
            }
            Input::Recorded | Input::Spawned | Input::Ready => Err(Ignored::Already),
            Input::StartFailed(_) => Err(Ignored::NotAsked),
            other => self.running(other),
        }
    }

    /// The process runs, and no end has been ordered.
    fn running(&mut self, input: Input) -> Reaction {
        match input {
            Input::Stop { cause, kill } => {
                self.end = Some(Ending::Asked);
                self.end_process(cause, kill);
                Ok(())
            }
            Input::Exited(status) => self.exited_by_itself(status),
            Input::TreeGone => self.tree_gone_unexplained(),
            Input::SitterLost => self.tree_killed(),
            Input::GuardianLost => self.lose_guardian(),
            Input::SittersEnded => self.lose_sitters(),
            Input::Deadline => self.deadline_passed(),
            Input::Recorded | Input::Spawned | Input::Ready => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) | Input::StartFailed(_) | Input::Unhealthy(_) => {
                Err(Ignored::NotAsked)
            }
            Input::KilledPastSitter | Input::EndedWithoutSitter(_) | Input::Held(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// The end was ordered, and the leader has not exited yet.
    fn stopping(&mut self, input: Input) -> Reaction {
        match input {
            Input::Exited(status) => {
                self.leader_exited(status);
                Ok(())
            }
            Input::TreeGone => self.tree_gone_unexplained(),
            Input::Recorded | Input::Spawned => Err(Ignored::Already),
            other => self.ending(other),
        }
    }

    /// The leader has exited. After an ordered end, the rest of the tree keeps the grace; after an
    /// exit without an order, it has none.
    fn exited(&mut self, input: Input) -> Reaction {
        match input {
            Input::TreeGone => {
                self.tree_gone = true;
                self.release_ports();
                Ok(())
            }
            Input::Recorded | Input::Spawned | Input::Exited(_) => Err(Ignored::Already),
            other => self.ending(other),
        }
    }

    /// The tree is being ended and is not gone yet.
    fn ending(&mut self, input: Input) -> Reaction {
        match input {
            Input::Stop { cause, kill } => self.escalate(cause, kill),
            Input::SitterLost => self.tree_killed(),
            Input::GuardianLost => self.lose_guardian(),
            Input::SittersEnded => self.lose_sitters(),
            Input::KilledPastSitter => self.killed_past_sitter(),
            Input::EndedWithoutSitter(rest) => self.ended_without_sitter(rest),
            Input::Held(holder) => self.named(&holder),
            Input::Deadline => self.deadline_passed(),
            Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) => Err(Ignored::Ending),
            Input::Recorded | Input::Spawned | Input::Exited(_) | Input::TreeGone => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }

    /// The tree is gone; waits for its ports to be free.
    fn ports(&mut self, input: Input) -> Reaction {
        match input {
            Input::PortsFree => {
                self.release(Phase::Unrecording);
                Ok(())
            }
            Input::PortsHeld(holder) => {
                self.try_again_later(holder);
                Ok(())
            }
            Input::Unrecorded | Input::UnrecordFailed(_) => Err(Ignored::NotAsked),
            other => self.releasing(other),
        }
    }

    /// Everything is free; waits for the removal of the record.
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
            Input::PortsFree => Err(Ignored::Already),
            Input::PortsHeld(_) => Err(Ignored::NotAsked),
            other => self.releasing(other),
        }
    }

    /// The tree is gone, and only the release is left.
    fn releasing(&mut self, input: Input) -> Reaction {
        match input {
            Input::Deadline => self.deadline_passed(),
            Input::Stop { .. } | Input::Ready | Input::StartFailed(_) | Input::Unhealthy(_) => Err(Ignored::Ending),
            Input::GuardianLost | Input::SittersEnded | Input::SitterLost => Err(Ignored::Ending),
            Input::KilledPastSitter | Input::EndedWithoutSitter(_) | Input::Held(_) => Err(Ignored::Ending),
            Input::Recorded | Input::Spawned | Input::Exited(_) | Input::TreeGone => Err(Ignored::Already),
            Input::RecordFailed(_) | Input::SpawnFailed(_) => Err(Ignored::NotAsked),
            Input::PortsFree | Input::PortsHeld(_) | Input::Unrecorded | Input::UnrecordFailed(_) => {
                Err(Ignored::NotAsked)
            }
        }
    }
}
