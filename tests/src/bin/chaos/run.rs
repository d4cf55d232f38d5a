//! A complete run: hosts one after another, each with its kind of the plan.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::program;
use ostler_tests::scene::killed_with_the_test;
use serde_json::json;

use crate::census::{Census, Id, Observer, describe, pause};
use crate::flat;
use crate::host::HostArguments;
use crate::plan::{End, Era, Plan};
use crate::pools::{self, PoolKind};
use crate::remote::Host;
use crate::settle::{Expected, Settled, settled, two_at_once};
use crate::tally::Tally;

/// The limit for returning to full strength after a fault. Most faults take a hundredth of it.
const STRENGTH: Duration = Duration::from_secs(40);
/// The limit for a start, which may have to sweep: a sweep gives a halted guardian 20 s.
const START: Duration = Duration::from_secs(60);
/// The limit for processes to be gone that a sweep or a stop has already ended. Only reaping is
/// left then, on a machine under load.
pub(crate) const REAPED: Duration = Duration::from_secs(10);
/// The interval of progress messages.
const PROGRESS: Duration = Duration::from_secs(10);
/// The number of steps in the report of a failure.
const STORY: usize = 25;

/// The length of the run, and its seed.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
}

/// What a host left for the next one's sweep.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The dead run, unless it removed itself.
    pub(crate) run: Option<String>,
    pub(crate) cgroup: Option<PathBuf>,
    /// The processes that the sweep must end.
    pub(crate) alive: Vec<Id>,
}

pub(crate) struct Run {
    pub(crate) observer: Observer,
    pub(crate) tally: Tally,
    directory: TestDirectory,
    tag: String,
    pub(crate) left: Left,
    /// Leaders with descendants that were signalled.
    pub(crate) wounded: HashSet<Id>,
    /// Processes that are stopped for good.
    pub(crate) halted: HashSet<Id>,
    /// Processes that must be gone before a fault counts as survived.
    pub(crate) victims: Vec<Id>,
    steps: VecDeque<String>,
    begun: Instant,
    last_progress: Instant,
}

/// A running host, with its state.
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) run: String,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) kinds: Vec<&'static PoolKind>,
    pub(crate) now: Settled,
    /// The run's directory was removed, with its table.
    pub(crate) removed: bool,
}

impl Run {
    pub(crate) fn new() -> Self {
        let (directory, tag) = ostler_tests::tagged_directory();
        let mut observer = Observer::new();
        // The directory's janitor is the only child so far.
        for janitor in Census::take().children(std::process::id().cast_signed()) {
            observer.add_bystander(janitor);
        }
        Self {
            observer,
            tally: Tally::default(),
            directory,
            tag,
            left: Left::default(),
            wounded: HashSet::new(),
            halted: HashSet::new(),
            victims: Vec::new(),
            steps: VecDeque::new(),
            begun: Instant::now(),
            last_progress: Instant::now(),
        }
    }

    /// Runs until the time is up or a check fails, and kills everything that is left.
    pub(crate) fn run(mut self, options: &Options) -> Result<Tally, String> {
        self.begin_bystanders();
        let outcome = self.eras(options);
        let failure = outcome.err().map(|what| self.describe_failure(&what));
        self.observer.end_everything();
        match failure {
            None => Ok(self.tally),
            Some(failure) => Err(format!(
                "{failure}\nThe state is kept in {}",
                self.directory.keep().display()
            )),
        }
    }

    fn eras(&mut self, options: &Options) -> Result<(), String> {
        let deadline = self.begun + options.length;
        for era in Plan::new(options.seed) {
            if Instant::now() >= deadline && era.number > 1 {
                break;
            }
            self.era(&era, deadline)?;
        }
        // A final host sweeps what came before and stops normally.
        let last = Era {
            number: 0,
            cgroups: true,
            severed: false,
            faults: Vec::new(),
            end: End::Stop,
        };
        self.era(&last, Instant::now())
    }

    fn era(&mut self, era: &Era, deadline: Instant) -> Result<(), String> {
        self.tell(&format!(
            "host {}, cgroups {}, severed {}",
            era.number, era.cgroups, era.severed
        ));
        let mut scene = self.begin(era)?;
        for fault in &era.faults {
            // The first era has every kind of fault, and is always complete.
            if Instant::now() >= deadline && era.number > 1 {
                break;
            }
            self.tally.faults += 1;
            self.tell(&format!("fault {}: {fault:?}", self.tally.faults));
            self.tally.count(fault);
            let outcome = self.inject(&mut scene, fault).and_then(|()| self.recover(&mut scene));
            outcome.map_err(|what| self.with_events(&scene.host, &what))?;
        }
        self.tell(&format!("end: {:?}", era.end));
        self.tally.count(&era.end);
        let outcome = self.end(&mut scene, era.end);
        outcome.map_err(|what| self.with_events(&scene.host, &what))?;
        self.tally.eras += 1;
        self.tally.events += scene.host.events;
        if scene.host.foreign_holders > 0 {
            self.tally.remark("an unrelated process held a worker's port");
        }
        let lost = self.observer.lost_bystanders();
        if !lost.is_empty() {
            return Err(format!("bystanders were killed: {lost:?}"));
        }
        self.tally.judge_weights()
    }

    /// Starts a host, checks its sweep, and waits until all pools are at full strength.
    fn begin(&mut self, era: &Era) -> Result<Scene, String> {
        self.observer.forget_ends();
        self.wounded.clear();
        self.halted.clear();
        self.victims.clear();
        let mut host = Host::launch(&HostArguments {
            app: self.app(),
            state: self.state_dir(),
            tag: self.tag.clone(),
            cgroups: era.cgroups,
        });
        let started = host.await_start(START);
        let started = started.map_err(|what| self.with_events(&host, &what))?;
        self.check_sweep(&host, &started)?;
        let naked = !era.severed || host.containment == "cgroup";
        let run = started["run"].as_str().unwrap_or_default().to_owned();
        host.ask(json!({ "do": "begin", "naked": naked }))?;
        let kinds: Vec<_> = pools::kinds(naked).collect();
        let now = self.await_strength(&mut host, &kinds);
        let now = now.map_err(|what| self.with_events(&host, &what))?;
        let cgroup = self.cgroup_of(&run);
        Ok(Scene {
            host,
            run,
            cgroup,
            kinds,
            now,
            removed: false,
        })
    }

    /// Checks that the dead run's processes, records and directories are gone and that nothing else
    /// was touched.
    fn check_sweep(&mut self, host: &Host, started: &serde_json::Value) -> Result<(), String> {
        let left = std::mem::take(&mut self.left);
        // Everything of the new host is below it, so all other descendants belong to the old one.
        if let Err(left) = self.observer.await_no_survivors(Some(host.id.pid), REAPED) {
            let names: Vec<String> = left.into_iter().map(describe).collect();
            return Err(format!("the sweep left {names:?}; its result: {started}"));
        }
        let killed = started["killed"].as_array().map_or(0, Vec::len) as u64;
        self.tally.swept += killed;
        let wrong = [
            (
                "survivors",
                started["survivors"].as_array().is_none_or(|list| !list.is_empty()),
            ),
            ("live runs", started["live"] != 0),
            (
                "dead runs",
                started["swept_runs"].as_u64() != Some(u64::from(left.run.is_some())),
            ),
            ("killed", left.alive.is_empty() && killed > 0),
        ];
        if let Some((what, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(format!(
                "unexpected number of {what} in the sweep's result {started}; left before: {left:?}"
            ));
        }
        for remark in started["remarks"].as_array().into_iter().flatten() {
            self.tally.remark(&format!("remark of a sweep: {remark}"));
        }
        if let Some(cgroup) = left.cgroup.filter(|cgroup| cgroup.exists()) {
            return Err(format!("the sweep left {}", cgroup.display()));
        }
        let of_runs = self.run_directories();
        if of_runs.len() != 1 {
            return Err(format!("one run is live, but the directories are {of_runs:?}"));
        }
        Ok(())
    }

    /// Waits until a fault is survived, and samples the survivors' memory and descriptors.
    fn recover(&mut self, scene: &mut Scene) -> Result<(), String> {
        let begun = Instant::now();
        scene.now = self.await_strength(&mut scene.host, &scene.kinds)?;
        self.tally.recovered.push(begun.elapsed());
        let leaders: Vec<i32> = scene.now.workers.iter().map(|worker| worker.leader.pid).collect();
        self.tally.weigh("host", scene.host.id, &leaders, flat::HOST);
        self.tally.weigh("guardian", scene.now.guardian, &[], flat::GUARDIAN);
        if self.last_progress.elapsed() >= PROGRESS {
            self.last_progress = Instant::now();
            println!("{:>6} s  {}", self.begun.elapsed().as_secs(), self.tally.progress());
        }
        Ok(())
    }

    pub(crate) fn await_strength(&mut self, host: &mut Host, kinds: &[&'static PoolKind]) -> Result<Settled, String> {
        let begun = Instant::now();
        loop {
            let last = self.strength(host, kinds)?;
            match last {
                Ok(settled) => return Ok(settled),
                Err(why) if begun.elapsed() > STRENGTH => {
                    return Err(format!("not at full strength after {STRENGTH:?}: {why}"));
                }
                Err(_) => pause(),
            }
        }
    }

    /// One check. The outer error is a failure, the inner one says what is still missing.
    fn strength(&mut self, host: &mut Host, kinds: &[&'static PoolKind]) -> Result<Result<Settled, String>, String> {
        self.observer.reap();
        if let Some(end) = self.observer.end_of(host.id.pid) {
            host.read();
            return Err(format!("the host ended on its own: {end:?}, {:?}", host.over));
        }
        let status = host.ask(json!({ "do": "status" }))?;
        self.tally.orders += 1;
        if let Some(wrong) = host.wrong.take() {
            return Err(wrong);
        }
        let census = Census::take();
        if let Some(two) = two_at_once(&census) {
            return Err(two);
        }
        if let Some(victim) = self.victims.iter().find(|victim| victim.is_alive()) {
            return Ok(Err(format!("{} was killed but is alive", describe(*victim))));
        }
        let expected = Expected {
            host: host.id,
            bystanders: self.observer.bystanders(),
            kinds,
            wounded: &self.wounded,
        };
        let settled = settled(&status, &census, &expected);
        if settled.is_ok() {
            self.victims.clear();
        }
        Ok(settled)
    }

    /// Starts unrelated processes that look like workers to a search by name.
    #[expect(clippy::zombie_processes, reason = "the observer reaps all its children")]
    fn begin_bystanders(&mut self) {
        for modes in ["sleep", "ignore-term+sleep"] {
            let mut command = std::process::Command::new(program("ostler-test-worker"));
            command.args([modes, "0", &self.tag]);
            let child = killed_with_the_test(&command).spawn().expect("bystander starts");
            let id = Id::of(i32::try_from(child.id()).expect("valid pid")).expect("not reaped yet");
            self.observer.add_bystander(id);
        }
    }

    fn app(&self) -> String {
        format!("chaos{}", self.tag.trim_start_matches('.'))
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn app_dir(&self) -> PathBuf {
        self.state_dir().join(self.app())
    }

    /// All entries of the app's directory: runs, partly created or removed runs, and stores that
    /// were set aside.
    pub(crate) fn run_directories(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.app_dir()).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    fn cgroup_of(&self, run: &str) -> Option<PathBuf> {
        let text = std::fs::read(self.app_dir().join(run).join("run.json")).ok()?;
        let info: serde_json::Value = serde_json::from_slice(&text).ok()?;
        info["cgroup"].as_str().map(PathBuf::from)
    }

    /// The exit status of a host, once it has ended.
    pub(crate) fn await_end(&mut self, host: &mut Host, within: Duration) -> Result<WaitStatus, String> {
        let begun = Instant::now();
        loop {
            host.read();
            if let Some(status) = self.observer.end_of(host.id.pid) {
                // All its output is still in the pipe.
                host.read_until(REAPED, |_| false);
                return Ok(status);
            }
            if begun.elapsed() > within {
                return Err(format!("the host did not end within {within:?}"));
            }
            pause();
        }
    }

    pub(crate) fn tell(&mut self, step: &str) {
        if self.steps.len() == STORY {
            self.steps.pop_front();
        }
        self.steps
            .push_back(format!("{:>9.3} s  {step}", self.begun.elapsed().as_secs_f64()));
    }

    fn with_events(&self, host: &Host, what: &str) -> String {
        let events: Vec<&str> = host.last.iter().map(String::as_str).collect();
        format!("{what}\n\nThe host's last events:\n  {}", events.join("\n  "))
    }

    fn describe_failure(&mut self, what: &str) -> String {
        let steps: Vec<&str> = self.steps.iter().map(String::as_str).collect();
        let left: Vec<String> = self.observer.survivors(None).into_iter().map(describe).collect();
        format!(
            "{what}\n\nWhat happened:\n  {}\n\nProcesses now:\n  {}",
            steps.join("\n  "),
            left.join("\n  ")
        )
    }
}
