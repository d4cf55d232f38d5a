//! Drives the policy in a world where every effect takes place immediately, as scripted. Time
//! passes only where something waits for it.

use std::collections::{HashMap, VecDeque};

use ostler_core::exit::ExitReason;
use ostler_core::moment::Moment;
use ostler_core::supervision::{
    CallId, ChildId, ChildKey, ChildStatus, Effect, Event, Policy, Reply, Report, Request, Strategy, Target,
};

use crate::history::{History, How, OnStop, Script, StartOutcome, Step};

struct World {
    policy: Policy<Script>,
    dynamic: bool,
    now: Moment,
    effects: VecDeque<Effect<Script>>,
    /// Each child's id and its reaction to a stop request.
    children: HashMap<ChildKey, (ChildId, OnStop)>,
    started: HashMap<String, usize>,
    next_call: u64,
    trace: Vec<String>,
}

pub(crate) fn run(history: &History) -> Vec<String> {
    let children = history.initial.iter().map(|plan| plan.spec.clone()).collect();
    let mut world = World {
        policy: Policy::new(history.flags.clone(), children, 1).expect("valid history"),
        dynamic: history.flags.strategy == Strategy::SimpleOneForOne,
        now: Moment::ORIGIN,
        effects: VecDeque::new(),
        children: HashMap::new(),
        started: HashMap::new(),
        next_call: 0,
        trace: Vec::new(),
    };
    world.feed(Event::Begin);
    world.settle();
    for step in &history.steps {
        world.step(step);
        world.settle();
        world.look();
    }
    world.trace
}

pub(crate) fn reason_of(how: How) -> ExitReason {
    match how {
        How::Normal => ExitReason::Normal,
        How::Shutdown => ExitReason::SHUTDOWN,
        How::ShutdownBecause => ExitReason::Shutdown(Some("done".into())),
        How::Killed => ExitReason::Killed,
        How::Crash => ExitReason::failed("crash"),
    }
}

impl World {
    fn feed(&mut self, event: Event<Script>) {
        for effect in self.policy.handle(event, self.now).into_iter().rev() {
            self.effects.push_front(effect);
        }
    }

    fn call(&mut self, request: Request<Script>) {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.feed(Event::Call(call, request));
    }

    /// Carries out all pending effects. Deadlines in the future pass only while a child has to
    /// stop.
    fn settle(&mut self) {
        loop {
            while let Some(effect) = self.effects.pop_front() {
                self.perform(effect);
            }
            let stopping = self
                .policy
                .which_children()
                .iter()
                .any(|info| info.status == ChildStatus::Stopping);
            match self.policy.next_deadline() {
                Some(due) if due <= self.now => self.feed(Event::Tick),
                Some(due) if stopping => {
                    self.now = due;
                    self.feed(Event::Tick);
                }
                _ => return,
            }
        }
    }

    fn perform(&mut self, effect: Effect<Script>) {
        match effect {
            Effect::Start { child, start } => {
                self.children.insert(child.key, (child.id.clone(), start.on_stop));
                let nth = self.started.entry(child.id.to_string()).or_default();
                let outcome = start.starts.get(*nth).copied().unwrap_or(StartOutcome::Up);
                *nth += 1;
                self.trace
                    .push(format!("start {} #{}: {outcome:?}", child.id, child.incarnation));
                let (key, incarnation) = (child.key, child.incarnation);
                self.feed(match outcome {
                    StartOutcome::Up => Event::Started(key, incarnation),
                    StartOutcome::Ignored => Event::Ignored(key, incarnation),
                    StartOutcome::Failed { counted } => Event::StartFailed {
                        key,
                        incarnation,
                        reason: ExitReason::failed("no start"),
                        counted,
                    },
                });
            }
            Effect::Stop(key, incarnation) => {
                let (id, on_stop) = self.children[&key].clone();
                self.trace.push(format!("stop {id}"));
                let reason = match on_stop {
                    OnStop::Shutdown => ExitReason::SHUTDOWN,
                    OnStop::Normal => ExitReason::Normal,
                    OnStop::Crash => ExitReason::failed("crash"),
                    OnStop::Never => return,
                };
                self.feed(Event::Ended {
                    key,
                    incarnation,
                    reason,
                    counted: true,
                });
            }
            Effect::Kill(key, incarnation) => {
                self.trace.push(format!("kill {}", self.children[&key].0));
                self.feed(Event::Ended {
                    key,
                    incarnation,
                    reason: ExitReason::Killed,
                    counted: true,
                });
            }
            Effect::CancelStart(..) => panic!("starts are immediate here"),
            Effect::Reply(_, reply) => self.trace.push(describe_reply(&reply)),
            Effect::Report(report) => self.trace.push(describe(&report)),
            Effect::Ready => self.trace.push("ready".into()),
            Effect::End(end) => self.trace.push(format!("end {}", end.exit_reason())),
        }
    }

    fn place(&self, place: usize) -> Option<ChildKey> {
        let children = self.policy.which_children();
        (!children.is_empty()).then(|| children[place % children.len()].child.key)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Exit { place, how, counted } => {
                let Some(key) = self.place(*place) else { return };
                let children = self.policy.which_children();
                let info = children
                    .iter()
                    .find(|info| info.child.key == key)
                    .expect("child exists");
                if info.status == ChildStatus::Running {
                    let incarnation = info.child.incarnation;
                    self.trace.push(format!("exit {}", info.child.id));
                    self.feed(Event::Ended {
                        key,
                        incarnation,
                        reason: reason_of(*how),
                        counted: *counted,
                    });
                }
            }
            Step::StartChild(plan) => self.call(Request::StartChild(plan.spec.clone())),
            Step::Terminate(place) if self.dynamic => {
                if let Some(key) = self.place(*place) {
                    self.call(Request::TerminateChild(Target::Key(key)));
                }
            }
            Step::Terminate(place) => self.call(Request::TerminateChild(Target::Id(name(*place)))),
            Step::Restart(place) => self.call(Request::RestartChild(name(*place))),
            Step::Delete(place) => self.call(Request::DeleteChild(name(*place))),
            Step::Pass(time) => self.pass(*time),
            Step::Stop => self.feed(Event::Stop),
        }
    }

    fn pass(&mut self, time: std::time::Duration) {
        let until = self.now + time;
        while let Some(due) = self.policy.next_deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.feed(Event::Tick);
            self.settle();
        }
        self.now = self.now.max(until);
    }

    fn look(&mut self) {
        let children = self.policy.which_children();
        let seen: Vec<String> = children
            .iter()
            .map(|info| format!("{}:{:?}", info.child.id, info.status))
            .collect();
        let counts = self.policy.count_children();
        self.trace
            .push(format!("[{}] {} of {}", seen.join(" "), counts.active, counts.workers));
    }
}

pub(crate) fn name(place: usize) -> ChildId {
    crate::history::NAMES[place % crate::history::NAMES.len()].into()
}

/// Describes a reply without its keys, which the model does not have.
fn describe_reply(reply: &Reply) -> String {
    use ostler_core::supervision::{ChildStart, StartChildError};
    match reply {
        Reply::StartChild(Ok(ChildStart::Started(_))) => "reply started".into(),
        Reply::StartChild(Ok(ChildStart::Ignored(_))) => "reply ignored".into(),
        Reply::StartChild(Err(StartChildError::AlreadyStarted(_))) => "reply already started".into(),
        Reply::StartChild(Err(StartChildError::AlreadyPresent(_))) => "reply already present".into(),
        Reply::StartChild(Err(StartChildError::Failed(_))) => "reply failed".into(),
        Reply::StartChild(Err(StartChildError::Invalid(_))) => "reply invalid".into(),
        Reply::RestartChild(Ok(ChildStart::Started(_))) => "reply started".into(),
        Reply::RestartChild(Ok(ChildStart::Ignored(_))) => "reply ignored".into(),
        Reply::TerminateChild(Ok(())) | Reply::DeleteChild(Ok(())) => "reply ok".into(),
        Reply::StartChild(Err(error)) => format!("reply {error:?}"),
        Reply::RestartChild(Err(ostler_core::supervision::RestartChildError::Failed(_))) => "reply failed".into(),
        Reply::RestartChild(Err(error)) => format!("reply {error:?}"),
        Reply::TerminateChild(Err(error)) => format!("reply {error:?}"),
        Reply::DeleteChild(Err(error)) => format!("reply {error:?}"),
    }
}

fn describe(report: &Report) -> String {
    let child = report.child();
    let reason = report.reason().map(ToString::to_string).unwrap_or_default();
    match report {
        Report::RestartScheduled {
            attempt,
            delay,
            restarts,
            ..
        } => {
            format!(
                "{} {child} {reason} attempt {attempt} in {delay:?}, {restarts}",
                report.name()
            )
        }
        Report::ReachedMaxRestartIntensity { restarts, .. } => format!("{} {child} {reason} {restarts}", report.name()),
        _ => format!("{} {child} {reason}", report.name()),
    }
}
