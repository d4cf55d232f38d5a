//! Random supervision trees and histories, in a form that both sides understand.

use ostler_supervisor::{AutoShutdown, Restart, Strategy as Restarts};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// One run of one tree.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) flags: Flags,
    /// The template of a dynamic supervisor.
    pub(crate) template: Kind,
    pub(crate) children: Vec<Plan>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags {
    pub(crate) strategy: Restarts,
    pub(crate) intensity: u32,
    /// In seconds.
    pub(crate) period: u64,
    pub(crate) auto_shutdown: AutoShutdown,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) restart: Restart,
    pub(crate) significant: bool,
    pub(crate) brutal: bool,
}

/// A child. Its name is unique in the whole tree.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) body: Body,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Worker(Script),
    Supervisor(Flags, Vec<Plan>),
}

/// The outcome of each start in turn (later starts succeed), and the reaction to a stop.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) starts: Vec<&'static str>,
    pub(crate) on_stop: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Exit(String, &'static str),
    StartChild(String, Plan),
    StartSimple(String, Script),
    TerminateSimple(String),
    Terminate(String, String),
    Restart(String, String),
    Delete(String, String),
    /// In milliseconds.
    Wait(u64),
    Stop,
}

impl History {
    pub(crate) fn is_simple(&self) -> bool {
        self.flags.strategy == Restarts::SimpleOneForOne
    }

    /// The history as an Erlang term.
    pub(crate) fn term(&self) -> String {
        let flags = match self.is_simple() {
            true => {
                let Flags {
                    intensity,
                    period,
                    auto_shutdown,
                    ..
                } = self.flags;
                let Kind {
                    restart, significant, ..
                } = self.template;
                let (auto, restart) = (auto(auto_shutdown), restart_term(restart));
                let shutdown = self.shutdown_of_template();
                format!("{{simple, {intensity}, {period}, {auto}, {{{restart}, {significant}, {shutdown}}}}}")
            }
            false => self.flags.term(),
        };
        let steps: Vec<String> = self.steps.iter().map(Step::term).collect();
        format!("{{{flags}, {}, [{}]}}", terms(&self.children), steps.join(", "))
    }

    /// All dynamic children share it, so it must also fit those that never stop.
    fn shutdown_of_template(&self) -> &'static str {
        match (self.template.brutal, self.has_stubborn_children()) {
            (true, _) => "brutal_kill",
            (false, true) => "300",
            (false, false) => "5000",
        }
    }

    pub(crate) fn has_stubborn_children(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step, Step::StartSimple(_, script) if script.on_stop == "never"))
    }
}

impl Flags {
    fn term(&self) -> String {
        let strategy = match self.strategy {
            Restarts::OneForOne => "one_for_one",
            Restarts::OneForAll => "one_for_all",
            Restarts::RestForOne => "rest_for_one",
            Restarts::SimpleOneForOne => unreachable!("only at the top, and written in another form"),
        };
        format!(
            "{{{strategy}, {}, {}, {}}}",
            self.intensity,
            self.period,
            auto(self.auto_shutdown)
        )
    }
}

fn auto(auto_shutdown: AutoShutdown) -> &'static str {
    match auto_shutdown {
        AutoShutdown::Never => "never",
        AutoShutdown::AnySignificant => "any_significant",
        AutoShutdown::AllSignificant => "all_significant",
    }
}

fn restart_term(restart: Restart) -> &'static str {
    match restart {
        Restart::Permanent => "permanent",
        Restart::Transient => "transient",
        Restart::Temporary => "temporary",
    }
}

fn terms(plans: &[Plan]) -> String {
    let terms: Vec<String> = plans.iter().map(Plan::term).collect();
    format!("[{}]", terms.join(", "))
}

impl Plan {
    fn term(&self) -> String {
        let Kind {
            restart,
            significant,
            brutal,
        } = self.kind;
        let restart = restart_term(restart);
        let (shutdown, kind, body) = match &self.body {
            Body::Worker(script) if brutal => ("brutal_kill", "worker", script.term()),
            Body::Worker(script) if script.on_stop == "never" => ("2", "worker", script.term()),
            Body::Worker(script) => ("5000", "worker", script.term()),
            Body::Supervisor(flags, children) => (
                "infinity",
                "supervisor",
                format!("{{{}, {}}}", flags.term(), terms(children)),
            ),
        };
        format!("{{{}, {restart}, {significant}, {shutdown}, {kind}, {body}}}", self.id)
    }
}

impl Script {
    fn term(&self) -> String {
        format!("{{[{}], {}}}", self.starts.join(", "), self.on_stop)
    }
}

impl Step {
    fn term(&self) -> String {
        match self {
            Step::Exit(child, "shutdown_done") => format!("{{exit, {child}, {{shutdown, done}}}}"),
            Step::Exit(child, reason) => format!("{{exit, {child}, {reason}}}"),
            Step::StartChild(supervisor, plan) => format!("{{start_child, {supervisor}, {}}}", plan.term()),
            Step::StartSimple(child, script) => {
                format!(
                    "{{start_simple, {{{child}, [{}], {}}}}}",
                    script.starts.join(", "),
                    script.on_stop
                )
            }
            Step::TerminateSimple(child) => format!("{{terminate_simple, {child}}}"),
            Step::Terminate(supervisor, child) => format!("{{terminate, {supervisor}, {child}}}"),
            Step::Restart(supervisor, child) => format!("{{restart, {supervisor}, {child}}}"),
            Step::Delete(supervisor, child) => format!("{{delete, {supervisor}, {child}}}"),
            Step::Wait(time) => format!("{{wait, {time}}}"),
            Step::Stop => "stop".into(),
        }
    }
}

fn script() -> impl Strategy<Value = Script> {
    let starts = vec(select(&["up", "up", "up", "up", "ignore", "fail", "fail"][..]), 0..5);
    let on_stop = select(
        &[
            "shutdown", "shutdown", "shutdown", "shutdown", "normal", "crash", "never",
        ][..],
    );
    (starts, on_stop).prop_map(|(starts, on_stop)| Script { starts, on_stop })
}

fn flags() -> impl Strategy<Value = Flags> {
    let strategy = select(&[Restarts::OneForOne, Restarts::OneForAll, Restarts::RestForOne][..]);
    (strategy, 0..5u32, auto_shutdown()).prop_map(|(strategy, intensity, auto_shutdown)| Flags {
        strategy,
        intensity,
        period: 3600,
        auto_shutdown,
    })
}

fn auto_shutdown() -> impl Strategy<Value = AutoShutdown> {
    select(
        &[
            AutoShutdown::Never,
            AutoShutdown::AnySignificant,
            AutoShutdown::AllSignificant,
        ][..],
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let restart = select(&[Restart::Permanent, Restart::Transient, Restart::Temporary][..]);
    (restart, proptest::bool::weighted(0.3), proptest::bool::weighted(0.15)).prop_map(
        |(restart, significant, brutal)| Kind {
            restart,
            significant,
            brutal,
        },
    )
}

fn worker(ids: &'static [&'static str]) -> impl Strategy<Value = Plan> {
    (select(ids), kind(), script()).prop_map(|(id, kind, script)| Plan {
        id: id.into(),
        kind,
        body: Body::Worker(script),
    })
}

const TOP: &[&str] = &["a", "b", "c", "d"];
const SUPERVISORS: &[&str] = &["s", "u"];
const NESTED: &[&str] = &["sa", "sb", "sc"];
const NESTED_TOO: &[&str] = &["ua", "ub", "uc"];

fn nested(id: &'static str, ids: &'static [&'static str]) -> impl Strategy<Value = Plan> {
    (kind(), flags(), vec(worker(ids), 0..3)).prop_map(move |(kind, flags, children)| Plan {
        id: id.into(),
        kind,
        body: Body::Supervisor(flags, valid(&flags, children)),
    })
}

fn child() -> impl Strategy<Value = Plan> {
    prop_oneof![4 => worker(TOP), 1 => nested("s", NESTED), 1 => nested("u", NESTED_TOO)]
}

/// The initial children have different names and are valid.
fn valid(flags: &Flags, planned: Vec<Plan>) -> Vec<Plan> {
    let mut children: Vec<Plan> = Vec::new();
    for mut plan in planned {
        if children.iter().any(|other| other.id == plan.id) {
            continue;
        }
        if flags.auto_shutdown == AutoShutdown::Never || plan.kind.restart == Restart::Permanent {
            plan.kind.significant = false;
        }
        children.push(plan);
    }
    children
}

fn any_child() -> impl Strategy<Value = String> {
    prop_oneof![3 => select(TOP), 1 => select(NESTED), 1 => select(NESTED_TOO)].prop_map(str::to_owned)
}

fn exit_reason() -> impl Strategy<Value = &'static str> {
    select(&["normal", "shutdown", "shutdown_done", "killed", "crash", "crash"][..])
}

/// A supervisor and one of its possible children.
fn place() -> impl Strategy<Value = (String, String)> {
    let of = |supervisor: &'static str, children: &'static [&'static str]| {
        select(children).prop_map(move |child| (supervisor.to_owned(), child.to_owned()))
    };
    prop_oneof![5 => of("top", TOP), 2 => of("top", SUPERVISORS), 2 => of("s", NESTED), 1 => of("u", NESTED_TOO)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any_child(), exit_reason()).prop_map(|(child, reason)| Step::Exit(child, reason)),
        2 => child().prop_map(|plan| Step::StartChild("top".into(), plan)),
        1 => worker(NESTED).prop_map(|plan| Step::StartChild("s".into(), plan)),
        2 => place().prop_map(|(supervisor, child)| Step::Terminate(supervisor, child)),
        3 => place().prop_map(|(supervisor, child)| Step::Restart(supervisor, child)),
        2 => place().prop_map(|(supervisor, child)| Step::Delete(supervisor, child)),
    ]
}

fn fixed() -> impl Strategy<Value = History> {
    (flags(), kind(), vec(child(), 0..5), vec(step(), 0..20), any::<bool>()).prop_map(
        |(flags, template, children, mut steps, stop)| {
            if stop {
                steps.push(Step::Stop);
            }
            History {
                children: valid(&flags, children),
                flags,
                template,
                steps,
            }
        },
    )
}

fn simple_step() -> impl Strategy<Value = Step> {
    let child = || (0..6usize).prop_map(|n| format!("k{n}"));
    prop_oneof![
        // Its name is derived from its position in the history.
        3 => script().prop_map(|script| Step::StartSimple(String::new(), script)),
        4 => (child(), exit_reason()).prop_map(|(child, reason)| Step::Exit(child, reason)),
        1 => child().prop_map(Step::TerminateSimple),
    ]
}

fn dynamic() -> impl Strategy<Value = History> {
    (flags(), kind(), vec(simple_step(), 0..20)).prop_map(|(mut flags, mut template, mut steps)| {
        flags.strategy = Restarts::SimpleOneForOne;
        if flags.auto_shutdown == AutoShutdown::Never || template.restart == Restart::Permanent {
            template.significant = false;
        }
        let mut count = 0;
        for step in &mut steps {
            if let Step::StartSimple(child, script) = step {
                *child = format!("k{count}");
                count += 1;
                // OTP 25 stores the "pid" of a dynamic child that declines its restart (fixed
                // later), so only first starts decline.
                for start in script.starts.iter_mut().skip(1).filter(|start| **start == "ignore") {
                    *start = "fail";
                }
            }
        }
        History {
            flags,
            template,
            children: Vec::new(),
            steps,
        }
    })
}

pub(crate) fn histories() -> impl Strategy<Value = History> {
    prop_oneof![4 => fixed(), 1 => dynamic()]
}

/// Workers of one supervisor that exit now and then, with a period of one second.
pub(crate) fn timed_histories() -> impl Strategy<Value = History> {
    let step = prop_oneof![
        4 => (select(TOP), exit_reason()).prop_map(|(child, reason)| Step::Exit(child.into(), reason)),
        1 => Just(Step::Wait(2_200)),
    ];
    (flags(), kind(), vec(worker(TOP), 1..4), vec(step, 0..12)).prop_map(|(mut flags, template, children, steps)| {
        flags.period = 1;
        History {
            children: valid(&flags, children),
            flags,
            template,
            steps,
        }
    })
}
