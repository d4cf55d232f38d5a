//! What each step of a history does in the model.

use std::time::Duration;

use ostler_core::supervision::{AutoShutdown, ChildSpec, Restart};

use super::{Model, Pid};
use crate::history::{How, Script, StartOutcome, Step};
use crate::world::{name, reason_of};

impl Model {
    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Exit { place, how, counted } => self.step_exit(*place, *how, *counted),
            Step::Pass(time) => self.pass(*time),
            Step::Terminate(_) if self.simple() && self.children.is_empty() => {}
            Step::StartChild(_) | Step::Terminate(_) | Step::Restart(_) | Step::Delete(_) if self.ended => {
                self.say("reply Stopping");
            }
            Step::StartChild(plan) => self.start_child(plan.spec.clone()),
            Step::Terminate(place) => self.step_terminate(*place),
            Step::Restart(_) | Step::Delete(_) if self.simple() => self.say("reply SimpleOneForOne"),
            Step::Restart(place) => self.step_restart(*place),
            Step::Delete(place) => self.step_delete(*place),
            Step::Stop if self.ended => {}
            Step::Stop => self.end("shutdown".into()),
        }
    }

    fn step_exit(&mut self, place: usize, how: How, counted: bool) {
        if self.children.is_empty() {
            return;
        }
        let place = place % self.children.len();
        let child = &self.children[place];
        if let Pid::Up { .. } = child.pid {
            let number = child.number;
            let id = child.spec.id.clone();
            self.say(format!("exit {id}"));
            self.exit(number, reason_of(how), counted);
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((due, _)) = self.next_due().filter(|(due, _)| *due <= until) {
            self.now = self.now.max(due);
            self.try_again();
        }
        self.now = self.now.max(until);
    }

    fn start_child(&mut self, spec: ChildSpec<Script>) {
        let significant_for_nothing =
            spec.significant && (self.flags.auto_shutdown == AutoShutdown::Never || spec.restart == Restart::Permanent);
        if significant_for_nothing {
            return self.say("reply invalid");
        }
        if !self.simple()
            && let Some(number) = self.named(spec.id.as_str())
        {
            let up = matches!(self.child(number).pid, Pid::Up { .. });
            return self.say(if up {
                "reply already started"
            } else {
                "reply already present"
            });
        }
        let number = self.add(spec);
        match self.start(number) {
            StartOutcome::Up => self.say("reply started"),
            StartOutcome::Ignored => {
                self.say("reply ignored");
                self.gone(number);
            }
            StartOutcome::Failed { .. } => {
                self.say("reply failed");
                self.children.retain(|child| child.number != number);
            }
        }
    }

    fn step_terminate(&mut self, place: usize) {
        let number = match self.simple() {
            true => Some(self.children[place % self.children.len()].number),
            false => self.named(name(place).as_str()),
        };
        let Some(number) = number else {
            return self.say("reply NotFound");
        };
        self.terminate(number);
        self.gone(number);
        self.say("reply ok");
    }

    fn step_restart(&mut self, place: usize) {
        let Some(number) = self.named(name(place).as_str()) else {
            return self.say("reply NotFound");
        };
        match self.child(number).pid {
            Pid::Up { .. } => self.say("reply Running"),
            Pid::Restarting { .. } => self.say("reply Restarting"),
            Pid::Undefined => match self.start(number) {
                StartOutcome::Up => self.say("reply started"),
                StartOutcome::Ignored => self.say("reply ignored"),
                StartOutcome::Failed { .. } => self.say("reply failed"),
            },
        }
    }

    fn step_delete(&mut self, place: usize) {
        let Some(number) = self.named(name(place).as_str()) else {
            return self.say("reply NotFound");
        };
        match self.child(number).pid {
            Pid::Up { .. } => self.say("reply Running"),
            Pid::Restarting { .. } => self.say("reply Restarting"),
            Pid::Undefined => {
                self.children.retain(|child| child.number != number);
                self.say("reply ok");
            }
        }
    }
}
