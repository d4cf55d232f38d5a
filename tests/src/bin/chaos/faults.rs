//! Carries out the faults.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::census::Id;
use crate::plan::{Fault, How, Mark, Strike};
use crate::pools::{CHATTY, FILED, STRAYS};
use crate::run::{Run, Scene};
use crate::settle::Worker;
use crate::stall::Stall;

/// How long a host is observed after it was stopped.
const SETTLED: Duration = Duration::from_millis(500);

/// The workers at these places, taken modulo their number.
fn chosen(scene: &Scene, picks: &[u32]) -> Vec<usize> {
    let count = scene.now.workers.len();
    picks.iter().map(|pick| *pick as usize % count).collect()
}

/// The workers of this pool.
fn of_pool(scene: &Scene, pool: &str) -> Vec<usize> {
    let workers = scene.now.workers.iter().enumerate();
    workers
        .filter(|(_, worker)| worker.pool == pool)
        .map(|(at, _)| at)
        .collect()
}

fn order_restarts(scene: &mut Scene, chosen: &[usize]) -> Vec<u64> {
    let order = |at: &usize| {
        let worker = &scene.now.workers[*at];
        let order = json!({ "do": "restart", "pool": worker.pool, "index": worker.index });
        scene.host.order(order)
    };
    chosen.iter().map(order).collect()
}

impl Run {
    pub(crate) fn inject(&mut self, scene: &mut Scene, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Strikes(strikes) => {
                self.strike(scene, strikes);
                Ok(())
            }
            Fault::Restarts { workers, strike } => {
                let chosen = chosen(scene, workers);
                self.restart(scene, &chosen, strike.as_ref())
            }
            Fault::Cycle { pool, after_ms } => self.cycle(scene, *pool, *after_ms),
            Fault::Quitters => self.quit(scene),
            Fault::HostStopped { ms } => self.stop_host(scene, *ms),
            Fault::GuardianStopped { workers } => {
                let chosen = chosen(scene, workers);
                self.restart_beside(scene, scene.now.guardian, &chosen)
            }
            Fault::SitterStopped { worker } => self.stop_sitter(scene, *worker),
            Fault::StoreStalled { ms, workers } => self.stall_store(scene, *ms, workers),
            Fault::NotifyFlood { after_ms } => self.flood(scene, *after_ms),
            Fault::Strays { after_ms } => self.restart_strays(scene, *after_ms),
            Fault::DirectoryRemoved { workers } => self.remove_directory(scene, workers),
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

    /// Restarts these workers. `strike` comes while the restarts are under way.
    fn restart(&mut self, scene: &mut Scene, chosen: &[usize], strike: Option<&Strike>) -> Result<(), String> {
        let orders = order_restarts(scene, chosen);
        if let Some(strike) = strike {
            self.strike(scene, std::slice::from_ref(strike));
        }
        self.await_restarts(scene, chosen, orders, strike.is_none())
    }

    /// Waits for the answers. If nothing interferes, every worker must have been replaced.
    fn await_restarts(
        &mut self,
        scene: &mut Scene,
        chosen: &[usize],
        orders: Vec<u64>,
        undisturbed: bool,
    ) -> Result<(), String> {
        let distinct: HashSet<usize> = chosen.iter().copied().collect();
        let undisturbed = undisturbed && distinct.len() == chosen.len();
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
            let leaders = distinct.iter().map(|at| scene.now.workers[*at].leader);
            self.victims.extend(leaders);
        }
        Ok(())
    }

    /// Stops the host. Heartbeats, readiness and exits arrive meanwhile, and no worker may be
    /// charged for the time in which the host did not read them.
    fn stop_host(&mut self, scene: &mut Scene, ms: u64) -> Result<(), String> {
        let before = self.await_strength(&mut scene.host, &scene.kinds)?;
        scene.host.id.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(ms));
        scene.host.id.signal(Signal::SIGCONT);
        // A wrong verdict comes at once.
        scene.host.read_until(SETTLED, |_| false);
        let after = self.await_strength(&mut scene.host, &scene.kinds)?;
        let spared = |worker: &&Worker| !self.halted.contains(&worker.leader) && !self.wounded.contains(&worker.leader);
        for worker in before.workers.iter().filter(spared) {
            let is_there = after.workers.iter().any(|now| now.leader == worker.leader);
            if !is_there {
                return Err(format!("{} was replaced because its host was stopped", worker.name()));
            }
        }
        scene.now = after;
        Ok(())
    }

    /// Restarts these workers while this process is stopped.
    fn restart_beside(&mut self, scene: &mut Scene, stopped: Id, chosen: &[usize]) -> Result<(), String> {
        stopped.signal(Signal::SIGSTOP);
        let restarted = self.restart(scene, chosen, None);
        // The host has continued or replaced it. If not, the restarts have failed.
        stopped.signal(Signal::SIGCONT);
        restarted
    }

    fn stop_sitter(&mut self, scene: &mut Scene, pick: u32) -> Result<(), String> {
        let chosen = chosen(scene, &[pick]);
        let leader = scene.now.workers[chosen[0]].leader;
        // If the worker has just ended, its sitter is not known.
        match leader.parent().filter(|sitter| scene.now.sitters.contains(sitter)) {
            Some(sitter) => self.restart_beside(scene, sitter, &chosen),
            None => Ok(()),
        }
    }

    fn stall_store(&mut self, scene: &mut Scene, ms: u64, picks: &[u32]) -> Result<(), String> {
        let chosen = chosen(scene, picks);
        let stall = Stall::of_table(scene.host.id.pid);
        let orders = order_restarts(scene, &chosen);
        match stall {
            Ok(stall) => {
                std::thread::sleep(Duration::from_millis(ms));
                drop(stall);
            }
            Err(why) => self.tally.remark(&format!("the store could not be stalled: {why}")),
        }
        self.await_restarts(scene, &chosen, orders, true)
    }

    fn flood(&mut self, scene: &mut Scene, after_ms: u64) -> Result<(), String> {
        let chosen = of_pool(scene, CHATTY);
        let strike = Strike {
            after_ms,
            at: Mark::Host,
            pick: 0,
            how: How::Pause(100),
        };
        self.restart(scene, &chosen, Some(&strike))
    }

    fn restart_strays(&mut self, scene: &mut Scene, after_ms: u64) -> Result<(), String> {
        let chosen = of_pool(scene, STRAYS);
        let orders = order_restarts(scene, &chosen);
        std::thread::sleep(Duration::from_millis(after_ms));
        for at in &chosen {
            let leader = scene.now.workers[*at].leader;
            leader.signal(Signal::SIGKILL);
            self.victims.push(leader);
        }
        self.await_restarts(scene, &chosen, orders, false)
    }

    /// Removes the state directory, as logind does with the runtime directory, and restarts workers
    /// that need a socket or a file in it, and others.
    fn remove_directory(&mut self, scene: &mut Scene, picks: &[u32]) -> Result<(), String> {
        let state = self.state_dir();
        scene.host.paths_removed = true;
        // The host may be creating a file meanwhile.
        let removed = (0..100).any(|_| std::fs::remove_dir_all(&state).is_ok());
        if !removed {
            return Err(format!("{} can't be removed", state.display()));
        }
        scene.removed = true;
        let mut chosen: Vec<usize> = [CHATTY, FILED].iter().flat_map(|pool| of_pool(scene, pool)).collect();
        chosen.extend(self::chosen(scene, picks));
        chosen.sort_unstable();
        chosen.dedup();
        self.restart(scene, &chosen, None)
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
