//! Carries out the faults.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::census::Id;
use crate::plan::{Fault, How, Mark, Strike};
use crate::run::{Run, Scene};
use crate::settle::Worker;

impl Run {
    pub(crate) fn inject(&mut self, scene: &mut Scene, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Strikes(strikes) => {
                self.strike(scene, strikes);
                Ok(())
            }
            Fault::Restarts { workers, strike } => self.restart(scene, workers, strike.as_ref()),
            Fault::Cycle { pool, after_ms } => self.cycle(scene, *pool, *after_ms),
            Fault::Quitters => self.quit(scene),
        }
    }

    /// Sends all signals of a fault. Processes that are only paused have been resumed when this
    /// returns.
    fn strike(&mut self, scene: &Scene, strikes: &[Strike]) {
        let mut paused: Vec<(Instant, Id)> = Vec::new();
        for strike in strikes {
            std::thread::sleep(Duration::from_millis(strike.after_ms));
            let Some(target) = self.target(scene, *strike) else {
                continue;
            };
            self.tally.strikes += 1;
            match strike.how {
                How::Kill => target.signal(Signal::SIGKILL),
                How::Term => target.signal(Signal::SIGTERM),
                How::Halt => target.signal(Signal::SIGSTOP),
                How::Pause(ms) => {
                    target.signal(Signal::SIGSTOP);
                    paused.push((Instant::now() + Duration::from_millis(ms), target));
                }
            }
        }
        paused.sort_unstable();
        for (until, id) in paused {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            // A second signal may have stopped it for good; it is resumed anyway.
            self.halted.remove(&id);
            id.signal(Signal::SIGCONT);
        }
    }

    /// Chooses the target, and notes the effects to expect.
    fn target(&mut self, scene: &Scene, strike: Strike) -> Option<Id> {
        let pick = strike.pick as usize;
        let id = match strike.at {
            Mark::Worker => {
                let worker = &scene.now.workers[pick % scene.now.workers.len()];
                if strike.how == How::Halt {
                    self.halted.insert(worker.leader);
                }
                if self.term_ends(scene, worker) && strike.how == How::Term {
                    self.victims.push(worker.leader);
                }
                worker.leader
            }
            Mark::Descendant => {
                let all = scene.now.workers.iter();
                let all: Vec<(Id, Id)> = all
                    .flat_map(|worker| worker.descendants.iter().map(|id| (worker.leader, *id)))
                    .collect();
                let (leader, id) = *all.get(pick % all.len().max(1))?;
                if matches!(strike.how, How::Kill | How::Term) {
                    self.wounded.insert(leader);
                }
                id
            }
            Mark::Sitter => *scene.now.sitters.get(pick % scene.now.sitters.len().max(1))?,
            Mark::Guardian => scene.now.guardian,
            Mark::Host => scene.host.id,
        };
        if strike.how == How::Kill {
            self.victims.push(id);
        }
        Some(id)
    }

    fn term_ends(&self, scene: &Scene, worker: &Worker) -> bool {
        let deaf = scene
            .kinds
            .iter()
            .any(|kind| kind.name == worker.pool && kind.is_deaf());
        !deaf && !self.halted.contains(&worker.leader)
    }

    fn restart(&mut self, scene: &mut Scene, picks: &[u32], strike: Option<&Strike>) -> Result<(), String> {
        let count = scene.now.workers.len();
        let mut chosen: Vec<usize> = picks.iter().map(|pick| *pick as usize % count).collect();
        let mut orders = Vec::new();
        for at in &chosen {
            let worker = &scene.now.workers[*at];
            let order = json!({ "do": "restart", "pool": worker.pool, "index": worker.index });
            orders.push(scene.host.order(order));
        }
        if let Some(strike) = strike {
            self.strike(scene, std::slice::from_ref(strike));
        }
        chosen.sort_unstable();
        chosen.dedup();
        let undisturbed = strike.is_none() && chosen.len() == picks.len();
        for order in orders {
            self.tally.orders += 1;
            match scene.host.answer(order) {
                Ok(_) => {}
                // Another request or a signal interfered. The pool returns to full strength all the
                // same.
                Err(refused) if !undisturbed && refused.contains("can't be restarted") => {
                    self.tally
                        .remark("a restart through the API was refused because another was in progress");
                }
                Err(what) => return Err(what),
            }
        }
        if undisturbed {
            self.victims
                .extend(chosen.iter().map(|at| scene.now.workers[*at].leader));
        }
        Ok(())
    }

    fn cycle(&mut self, scene: &mut Scene, pick: u32, after_ms: u64) -> Result<(), String> {
        let kind = scene.kinds[pick as usize % scene.kinds.len()];
        let naked = scene.kinds.iter().any(|kind| kind.name == "naked");
        let begin = json!({ "do": "begin", "pool": kind.name, "naked": naked });
        let end = json!({ "do": "end", "pool": kind.name });
        self.tally.orders += 4;
        scene.host.ask(end.clone())?;
        scene.host.ask(begin.clone())?;
        std::thread::sleep(Duration::from_millis(after_ms));
        scene.host.ask(end)?;
        scene.host.ask(begin)?;
        let old = scene.now.workers.iter().filter(|worker| worker.pool == kind.name);
        self.victims.extend(old.map(|worker| worker.leader));
        Ok(())
    }

    fn quit(&mut self, scene: &mut Scene) -> Result<(), String> {
        self.tally.orders += 1;
        let phase = scene.host.ask(json!({ "do": "quit" }))?;
        let gave_up = phase.as_str().is_some_and(|phase| phase.starts_with("GaveUp("));
        if gave_up {
            Ok(())
        } else {
            Err(format!("the quitters' pool should have given up, but it is {phase}"))
        }
    }
}
