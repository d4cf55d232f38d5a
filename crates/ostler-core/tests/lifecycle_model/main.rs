//! Random histories against an independent model of facts, and random worlds that carry out its
//! effects.

use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::{
    Cause, Effect, Ignored, Input, KILL_NOW, Lifecycle, Outcome, Rest, Rules, Start, State, Transition,
};
use ostler_core::moment::Moment;
use ostler_core::signal::Signal;
use ostler_core::spec::StopSpec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

mod facts;
mod world;

use facts::{Facts, Why};
use world::World;

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0u64), 1..50u64, 1_000..40_000u64].prop_map(Duration::from_millis)
}

fn stop_specs() -> impl Strategy<Value = StopSpec> {
    let signals = prop_oneof![Just(Signal::TERM), Just(Signal::KILL)];
    (signals, durations()).prop_map(|(signal, grace)| StopSpec::new(signal, grace))
}

fn rules() -> impl Strategy<Value = Rules> {
    (
        durations(),
        durations(),
        stop_specs(),
        stop_specs(),
        durations(),
        any::<bool>(),
        prop_oneof![1 => Just(Start::AtOnce), 2 => Just(Start::Alive), 3 => Just(Start::Shown)],
    )
        .prop_map(
            |(start_timeout, min_uptime, stop, host_death, release_timeout, has_ports, start)| Rules {
                start_timeout,
                start,
                min_uptime,
                stop,
                host_death,
                release_timeout,
                has_ports,
            },
        )
}

fn statuses() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        Just(ExitStatus::Code(0)),
        Just(ExitStatus::Code(3)),
        Just(ExitStatus::Signal(Signal::KILL)),
        Just(ExitStatus::OomKilled)
    ]
}

fn inputs() -> impl Strategy<Value = Input> {
    let failure = |reason| Failure::new(reason, "x");
    prop_oneof![
        4 => Just(Input::Recorded),
        1 => Just(Input::RecordFailed(failure(Reason::StoreFailed))),
        4 => Just(Input::Spawned),
        1 => Just(Input::SpawnFailed(failure(Reason::ProcessLimit))),
        3 => Just(Input::Ready),
        1 => prop_oneof![Just(Reason::PortInUse), Just(Reason::ReadyTimeout)].prop_map(move |r| Input::StartFailed(failure(r))),
        1 => Just(Input::Unhealthy(failure(Reason::HeartbeatLost))),
        2 => any::<bool>().prop_map(|kill| Input::Stop { cause: Cause::PoolStop, kill }),
        3 => statuses().prop_map(Input::Exited),
        3 => Just(Input::TreeGone),
        2 => Just(Input::PortsFree),
        2 => Just(Input::PortsHeld("held".into())),
        2 => Just(Input::Unrecorded),
        1 => Just(Input::UnrecordFailed("full".into())),
        1 => Just(Input::GuardianLost),
        1 => Just(Input::SittersEnded),
        1 => Just(Input::SitterLost),
        1 => Just(Input::KilledPastSitter),
        2 => rests().prop_map(Input::EndedWithoutSitter),
        1 => Just(Input::Held("pid 1".into())),
        4 => Just(Input::Deadline),
    ]
}

fn rests() -> impl Strategy<Value = Rest> {
    prop_oneof![
        Just(Rest::Gone),
        Just(Rest::Unseen("no cgroup".into())),
        Just(Rest::Left("pid 7".into())),
    ]
}

/// How time goes on before an input.
#[derive(Debug, Clone)]
enum Pause {
    By(Duration),
    ToDeadline,
}

fn pauses() -> impl Strategy<Value = Pause> {
    prop_oneof![3 => (0..2_000u64).prop_map(|ms| Pause::By(Duration::from_millis(ms))), 1 => Just(Pause::ToDeadline)]
}

/// What every history keeps to, whatever the inputs.
#[derive(Default)]
struct Rulebook {
    spawns: usize,
    ends: usize,
    dones: Vec<Outcome>,
    released: usize,
    unseen: bool,
    rank: usize,
}

impl Rulebook {
    fn take(&mut self, effects: &[Effect]) {
        for (index, effect) in effects.iter().enumerate() {
            let overdue = matches!(effects.get(index + 1), Some(Effect::ReleaseOverdue(_)));
            assert!(self.dones.is_empty(), "{effect:?} after the last effect");
            match effect {
                Effect::Spawn => self.spawns += 1,
                Effect::End(_) | Effect::KillPastSitter | Effect::EndWithoutSitter => self.ends += 1,
                Effect::Done(outcome) => self.dones.push(outcome.clone()),
                Effect::Announce {
                    what: Transition::Failed(_),
                    ..
                } if overdue => {}
                Effect::Announce { what, .. } => self.hear(what),
                Effect::ReleaseOverdue(_) => assert!(index > 0, "an overdue release that is not announced"),
                Effect::Record | Effect::WatchReady | Effect::WatchHealth => {}
                Effect::CheckPorts | Effect::Unrecord | Effect::NameHolders => {}
            }
        }
    }

    /// In the order of the states; only a repeated stopping and an overdue failure may come out of
    /// turn.
    fn hear(&mut self, what: &Transition) {
        let rank = match what {
            Transition::Reserved => 1,
            Transition::Spawned => 2,
            Transition::Ready => 3,
            Transition::Unhealthy(_) => 4,
            Transition::Stopping {
                cause: Cause::ReleaseRetry,
                ..
            } => return,
            Transition::Stopping { .. } => 5,
            Transition::Exited(_) => 6,
            Transition::Failed(_) => 7,
            Transition::Released | Transition::Unseen(_) => 8,
        };
        self.released += usize::from(rank == 8);
        self.unseen |= matches!(what, Transition::Unseen(_));
        let escalated = matches!(what, Transition::Stopping { stop, .. } if *stop == KILL_NOW);
        assert!(rank > self.rank || escalated, "{what:?} after rank {}", self.rank);
        self.rank = self.rank.max(rank);
    }
}

fn config() -> ProptestConfig {
    let failures = FileFailurePersistence::Direct("tests/lifecycle_model/regressions.txt");
    ProptestConfig {
        failure_persistence: Some(Box::new(failures)),
        ..ProptestConfig::with_cases(4_000)
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_histories_agree_with_the_facts(
        rules in rules(),
        history in prop::collection::vec((pauses(), inputs()), 0..60),
    ) {
        let mut now = Moment::ORIGIN;
        let (mut life, first) = Lifecycle::new(rules.clone(), now);
        let mut facts = Facts::new(rules, now);
        let mut book = Rulebook::default();
        prop_assert_eq!(&first, &[Effect::Record]);
        for (pause, input) in history {
            now = match (pause, life.deadline()) {
                (Pause::ToDeadline, Some(deadline)) => now.max(deadline),
                (Pause::ToDeadline, None) => now,
                (Pause::By(pause), _) => now + pause,
            };
            let before = life.clone();
            let result = life.try_step(input.clone(), now);
            facts.take(&input, now);
            if let Ok(effects) = &result {
                book.take(effects);
                facts.hear(effects);
            } else {
                prop_assert_eq!((before.state(), before.deadline()), (life.state(), life.deadline()), "ignored, yet changed");
            }
            prop_assert_eq!(life.state(), facts.state(), "after {:?}: {:?}", input, &facts);
            prop_assert_eq!(book.spawns, usize::from(facts.spawn_asked()), "{:?}", &facts);
            if facts.must_be_ended() {
                prop_assert!(book.ends > 0, "a process whose end was not ordered: {:?}", &facts);
            }
            if matches!(input, Input::Deadline) && result.is_ok() {
                prop_assert!(life.deadline().is_none_or(|next| next > now), "a deadline that turns in place");
            }
            prop_assert_eq!(book.dones.len(), usize::from(facts.over));
            prop_assert_eq!(book.released, usize::from(facts.over));
            prop_assert_eq!(life.state() == State::Released, life.clone().try_step(Input::Deadline, now) == Err(Ignored::Over));
            if let Some(outcome) = book.dones.first() {
                prop_assert_eq!(Why::of(outcome), facts.why());
                prop_assert_eq!(book.unseen, facts.unseen);
                prop_assert_eq!(life.deadline(), None);
            }
        }
    }

    #[test]
    fn after_a_stop_every_world_that_answers_reaches_its_release(
        rules in rules(),
        world in world::worlds(),
        stop_after in durations(),
        kill in any::<bool>(),
    ) {
        let patience = world.patience(&rules);
        let mut book = Rulebook::default();
        let mut world = World::new(rules, world);
        world.later(stop_after, Input::Stop { cause: Cause::InstanceStop, kill });
        let released = world.run(&mut book);
        prop_assert_eq!(book.dones.len(), 1, "not released: {:?}", world.life.state());
        prop_assert_eq!(world.alive, 0, "a process is left");
        prop_assert!(!world.recorded, "a record is left");
        let took = released.since(Moment::ORIGIN + stop_after);
        prop_assert!(took <= patience, "took {:?}, more than {:?}", took, patience);
    }
}
