//! A world in which a worker lives: it does what the effects say, late, in any order, and not at
//! the first try.

use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::{Effect, Input, KILL_NOW, Lifecycle, Rest, Rules};
use ostler_core::moment::Moment;
use ostler_core::signal::Signal;
use proptest::prelude::*;

use super::Rulebook;

/// How a world is.
#[derive(Debug, Clone)]
pub(crate) struct Manners {
    /// How long each answer takes, in turn.
    delays: Vec<u16>,
    record_fails: bool,
    spawn_fails: bool,
    /// It gets ready this long after its spawn, if at all.
    ready_after: Option<u16>,
    /// It ends by itself this long after its spawn, if at all.
    dies_after: Option<u16>,
    /// The guardian dies this long after the start, if at all.
    guardian_dies_after: Option<u16>,
    /// And its sitters die with it.
    sitters_die_too: bool,
    /// What the host ends itself is not proven to be gone.
    unproven: bool,
    /// It ends at a signal other than KILL.
    obeys: bool,
    /// So many KILLs of the tree do nothing.
    survives_kills: u8,
    ports_held: u8,
    unrecord_fails: u8,
    /// The tree's end is reported before its leader's.
    tree_first: bool,
}

pub(crate) fn worlds() -> impl Strategy<Value = Manners> {
    let answers = (
        prop::collection::vec(0..300u16, 1..8),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    let worker = (
        prop::option::of(0..2_000u16),
        prop::option::of(0..5_000u16),
        any::<bool>(),
        0..3u8,
        any::<bool>(),
    );
    let rest = (
        0..6u8,
        0..6u8,
        prop::option::weighted(0.3, 0..5_000u16),
        any::<bool>(),
        any::<bool>(),
    );
    (answers, worker, rest).prop_map(|(answers, worker, rest)| Manners {
        delays: answers.0,
        record_fails: answers.1,
        spawn_fails: answers.2,
        ready_after: worker.0,
        dies_after: worker.1,
        obeys: worker.2,
        survives_kills: worker.3,
        tree_first: worker.4,
        ports_held: rest.0,
        unrecord_fails: rest.1,
        guardian_dies_after: rest.2,
        sitters_die_too: rest.3,
        unproven: rest.4,
    })
}

impl Manners {
    /// The longest that a release can take in this world: every answer late, every grace and every
    /// kill used up.
    fn answers(&self) -> u32 {
        12 + u32::from(self.ports_held) + u32::from(self.unrecord_fails)
    }

    pub(crate) fn patience(&self, rules: &Rules) -> Duration {
        let grace = rules.stop.grace.max(rules.host_death.grace);
        let kills = u32::from(self.survives_kills) + 2;
        grace * 2 + (rules.release_timeout + Duration::from_secs(1)) * kills + Duration::from_secs(1) * self.answers()
    }
}

/// What happens in the world itself.
#[derive(Debug, Clone)]
enum Happening {
    Reported(Input),
    Dies(ExitStatus),
    TreeKilled,
}

pub(crate) struct World {
    pub(crate) life: Lifecycle,
    manners: Manners,
    now: Moment,
    /// What comes when; the earliest first, ties in the order of their making.
    agenda: Vec<(Moment, Happening)>,
    turn: usize,
    /// Processes of the tree: none, or the leader and one child.
    pub(crate) alive: u8,
    leader: bool,
    pub(crate) recorded: bool,
    /// The order to spawn was given: to the guardian that may die.
    ordered: bool,
    guardian_dead: bool,
}

impl World {
    pub(crate) fn new(rules: Rules, manners: Manners) -> Self {
        let now = Moment::ORIGIN;
        let (life, effects) = Lifecycle::new(rules, now);
        let mut world = Self {
            life,
            manners,
            now,
            agenda: Vec::new(),
            turn: 0,
            alive: 0,
            leader: false,
            recorded: false,
            ordered: false,
            guardian_dead: false,
        };
        if let Some(ms) = world.manners.guardian_dies_after {
            world.later(millis(ms), Input::GuardianLost);
        }
        effects.into_iter().for_each(|effect| world.obey(effect));
        world
    }

    pub(crate) fn later(&mut self, pause: Duration, input: Input) {
        self.agenda.push((self.now + pause, Happening::Reported(input)));
    }

    fn happens(&mut self, pause: Duration, what: Happening) {
        self.agenda.push((self.now + pause, what));
    }

    fn answer(&mut self, input: Input) {
        let delay = self.manners.delays[self.turn % self.manners.delays.len()];
        self.turn += 1;
        self.later(millis(delay), input);
    }

    /// Lives until the release, and returns its time; gives up after so many events.
    pub(crate) fn run(&mut self, book: &mut Rulebook) -> Moment {
        for _ in 0..5_000 {
            let next = self
                .agenda
                .iter()
                .enumerate()
                .min_by_key(|(index, (at, _))| (*at, *index));
            let next = next.map(|(index, (at, _))| (index, *at));
            let effects = match (next, self.life.deadline()) {
                (Some((_, at)), Some(deadline)) if deadline < at => self.deadline(deadline),
                (None, Some(deadline)) => self.deadline(deadline),
                (Some((index, at)), _) => {
                    self.now = self.now.max(at);
                    match self.agenda.remove(index).1 {
                        Happening::Reported(input) => self.tell(input),
                        what => {
                            self.happen(&what);
                            Vec::new()
                        }
                    }
                }
                (None, None) => panic!("nothing will ever happen in {:?}", self.life.state()),
            };
            book.take(&effects);
            let done = effects.iter().any(|effect| matches!(effect, Effect::Done(_)));
            effects.into_iter().for_each(|effect| self.obey(effect));
            if done {
                break;
            }
        }
        self.now
    }

    fn deadline(&mut self, deadline: Moment) -> Vec<Effect> {
        self.now = self.now.max(deadline);
        self.life.step(Input::Deadline, self.now)
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        match &input {
            // Nothing is bound to the guardian that dies: the next one takes the order.
            Input::GuardianLost if !self.ordered => return Vec::new(),
            Input::GuardianLost => self.lose_guardian(),
            Input::Recorded => self.recorded = true,
            Input::Unrecorded => self.recorded = false,
            _ => {}
        }
        self.life.step(input, self.now)
    }

    /// The sitter ends the tree of a lost guardian. When it dies too, the kernel kills the leader,
    /// and no more news comes.
    fn lose_guardian(&mut self) {
        self.guardian_dead = true;
        if !self.manners.sitters_die_too {
            return self.happens(millis(5), Happening::TreeKilled);
        }
        if std::mem::take(&mut self.leader) {
            self.alive -= 1;
        }
        self.agenda.retain(|(_, what)| {
            let from_sitter = [Input::Spawned, Input::TreeGone];
            !matches!(what, Happening::Dies(_) | Happening::TreeKilled)
                && !matches!(what, Happening::Reported(Input::Exited(_) | Input::SpawnFailed(_)))
                && !matches!(what, Happening::Reported(input) if from_sitter.contains(input))
        });
        self.later(millis(5), Input::SittersEnded);
    }

    fn happen(&mut self, what: &Happening) {
        match what {
            Happening::Reported(_) => {}
            Happening::Dies(status) => {
                if std::mem::take(&mut self.leader) {
                    self.alive -= 1;
                    self.answer(Input::Exited(*status));
                }
            }
            Happening::TreeKilled => {
                if self.alive > 0 {
                    let tree_first = self.manners.tree_first;
                    if tree_first {
                        self.later(Duration::ZERO, Input::TreeGone);
                    }
                    self.happen(&Happening::Dies(ExitStatus::Signal(Signal::KILL)));
                    self.alive = 0;
                    if !tree_first {
                        self.answer(Input::TreeGone);
                    }
                }
            }
        }
    }

    fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Record if self.manners.record_fails => {
                self.answer(Input::RecordFailed(Failure::new(Reason::StoreFailed, "full")));
            }
            Effect::Record => self.answer(Input::Recorded),
            Effect::Spawn => self.spawn(),
            Effect::End(_) if self.guardian_dead => panic!("an order to a guardian that is dead"),
            Effect::KillPastSitter => {
                match self.manners.survives_kills.checked_sub(1) {
                    Some(left) => self.manners.survives_kills = left,
                    None => self.happens(millis(1), Happening::TreeKilled),
                }
                self.answer(Input::KilledPastSitter);
            }
            Effect::EndWithoutSitter => {
                let rest = match self.manners.survives_kills.checked_sub(1) {
                    Some(left) => {
                        self.manners.survives_kills = left;
                        Rest::Left("pid 7".into())
                    }
                    None => {
                        (self.alive, self.leader) = (0, false);
                        match self.manners.unproven {
                            true => Rest::Unseen("no cgroup".into()),
                            false => Rest::Gone,
                        }
                    }
                };
                self.answer(Input::EndedWithoutSitter(rest));
            }
            Effect::End(stop) if stop == KILL_NOW && self.manners.survives_kills > 0 => {
                self.manners.survives_kills -= 1
            }
            Effect::End(stop) => {
                if self.manners.obeys || stop.signal == Signal::KILL {
                    self.happens(millis(1), Happening::Dies(ExitStatus::Signal(stop.signal)));
                }
                self.happens(stop.grace + millis(2), Happening::TreeKilled);
            }
            Effect::CheckPorts => {
                let held = self.manners.ports_held.checked_sub(1);
                self.manners.ports_held = held.unwrap_or(0);
                self.answer(held.map_or(Input::PortsFree, |_| Input::PortsHeld("7001".into())));
            }
            Effect::Unrecord => {
                let failing = self.manners.unrecord_fails.checked_sub(1);
                self.manners.unrecord_fails = failing.unwrap_or(0);
                self.answer(failing.map_or(Input::Unrecorded, |_| Input::UnrecordFailed("full".into())));
            }
            Effect::NameHolders => self.answer(Input::Held("pid 7".into())),
            Effect::WatchReady => {
                if let Some(ms) = self.manners.ready_after {
                    self.later(millis(ms), Input::Ready);
                }
            }
            Effect::Done(_) => assert_eq!((self.alive, self.recorded), (0, false), "done, and something is left"),
            Effect::WatchHealth | Effect::Announce { .. } | Effect::ReleaseOverdue(_) => {}
        }
    }

    fn spawn(&mut self) {
        assert!(self.recorded, "a process that is on no record");
        self.ordered = true;
        if self.manners.spawn_fails {
            return self.answer(Input::SpawnFailed(Failure::new(Reason::ProcessLimit, "EAGAIN")));
        }
        (self.alive, self.leader) = (2, true);
        self.answer(Input::Spawned);
        if let Some(ms) = self.manners.dies_after {
            self.happens(millis(ms), Happening::Dies(ExitStatus::Code(0)));
        }
    }
}

fn millis(ms: u16) -> Duration {
    Duration::from_millis(u64::from(ms))
}
