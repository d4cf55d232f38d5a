//! Random supervisors and random histories.

use std::time::Duration;

use ostler_core::supervision::{
    AutoShutdown, Backoff, ChildSpec, Restart, Shutdown, Strategy as Restarts, SupervisorFlags,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// One run of one supervisor.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) flags: SupervisorFlags,
    /// The initial children; empty under simple_one_for_one.
    pub(crate) initial: Vec<Plan>,
    pub(crate) steps: Vec<Step>,
}

/// A child and its behaviour.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) spec: ChildSpec<Script>,
}

/// The outcome of each start in turn (later starts succeed), and the reaction to a stop request.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) starts: Vec<StartOutcome>,
    pub(crate) on_stop: OnStop,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum StartOutcome {
    Up,
    Ignored,
    Failed { counted: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnStop {
    Shutdown,
    Normal,
    Crash,
    /// Only a kill ends it.
    Never,
}

/// How a child exits on its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum How {
    Normal,
    Shutdown,
    ShutdownBecause,
    Killed,
    Crash,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The n-th child (modulo their number) exits on its own, if it is running.
    Exit {
        place: usize,
        how: How,
        counted: bool,
    },
    StartChild(Plan),
    Terminate(usize),
    Restart(usize),
    Delete(usize),
    Pass(Duration),
    Stop,
}

pub(crate) const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn script() -> impl Strategy<Value = Script> {
    let outcome = prop_oneof![
        6 => Just(StartOutcome::Up),
        1 => Just(StartOutcome::Ignored),
        2 => Just(StartOutcome::Failed { counted: true }),
        1 => Just(StartOutcome::Failed { counted: false }),
    ];
    let on_stop = prop_oneof![
        6 => Just(OnStop::Shutdown),
        1 => Just(OnStop::Normal),
        1 => Just(OnStop::Crash),
        1 => Just(OnStop::Never),
    ];
    (vec(outcome, 0..5), on_stop).prop_map(|(starts, on_stop)| Script { starts, on_stop })
}

fn plan() -> impl Strategy<Value = Plan> {
    let restart = prop_oneof![
        Just(Restart::Permanent),
        Just(Restart::Transient),
        Just(Restart::Temporary)
    ];
    let shutdown = prop_oneof![
        3 => Just(Shutdown::Timeout(Duration::from_millis(500))),
        1 => Just(Shutdown::BrutalKill),
        1 => Just(Shutdown::Infinity),
    ];
    let name = proptest::sample::select(&NAMES[..]);
    (name, script(), restart, shutdown, proptest::bool::ANY).prop_map(
        |(name, mut script, restart, shutdown, significant)| {
            if shutdown == Shutdown::Infinity && script.on_stop == OnStop::Never {
                // Otherwise the supervisor waits for it forever, which is correct but ends the
                // test.
                script.on_stop = OnStop::Shutdown;
            }
            let spec = ChildSpec {
                restart,
                shutdown,
                significant,
                ..ChildSpec::new(name, script)
            };
            Plan { spec }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        1 => Just(How::Normal),
        1 => Just(How::Shutdown),
        1 => Just(How::ShutdownBecause),
        1 => Just(How::Killed),
        3 => Just(How::Crash)
    ];
    prop_oneof![
        8 => (0..8usize, how, proptest::bool::weighted(0.9))
            .prop_map(|(place, how, counted)| Step::Exit { place, how, counted }),
        3 => plan().prop_map(Step::StartChild),
        3 => (0..8usize).prop_map(Step::Terminate),
        3 => (0..8usize).prop_map(Step::Restart),
        2 => (0..8usize).prop_map(Step::Delete),
        // Half seconds, so that the edges of periods and delays are hit.
        4 => (0..8u64).prop_map(|halves| Step::Pass(Duration::from_millis(halves * 500))),
        1 => Just(Step::Stop),
    ]
}

fn flags() -> impl Strategy<Value = SupervisorFlags> {
    let strategy = prop_oneof![
        Just(Restarts::OneForOne),
        Just(Restarts::OneForAll),
        Just(Restarts::RestForOne),
        Just(Restarts::SimpleOneForOne)
    ];
    let auto_shutdown = prop_oneof![
        Just(AutoShutdown::Never),
        Just(AutoShutdown::AnySignificant),
        Just(AutoShutdown::AllSignificant)
    ];
    let backoff = prop_oneof![
        2 => Just(None),
        1 => Just(Some(
            Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).reset(Duration::from_secs(2))
        ))
    ];
    (strategy, 0..5u32, 1..5u64, auto_shutdown, backoff).prop_map(
        |(strategy, intensity, period, auto_shutdown, backoff)| SupervisorFlags {
            strategy,
            intensity,
            period: Duration::from_secs(period),
            auto_shutdown,
            backoff,
        },
    )
}

/// Generates any supervisor with any history. The initial children are valid; those added later may
/// be invalid.
pub(crate) fn histories() -> impl Strategy<Value = History> {
    (flags(), vec(plan(), 0..5), vec(step(), 0..25)).prop_map(|(flags, mut planned, mut steps)| {
        if flags.backoff.is_some() {
            make_stops_immediate(&mut planned, &mut steps);
        }
        let mut initial: Vec<Plan> = Vec::new();
        for mut plan in planned {
            let twice = initial.iter().any(|other| other.spec.id == plan.spec.id);
            if flags.strategy == Restarts::SimpleOneForOne || twice {
                continue;
            }
            if plan.spec.validate(flags.auto_shutdown).is_err() {
                plan.spec.significant = false;
            }
            initial.push(plan);
        }
        History { flags, initial, steps }
    })
}

/// The model stops one child after another and does nothing else meanwhile. With delayed restarts,
/// its stops therefore must not take time.
fn make_stops_immediate(planned: &mut [Plan], steps: &mut [Step]) {
    let added = steps.iter_mut().filter_map(|step| match step {
        Step::StartChild(plan) => Some(plan),
        _ => None,
    });
    for plan in planned.iter_mut().chain(added) {
        if plan.spec.start.on_stop == OnStop::Never {
            plan.spec.start.on_stop = OnStop::Shutdown;
        }
    }
}
