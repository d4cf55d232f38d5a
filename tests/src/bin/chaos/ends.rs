//! The ways a host ends, and what must be true afterwards.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::json;

use crate::census::{Census, Id, describe};
use crate::plan::{End, Who};
use crate::records;
use crate::remote::{ANSWER, Host};
use crate::run::{Left, REAPED, Run, Scene};

/// The limit for all processes to be gone after a host's death, on a machine under load. The
/// promise is one second on an idle machine.
const GONE: Duration = Duration::from_secs(10);
/// The limit for a host to end after a stop request or a kill.
const ENDED: Duration = Duration::from_secs(20);
/// How often the guardian can be lost within a minute before the root gives up
/// (`ostler::ROOT_INTENSITY`).
const LOSSES: u32 = ostler::ROOT_INTENSITY;

impl Run {
    pub(crate) fn end(&mut self, scene: &mut Scene, end: End) -> Result<(), String> {
        match end {
            End::Stop => self.stop(scene),
            End::StopInStart(ms) => {
                restart_all_pools(scene)?;
                std::thread::sleep(Duration::from_millis(ms));
                self.stop(scene)
            }
            End::Return => {
                scene.host.order(json!({ "do": "return" }));
                self.await_end(&mut scene.host, ENDED)?;
                self.check_death(scene)
            }
            End::Abort => {
                scene.host.order(json!({ "do": "abort" }));
                self.await_end(&mut scene.host, ENDED)?;
                self.check_death(scene)
            }
            End::Kill(who) => {
                self.kill(scene, who)?;
                self.records_name_all(scene)
            }
            End::KillInStart(who, ms) => {
                restart_all_pools(scene)?;
                self.kill_after(scene, who, ms)
            }
            End::KillInStop(who, ms) => {
                scene.host.order(json!({ "do": "stop" }));
                self.kill_after(scene, who, ms)
            }
            End::KillWithGuardianHalted => {
                scene.now.guardian.signal(Signal::SIGSTOP);
                self.kill_for_the_sweep(scene)?;
                self.records_name_all(scene)
            }
            End::KillWithSitterHalted(pick) => {
                let sitters = &scene.now.sitters;
                sitters[pick as usize % sitters.len()].signal(Signal::SIGSTOP);
                self.kill_for_the_sweep(scene)?;
                self.records_name_all(scene)
            }
            End::GuardianTooOften => self.lose_guardian_too_often(scene),
        }
    }

    fn stop(&mut self, scene: &mut Scene) -> Result<(), String> {
        let order = scene.host.order(json!({ "do": "stop" }));
        let answer = scene.host.answer_whole(order);
        self.tally.orders += 1;
        if scene.host.unseen > 0 {
            return match answer {
                Ok(answer) => Err(format!("the stop must not be clean: {answer}")),
                Err(_) => self.unproven_end(scene),
            };
        }
        let answer = answer?;
        if answer["success"] != true {
            return Err(format!("unexpected answer to the stop: {answer}"));
        }
        self.clean_end(scene)
    }

    /// Checks a requested stop: exit status 0, no process, directory or cgroup left.
    fn clean_end(&mut self, scene: &mut Scene) -> Result<(), String> {
        if scene.host.unseen > 0 {
            return self.unproven_end(scene);
        }
        let status = self.await_end(&mut scene.host, ENDED)?;
        if !matches!(status, WaitStatus::Exited(_, 0)) {
            return Err(format!("the host ended with {status:?}"));
        }
        if let Some(wrong) = scene.host.wrong.take() {
            return Err(wrong);
        }
        if let Err(left) = self.observer.await_no_survivors(None, REAPED) {
            return Err(format!("a requested stop left {}", names(&left)));
        }
        let directories = self.run_directories();
        let cgroup = scene.cgroup.as_ref().filter(|cgroup| cgroup.exists());
        if !directories.is_empty() || cgroup.is_some() {
            return Err(format!("a requested stop left {directories:?} {cgroup:?}"));
        }
        Ok(())
    }

    /// Checks the end of a run in which not every release was proven: nothing is left, and the next
    /// start sweeps the run.
    fn unproven_end(&mut self, scene: &mut Scene) -> Result<(), String> {
        self.tally
            .remark("a run was not clean, because a release could not be proven");
        self.await_end(&mut scene.host, ENDED)?;
        self.check_death(scene)
    }

    /// Checks a death: no process is left, and the table is ready for the next start.
    fn check_death(&mut self, scene: &mut Scene) -> Result<(), String> {
        match self.observer.await_no_survivors(None, GONE) {
            Ok(time) => self.tally.gone.push(time),
            Err(left) => return Err(format!("still alive {GONE:?} after the host's death: {}", names(&left))),
        }
        self.leave(scene, Vec::new())
    }

    /// Notes what the next start must sweep.
    fn leave(&mut self, scene: &mut Scene, alive: Vec<Id>) -> Result<(), String> {
        if let Some(wrong) = scene.host.wrong.take() {
            return Err(wrong);
        }
        let run = self.run_directories().contains(&scene.run).then(|| scene.run.clone());
        let mut cgroup = scene.cgroup.clone();
        if scene.removed
            && let Some(cgroup) = cgroup.take()
        {
            // Only the removed directory named it. A host that has ended in order has removed it.
            _ = std::fs::remove_dir(cgroup);
        }
        self.left = Left { run, cgroup, alive };
        Ok(())
    }

    fn kill(&mut self, scene: &mut Scene, who: Who) -> Result<(), String> {
        for id in targets(&scene.host, who) {
            id.signal(Signal::SIGKILL);
        }
        self.await_end(&mut scene.host, ENDED)?;
        match who {
            Who::Host | Who::HostAndGuardian => self.check_death(scene),
            // Daemons survive, with a record, a marker or a cgroup by which the next start finds
            // them.
            Who::HostGuardianAndSitters => {
                let alive = self.observer.survivors(None);
                self.leave(scene, alive)
            }
        }
    }

    fn kill_for_the_sweep(&mut self, scene: &mut Scene) -> Result<(), String> {
        scene.host.id.signal(Signal::SIGKILL);
        self.await_end(&mut scene.host, ENDED)?;
        let alive = self.observer.survivors(None);
        self.leave(scene, alive)
    }

    /// Kills the host during an operation. Half of the hosts are stopped first, so that the workers
    /// alive at the moment of death are known: each must have a record.
    fn kill_after(&mut self, scene: &mut Scene, who: Who, ms: u64) -> Result<(), String> {
        std::thread::sleep(Duration::from_millis(ms));
        let mut seen = Vec::new();
        if ms.is_multiple_of(2) {
            scene.host.id.signal(Signal::SIGSTOP);
            seen = leaders(&scene.host);
        }
        self.kill(scene, who)?;
        let Some(run) = self.left.run.clone() else {
            return Ok(());
        };
        let records = records::of_dead_run(&self.app_dir(), &run)?;
        records::none_twice(&records)?;
        match seen.iter().find(|name| !records.contains_key(*name)) {
            Some(name) => Err(format!(
                "{name} was alive but has no record; the records are {:?}",
                records.keys()
            )),
            None => Ok(()),
        }
    }

    fn records_name_all(&mut self, scene: &Scene) -> Result<(), String> {
        if scene.removed {
            return Ok(());
        }
        let records = records::of_dead_run(&self.app_dir(), &scene.run)?;
        records::none_twice(&records)?;
        let unnamed = records::name_all(&records, &scene.now.workers)?;
        for _ in 0..unnamed {
            self.tally
                .remark("a worker had just been spawned when its host died, so its record had no process yet");
        }
        Ok(())
    }

    fn lose_guardian_too_often(&mut self, scene: &mut Scene) -> Result<(), String> {
        let begun = Instant::now();
        let earlier = scene.host.guardian_losses;
        // A guardian that dies before it serves is not reported as lost, but as a failed start,
        // which counts as well.
        let mut killed: HashSet<Id> = HashSet::new();
        while scene.host.over.is_none() {
            let before = scene.host.guardian_losses;
            if begun.elapsed() > ANSWER || before > 3 * LOSSES {
                return Err(format!(
                    "the guardian was lost {before} times, but the root has not given up"
                ));
            }
            let guardian = Census::take().children(scene.host.id.pid);
            for id in guardian {
                id.signal(Signal::SIGKILL);
                killed.insert(id);
            }
            let noticed = |host: &Host| host.guardian_losses > before || host.over.is_some();
            scene.host.read_until(Duration::from_millis(300), noticed);
        }
        if earlier as usize + killed.len() <= LOSSES as usize {
            return Err(format!(
                "the root gave up after the guardian was killed {earlier} and {} times",
                killed.len()
            ));
        }
        self.clean_end(scene)
    }
}

/// Stops all pools and starts them again. They are still starting when this returns.
fn restart_all_pools(scene: &mut Scene) -> Result<(), String> {
    let naked = scene.kinds.iter().any(|kind| kind.name == "naked");
    let end = |name: &str| json!({ "do": "end", "pool": name });
    let orders: Vec<u64> = scene
        .kinds
        .iter()
        .map(|kind| scene.host.order(end(kind.name)))
        .collect();
    for order in orders {
        scene.host.answer(order)?;
    }
    scene.host.order(json!({ "do": "begin", "naked": naked }));
    Ok(())
}

/// The processes to kill: read in one walk through /proc, to be signalled right after one another.
fn targets(host: &Host, who: Who) -> Vec<Id> {
    let census = Census::take();
    let guardians = census.children(host.id.pid);
    let mut pids = vec![host.id];
    if who != Who::Host {
        pids.extend(&guardians);
    }
    if who == Who::HostGuardianAndSitters {
        pids.extend(guardians.iter().flat_map(|guardian| census.children(guardian.pid)));
    }
    pids
}

/// The markers of the live workers, which are the sitters' children.
fn leaders(host: &Host) -> Vec<String> {
    let census = Census::take();
    let guardians = census.children(host.id.pid);
    let sitters = guardians.iter().flat_map(|guardian| census.children(guardian.pid));
    let workers = sitters.flat_map(|sitter| census.children(sitter.pid));
    workers.filter_map(Id::marker).collect()
}

fn names(left: &[Id]) -> String {
    let names: Vec<String> = left.iter().map(|id| describe(*id)).collect();
    names.join("; ")
}
