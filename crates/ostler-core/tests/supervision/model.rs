//! A second, naive implementation of OTP's supervisor: a list of children, and a supervisor that
//! blocks on each operation.

mod requests;

use std::collections::HashMap;
use std::time::Duration;

use ostler_core::exit::ExitReason;
use ostler_core::supervision::{AutoShutdown, ChildSpec, Restart, Shutdown, Strategy, SupervisorFlags};

use crate::history::{History, OnStop, Script, StartOutcome};

#[derive(Clone, Copy, PartialEq)]
enum Pid {
    Undefined,
    Up {
        since: Duration,
    },
    Restarting {
        due: Duration,
        counted_already: bool,
        counts: bool,
    },
}

struct Child {
    number: usize,
    spec: ChildSpec<Script>,
    pid: Pid,
    starts: u64,
    row: u32,
    last: ExitReason,
}

struct Model {
    flags: SupervisorFlags,
    now: Duration,
    children: Vec<Child>,
    added: usize,
    restarts: Vec<Duration>,
    outcomes: HashMap<String, usize>,
    ended: bool,
    trace: Vec<String>,
}

pub(crate) fn run(history: &History) -> Vec<String> {
    let mut model = Model {
        flags: history.flags.clone(),
        now: Duration::ZERO,
        children: Vec::new(),
        added: 0,
        restarts: Vec::new(),
        outcomes: HashMap::new(),
        ended: false,
        trace: Vec::new(),
    };
    for plan in &history.initial {
        model.add(plan.spec.clone());
    }
    model.init();
    model.try_again();
    for step in &history.steps {
        model.step(step);
        model.try_again();
        model.look();
    }
    model.trace
}

impl Model {
    fn say(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    fn simple(&self) -> bool {
        self.flags.strategy == Strategy::SimpleOneForOne
    }

    fn add(&mut self, spec: ChildSpec<Script>) -> usize {
        self.added += 1;
        let last = ExitReason::Normal;
        self.children.push(Child {
            number: self.added,
            spec,
            pid: Pid::Undefined,
            starts: 0,
            row: 0,
            last,
        });
        self.added
    }

    fn child(&mut self, number: usize) -> &mut Child {
        self.children
            .iter_mut()
            .find(|child| child.number == number)
            .expect("child exists")
    }

    fn named(&self, id: &str) -> Option<usize> {
        self.children
            .iter()
            .find(|child| child.spec.id.as_str() == id)
            .map(|child| child.number)
    }

    fn tag(&mut self, number: usize) -> String {
        let child = self.child(number);
        format!("{}/{}", child.spec.id, child.starts)
    }

    fn init(&mut self) {
        for number in self.numbers() {
            match self.start(number) {
                StartOutcome::Up => {}
                StartOutcome::Ignored => self.gone(number),
                StartOutcome::Failed { .. } => {
                    let tag = self.tag(number);
                    let id = self.child(number).spec.id.clone();
                    self.say(format!("start_error {tag} failed: no start"));
                    return self.end(format!("shutdown: child {id} did not start: failed: no start"));
                }
            }
        }
        self.say("ready");
    }

    fn numbers(&self) -> Vec<usize> {
        self.children.iter().map(|child| child.number).collect()
    }

    fn start(&mut self, number: usize) -> StartOutcome {
        let now = self.now;
        let child = self.child(number);
        child.starts += 1;
        let (id, starts) = (child.spec.id.to_string(), child.starts);
        let script = child.spec.start.starts.clone();
        let nth = self.outcomes.entry(id.clone()).or_default();
        let outcome = script.get(*nth).copied().unwrap_or(StartOutcome::Up);
        *nth += 1;
        self.say(format!("start {id} #{starts}: {outcome:?}"));
        if outcome == StartOutcome::Up {
            self.child(number).pid = Pid::Up { since: now };
            self.say(format!("progress {id}/{starts} "));
        }
        outcome
    }

    /// The child has no pid any more; temporary and dynamic children are removed.
    fn gone(&mut self, number: usize) {
        let simple = self.simple();
        let child = self.child(number);
        child.pid = Pid::Undefined;
        if simple || child.spec.restart == Restart::Temporary {
            self.children.retain(|child| child.number != number);
        }
    }

    /// OTP's `do_terminate`: does nothing without a pid.
    fn terminate(&mut self, number: usize) {
        let child = self.child(number);
        if !matches!(child.pid, Pid::Up { .. }) {
            return;
        }
        let (id, shutdown, on_stop) = (child.spec.id.clone(), child.spec.shutdown, child.spec.start.on_stop);
        let reason = match (shutdown, on_stop) {
            (Shutdown::BrutalKill, _) => {
                self.say(format!("kill {id}"));
                ExitReason::Killed
            }
            (Shutdown::Timeout(time), OnStop::Never) => {
                self.say(format!("stop {id}"));
                self.now += time;
                self.say(format!("kill {id}"));
                ExitReason::Killed
            }
            (_, on_stop) => {
                self.say(format!("stop {id}"));
                exit_on_stop(on_stop)
            }
        };
        self.shutdown_error(number, shutdown, &reason);
    }

    fn shutdown_error(&mut self, number: usize, shutdown: Shutdown, reason: &ExitReason) {
        let permanent = self.child(number).spec.restart == Restart::Permanent;
        let fine = match (shutdown, reason) {
            (Shutdown::BrutalKill, ExitReason::Killed) => true,
            (Shutdown::BrutalKill, ExitReason::Shutdown(_) | ExitReason::Normal) => !permanent,
            (_, ExitReason::Shutdown(None)) => true,
            (_, ExitReason::Shutdown(Some(_)) | ExitReason::Normal) => !permanent,
            _ => false,
        };
        if !fine {
            let tag = self.tag(number);
            self.say(format!("shutdown_error {tag} {reason}"));
        }
    }

    fn end(&mut self, reason: String) {
        if self.simple() {
            self.stop_all_in_parallel();
        }
        while let Some(number) = self.children.last().map(|child| child.number) {
            self.terminate(number);
            self.children.pop();
        }
        self.ended = true;
        self.say(format!("end {reason}"));
    }

    fn stop_all_in_parallel(&mut self) {
        let mut stubborn = Vec::new();
        for number in self.numbers() {
            let child = self.child(number);
            if child.spec.shutdown != Shutdown::BrutalKill && child.spec.start.on_stop == OnStop::Never {
                if matches!(child.pid, Pid::Up { .. }) {
                    let id = child.spec.id.clone();
                    self.say(format!("stop {id}"));
                    stubborn.push(number);
                }
            } else {
                self.terminate(number);
            }
        }
        if !stubborn.is_empty() {
            self.now += Duration::from_millis(500);
        }
        for number in stubborn {
            let child = self.child(number);
            let (id, shutdown) = (child.spec.id.clone(), child.spec.shutdown);
            self.say(format!("kill {id}"));
            self.shutdown_error(number, shutdown, &ExitReason::Killed);
        }
        self.children.clear();
    }

    fn exit(&mut self, number: usize, reason: ExitReason, counted: bool) {
        let now = self.now;
        let tag = self.tag(number);
        let child = self.child(number);
        let Pid::Up { since } = child.pid else {
            panic!("only running children exit")
        };
        let (restart, significant) = (child.spec.restart, child.spec.significant);
        let abnormal = !matches!(reason, ExitReason::Normal | ExitReason::Shutdown(_));
        if restart == Restart::Permanent || abnormal {
            self.say(format!("child_terminated {tag} {reason}"));
        }
        if restart == Restart::Permanent || (restart == Restart::Transient && abnormal) {
            let reset = self
                .flags
                .backoff
                .as_ref()
                .and_then(|backoff| backoff.reset)
                .unwrap_or(self.flags.period);
            if now - since >= reset {
                self.child(number).row = 0;
            }
            return self.restart(number, reason, counted, now - since);
        }
        self.gone(number);
        let others = self
            .children
            .iter()
            .any(|child| child.spec.significant && child.pid != Pid::Undefined);
        let ends = match self.flags.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => significant,
            AutoShutdown::AllSignificant => significant && !others,
        };
        if ends {
            self.end("shutdown".into());
        }
    }

    fn restart(&mut self, number: usize, reason: ExitReason, counted: bool, lasted: Duration) {
        let (now, period) = (self.now, self.flags.period);
        let tag = self.tag(number);
        if counted {
            self.restarts.retain(|restart| *restart + period >= now);
            self.restarts.push(now);
            let restarts = self.restarts.len();
            if restarts > self.flags.intensity as usize {
                self.say(format!("reached_max_restart_intensity {tag} {reason} {restarts}"));
                self.gone(number);
                return self.end("shutdown".into());
            }
        }
        let child = self.child(number);
        child.row += 1;
        child.last = reason.clone();
        let row = child.row;
        let delay = match &self.flags.backoff {
            None => Duration::ZERO,
            Some(_) => Duration::from_millis((100u64 << (row - 1).min(20)).min(1000)).saturating_sub(lasted),
        };
        let restarts = self.restarts.len();
        self.say(format!(
            "restart_scheduled {tag} {reason} attempt {row} in {delay:?}, {restarts}"
        ));
        if delay.is_zero() {
            self.start_again(number);
        } else {
            self.bring_down(number);
            self.child(number).pid = Pid::Restarting {
                due: now + delay,
                counted_already: true,
                counts: true,
            };
        }
    }

    /// The children affected by a restart, left to right.
    fn group(&self, number: usize) -> Vec<usize> {
        match self.flags.strategy {
            Strategy::OneForOne | Strategy::SimpleOneForOne => vec![number],
            Strategy::OneForAll => self.numbers(),
            Strategy::RestForOne => self.numbers().into_iter().filter(|other| *other >= number).collect(),
        }
    }

    fn bring_down(&mut self, number: usize) {
        for member in self.group(number).into_iter().rev() {
            if member != number {
                self.terminate(member);
                self.gone(member);
            }
        }
    }

    fn start_again(&mut self, number: usize) {
        self.child(number).pid = Pid::Undefined;
        self.bring_down(number);
        for member in self.group(number) {
            match self.start(member) {
                StartOutcome::Up => {}
                StartOutcome::Ignored => self.gone(member),
                StartOutcome::Failed { counted } => {
                    let tag = self.tag(member);
                    self.say(format!("start_error {tag} failed: no start"));
                    let due = self.now;
                    let child = self.child(member);
                    child.last = ExitReason::failed("no start");
                    child.pid = Pid::Restarting {
                        due,
                        counted_already: false,
                        counts: counted,
                    };
                    return;
                }
            }
        }
    }

    fn next_due(&self) -> Option<(Duration, usize)> {
        let due = |child: &Child| match child.pid {
            Pid::Restarting { due, .. } => Some((due, child.number)),
            _ => None,
        };
        self.children.iter().filter_map(due).min()
    }

    /// Retries whatever is due, one attempt at a time.
    fn try_again(&mut self) {
        while let Some((_, number)) = self.next_due().filter(|(due, _)| *due <= self.now) {
            let child = self.child(number);
            let Pid::Restarting {
                counted_already,
                counts,
                ..
            } = child.pid
            else {
                panic!("child is due")
            };
            let reason = child.last.clone();
            if counted_already {
                self.start_again(number);
            } else {
                self.restart(number, reason, counts, Duration::ZERO);
            }
        }
    }

    fn look(&mut self) {
        let seen: Vec<String> = self
            .children
            .iter()
            .map(|child| {
                let status = match child.pid {
                    Pid::Undefined => "Undefined",
                    Pid::Up { .. } => "Running",
                    Pid::Restarting { .. } => "Restarting",
                };
                format!("{}:{status}", child.spec.id)
            })
            .collect();
        let active = self
            .children
            .iter()
            .filter(|child| matches!(child.pid, Pid::Up { .. }))
            .count();
        let line = format!("[{}] {active} of {}", seen.join(" "), self.children.len());
        self.say(line);
    }
}

fn exit_on_stop(on_stop: OnStop) -> ExitReason {
    match on_stop {
        OnStop::Shutdown => ExitReason::SHUTDOWN,
        OnStop::Normal => ExitReason::Normal,
        OnStop::Crash => ExitReason::failed("crash"),
        OnStop::Never => panic!("handled by the caller"),
    }
}
