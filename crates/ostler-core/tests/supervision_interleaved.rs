//! Invariants of the supervision policy when starts and stops take time and other events arrive in
//! between, in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use ostler_core::exit::ExitReason;
use ostler_core::moment::Moment;
use ostler_core::supervision::{
    AutoShutdown, Backoff, CallId, ChildKey, ChildSpec, ChildStatus, Effect, Event, Policy, Request, Restart, Shutdown,
    Strategy as Restarts, SupervisorFlags, Target,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// A start in progress completes.
    Start {
        which: usize,
        outcome: Outcome,
    },
    /// A running child exits, on request or on its own.
    Exit {
        which: usize,
        abnormal: bool,
    },
    Call(Call, usize),
    Pass(u64),
    /// An event about a past incarnation.
    Stale(usize),
    Stop,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Up,
    Ignored,
    Failed,
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Start(Restart, Shutdown),
    Terminate,
    Restart,
    Delete,
}

/// The state of an incarnation, as the world sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Starting,
    Up,
    Asked,
}

struct World {
    policy: Policy<()>,
    now: Moment,
    lives: BTreeMap<ChildKey, (u64, Life)>,
    gone: Vec<(ChildKey, u64)>,
    unanswered: Vec<CallId>,
    calls: u64,
    ended: bool,
    /// The last child stopped while the supervisor was ending.
    last_stopped: Option<ChildKey>,
    /// Starts cancelled on request: these children are stopped if their start succeeds.
    cancelled: Vec<ChildKey>,
    stopping: bool,
    was_ending: bool,
    in_order: bool,
}

impl World {
    fn new(flags: SupervisorFlags, children: Vec<ChildSpec<()>>) -> Self {
        let in_order = flags.strategy != Restarts::SimpleOneForOne;
        let mut world = World {
            policy: Policy::new(flags, children, 3).expect("valid"),
            now: Moment::ORIGIN,
            lives: BTreeMap::new(),
            gone: Vec::new(),
            unanswered: Vec::new(),
            calls: 0,
            ended: false,
            last_stopped: None,
            cancelled: Vec::new(),
            stopping: false,
            was_ending: false,
            in_order,
        };
        world.feed(Event::Begin);
        world
    }

    fn feed(&mut self, event: Event<()>) {
        self.was_ending = self.policy.is_ending();
        for effect in self.policy.handle(event, self.now) {
            assert!(
                !self.ended || matches!(effect, Effect::Reply(..)),
                "{effect:?} after End"
            );
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect<()>) {
        match effect {
            Effect::Start { child, .. } => {
                let before = self.lives.insert(child.key, (child.incarnation, Life::Starting));
                assert_eq!(
                    before, None,
                    "{child} was started while its previous incarnation existed"
                );
                assert!(!self.stopping, "{child} was started by a stopping supervisor");
            }
            Effect::CancelStart(key, incarnation) => {
                assert_eq!(self.lives[&key], (incarnation, Life::Starting));
                self.cancelled.push(key);
            }
            Effect::Stop(key, incarnation) => {
                assert_eq!(
                    self.lives[&key],
                    (incarnation, Life::Up),
                    "only running children are stopped, and only once"
                );
                self.lives.insert(key, (incarnation, Life::Asked));
                self.note_stop(key);
            }
            Effect::Kill(key, incarnation) => {
                let (present, life) = self.lives[&key];
                assert_eq!(present, incarnation);
                assert_ne!(life, Life::Starting);
                if life == Life::Up {
                    self.note_stop(key);
                }
                self.lives.insert(key, (incarnation, Life::Asked));
            }
            Effect::Reply(call, _) => {
                let place = self.unanswered.iter().position(|waiting| *waiting == call);
                self.unanswered.remove(place.expect("each request is answered once"));
            }
            Effect::Report(_) | Effect::Ready => {}
            Effect::End(_) => {
                assert!(
                    self.lives.is_empty(),
                    "supervisor ended with children left: {:?}",
                    self.lives
                );
                self.ended = true;
            }
        }
    }

    /// A supervisor that ends stops its children right to left, one at a time.
    fn note_stop(&mut self, key: ChildKey) {
        if self.was_ending && self.in_order && !self.cancelled.contains(&key) {
            assert!(self.last_stopped.is_none_or(|last| last > key), "not in reverse order");
            self.last_stopped = Some(key);
        }
    }

    fn nth(&self, which: usize, matches: impl Fn(Life) -> bool) -> Option<(ChildKey, u64)> {
        let fitting: Vec<(ChildKey, u64)> = self
            .lives
            .iter()
            .filter(|(_, (_, life))| matches(*life))
            .map(|(key, (n, _))| (*key, *n))
            .collect();
        (!fitting.is_empty()).then(|| fitting[which % fitting.len()])
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Start { which, outcome } => self.complete_start(*which, *outcome),
            Step::Exit { which, abnormal } => self.exit(*which, *abnormal),
            Step::Call(call, place) => self.call(*call, *place),
            Step::Pass(millis) => self.now = self.now + Duration::from_millis(*millis),
            Step::Stale(which) if !self.gone.is_empty() => {
                let (key, incarnation) = self.gone[which % self.gone.len()];
                let before = self.policy.which_children();
                self.feed(Event::Ended {
                    key,
                    incarnation,
                    reason: ExitReason::Killed,
                    counted: true,
                });
                self.feed(Event::Started(key, incarnation));
                assert_eq!(
                    self.policy.which_children(),
                    before,
                    "an event of an old incarnation changed the state"
                );
            }
            Step::Stale(_) => {}
            Step::Stop => {
                self.feed(Event::Stop);
                self.stopping = true;
            }
        }
        self.tick();
    }

    fn tick(&mut self) {
        let mut ticks = 0;
        while self.policy.next_deadline().is_some_and(|due| due <= self.now) {
            self.feed(Event::Tick);
            ticks += 1;
            assert!(ticks < 1000, "a deadline never passes");
        }
    }

    fn complete_start(&mut self, which: usize, outcome: Outcome) {
        let Some((key, incarnation)) = self.nth(which, |life| life == Life::Starting) else {
            return;
        };
        match outcome {
            Outcome::Up => {
                self.lives.insert(key, (incarnation, Life::Up));
                self.feed(Event::Started(key, incarnation));
            }
            Outcome::Ignored => {
                self.bury(key, incarnation);
                self.feed(Event::Ignored(key, incarnation));
            }
            Outcome::Failed => {
                self.bury(key, incarnation);
                let reason = ExitReason::failed("no start");
                self.feed(Event::StartFailed {
                    key,
                    incarnation,
                    reason,
                    counted: true,
                });
            }
        }
    }

    fn bury(&mut self, key: ChildKey, incarnation: u64) {
        self.lives.remove(&key);
        self.gone.push((key, incarnation));
    }

    fn exit(&mut self, which: usize, abnormal: bool) {
        let Some((key, incarnation)) = self.nth(which, |life| life != Life::Starting) else {
            return;
        };
        self.bury(key, incarnation);
        let reason = if abnormal {
            ExitReason::failed("crash")
        } else {
            ExitReason::SHUTDOWN
        };
        self.feed(Event::Ended {
            key,
            incarnation,
            reason,
            counted: true,
        });
    }

    fn call(&mut self, call: Call, place: usize) {
        let id = ["a", "b", "c", "d", "e"][place % 5];
        let request = match call {
            Call::Start(restart, shutdown) => Request::StartChild(ChildSpec {
                restart,
                shutdown,
                ..ChildSpec::new(id, ())
            }),
            Call::Terminate if self.in_order => Request::TerminateChild(Target::Id(id.into())),
            Call::Terminate => match self.nth(place, |_| true) {
                Some((key, _)) => Request::TerminateChild(Target::Key(key)),
                None => return,
            },
            Call::Restart => Request::RestartChild(id.into()),
            Call::Delete => Request::DeleteChild(id.into()),
        };
        let call = CallId(self.calls);
        self.calls += 1;
        self.unanswered.push(call);
        self.feed(Event::Call(call, request));
    }

    /// Stops the supervisor and completes everything in progress.
    fn finish(&mut self) {
        self.step(&Step::Stop);
        for _ in 0..200 {
            self.step(&Step::Start {
                which: 0,
                outcome: Outcome::Failed,
            });
            self.step(&Step::Exit {
                which: 0,
                abnormal: false,
            });
        }
        assert!(
            self.ended,
            "supervisor has not ended: {:?}",
            self.policy.which_children()
        );
        assert_eq!(self.unanswered, [], "unanswered requests");
        assert_eq!(self.policy.which_children(), []);
    }

    /// Asserts that the policy's view of the children equals the world's.
    fn assert_views_agree(&self) {
        for info in self.policy.which_children() {
            let life = self.lives.get(&info.child.key).map(|(_, life)| *life);
            match info.status {
                ChildStatus::Undefined | ChildStatus::Restarting => assert_eq!(life, None),
                ChildStatus::Starting => assert_eq!(life, Some(Life::Starting)),
                ChildStatus::Running => assert_eq!(life, Some(Life::Up)),
                ChildStatus::Stopping => assert!(life.is_none_or(|life| life == Life::Asked)),
            }
        }
    }
}

fn restart() -> impl Strategy<Value = Restart> {
    prop_oneof![
        Just(Restart::Permanent),
        Just(Restart::Transient),
        Just(Restart::Temporary)
    ]
}

fn shutdown() -> impl Strategy<Value = Shutdown> {
    prop_oneof![
        Just(Shutdown::BrutalKill),
        Just(Shutdown::Infinity),
        Just(Shutdown::Timeout(Duration::ZERO)),
        Just(Shutdown::Timeout(Duration::from_millis(300)))
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![5 => Just(Outcome::Up), 1 => Just(Outcome::Ignored), 2 => Just(Outcome::Failed)];
    let call = prop_oneof![
        (restart(), shutdown()).prop_map(|(restart, shutdown)| Call::Start(restart, shutdown)),
        Just(Call::Terminate),
        Just(Call::Restart),
        Just(Call::Delete)
    ];
    prop_oneof![
        10 => (0..8usize, outcome).prop_map(|(which, outcome)| Step::Start { which, outcome }),
        8 => (0..8usize, proptest::bool::ANY).prop_map(|(which, abnormal)| Step::Exit { which, abnormal }),
        8 => (call, 0..8usize).prop_map(|(call, place)| Step::Call(call, place)),
        3 => (0..500u64).prop_map(Step::Pass),
        1 => (0..8usize).prop_map(Step::Stale),
    ]
}

fn flags() -> impl Strategy<Value = SupervisorFlags> {
    let strategy = prop_oneof![
        Just(Restarts::OneForOne),
        Just(Restarts::OneForAll),
        Just(Restarts::RestForOne),
        Just(Restarts::SimpleOneForOne)
    ];
    let backoff = proptest::option::of(Just(
        Backoff::new(Duration::from_millis(50), Duration::from_millis(400)).jitter(0.5),
    ));
    (strategy, 1..8u32, backoff).prop_map(|(strategy, intensity, backoff)| SupervisorFlags {
        strategy,
        intensity,
        period: Duration::from_secs(1),
        auto_shutdown: AutoShutdown::Never,
        backoff,
    })
}

fn cases() -> u32 {
    std::env::var("OSTLER_HISTORIES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_for_any_interleaving(
        flags in flags(),
        kinds in vec((restart(), shutdown()), 0..5),
        steps in vec(step(), 0..60),
        stop in proptest::option::weighted(0.3, 0..60usize),
    ) {
        let children = match flags.strategy {
            Restarts::SimpleOneForOne => Vec::new(),
            _ => kinds
                .into_iter()
                .zip(["a", "b", "c", "d", "e"])
                .map(|((restart, shutdown), id)| ChildSpec { restart, shutdown, ..ChildSpec::new(id, ()) })
                .collect(),
        };
        let mut world = World::new(flags, children);
        for (place, step) in steps.iter().enumerate() {
            if stop == Some(place) {
                world.step(&Step::Stop);
            }
            world.step(step);
            world.assert_views_agree();
        }
        world.finish();
    }
}
