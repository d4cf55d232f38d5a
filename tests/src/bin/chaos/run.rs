//! A whole run: hosts one after another, each with what the plan has for it.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use ostler_tests::program;
use ostler_tests::scene::dying_with_us;
use serde_json::json;

use crate::cast::{self, Part};
use crate::census::{Census, Id, Observer, describe, pause};
use crate::flat;
use crate::host::HostArguments;
use crate::plan::{End, Era, Plan};
use crate::remote::Host;
use crate::settle::{Expected, Settled, settled, two_at_once};
use crate::tally::Tally;

/// A fault is survived when everything is at full strength again in this time. Most need a hundredth of it.
const STRENGTH: Duration = Duration::from_secs(40);
/// A start may have to sweep what only a sweep can end: it waits 20 s for a guardian that stands still.
const START: Duration = Duration::from_secs(60);
/// What a sweep or an ordered stop has ended is gone by then; only its reaping is left, on a machine under load.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);
/// So often people are told how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// So many steps are told of a failure.
const STORY: usize = 25;

/// How long, and from which seed.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
}

/// What a host has left, for the next one's sweep.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The dead run, unless it has removed itself.
    pub(crate) run: Option<String>,
    pub(crate) cgroup: Option<PathBuf>,
    /// Who lives on and is to be ended by the sweep.
    pub(crate) alive: Vec<Id>,
}

pub(crate) struct Run {
    pub(crate) observer: Observer,
    pub(crate) tally: Tally,
    directory: tempfile::TempDir,
    tag: String,
    pub(crate) left: Left,
    /// Leaders of whose descendants some were struck.
    pub(crate) wounded: HashSet<Id>,
    /// Who stands still for good.
    pub(crate) halted: HashSet<Id>,
    /// Who has to be gone before a fault counts as survived.
    pub(crate) victims: Vec<Id>,
    story: VecDeque<String>,
    begun: Instant,
    told: Instant,
}

/// A host under way, with what belongs to it.
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) run: String,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) parts: Vec<&'static Part>,
    pub(crate) now: Settled,
}

impl Run {
    pub(crate) fn new() -> Self {
        let (directory, tag) = ostler_tests::tagged_directory();
        Self {
            observer: Observer::new(),
            tally: Tally::default(),
            directory,
            tag,
            left: Left::default(),
            wounded: HashSet::new(),
            halted: HashSet::new(),
            victims: Vec::new(),
            story: VecDeque::new(),
            begun: Instant::now(),
            told: Instant::now(),
        }
    }

    /// Runs to the end of the time, or to the first thing that must not be; and ends all that is left.
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
            if Instant::now() >= deadline {
                break;
            }
            self.era(&era, deadline)?;
        }
        // The last word is an ordered stop, whose start has swept what came before.
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
            if Instant::now() >= deadline {
                break;
            }
            self.tally.faults += 1;
            self.tell(&format!("fault {}: {fault:?}", self.tally.faults));
            self.tally.count(fault);
            let outcome = self.commit(&mut scene, fault).and_then(|()| self.recover(&mut scene));
            outcome.map_err(|what| self.with_events(&scene.host, &what))?;
        }
        self.tell(&format!("end: {:?}", era.end));
        self.tally.count(&era.end);
        let outcome = self.end(&mut scene, era.end);
        outcome.map_err(|what| self.with_events(&scene.host, &what))?;
        self.tally.eras += 1;
        self.tally.events += scene.host.events;
        if scene.host.strangers > 0 {
            self.tally
                .remark("a host was told of a stranger on a port of its workers");
        }
        let lost = self.observer.lost_bystanders();
        if !lost.is_empty() {
            return Err(format!("bystanders were killed: {lost:?}"));
        }
        self.tally.judge_weights()
    }

    /// A host with all pools at full strength, after a sweep that has ended what was left.
    fn begin(&mut self, era: &Era) -> Result<Scene, String> {
        self.observer.forget_ends();
        self.wounded.clear();
        self.halted.clear();
        self.victims.clear();
        let mut host = Host::launch(&HostArguments {
            app: self.app(),
            state: self.directory.path().join("state"),
            tag: self.tag.clone(),
            cgroups: era.cgroups,
        });
        let started = host.await_start(START);
        let started = started.map_err(|what| self.with_events(&host, &what))?;
        self.check_sweep(&host, &started)?;
        let naked = !era.severed || host.containment == "cgroup";
        let run = started["run"].as_str().unwrap_or_default().to_owned();
        host.ask(json!({ "do": "begin", "naked": naked }))?;
        let parts: Vec<_> = cast::parts(naked).collect();
        let now = self.await_strength(&mut host, &parts);
        let now = now.map_err(|what| self.with_events(&host, &what))?;
        let cgroup = self.cgroup_of(&run);
        Ok(Scene {
            host,
            run,
            cgroup,
            parts,
            now,
        })
    }

    /// The dead run's processes, records and directories are gone; nobody else was touched.
    fn check_sweep(&mut self, host: &Host, started: &serde_json::Value) -> Result<(), String> {
        let left = std::mem::take(&mut self.left);
        // Everything of the new host is below it, so whoever is beside it is of the old one.
        if let Err(left) = self.observer.await_nobody(Some(host.id.pid), AT_ONCE) {
            let names: Vec<String> = left.into_iter().map(describe).collect();
            return Err(format!("the sweep has left {names:?}; it said {started}"));
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
                "the sweep's {what} are wrong: {started}; what was left: {left:?}"
            ));
        }
        for remark in started["remarks"].as_array().into_iter().flatten() {
            self.tally.remark(&format!("the sweep remarked {remark}"));
        }
        if let Some(cgroup) = left.cgroup.filter(|cgroup| cgroup.exists()) {
            return Err(format!("the sweep has left {}", cgroup.display()));
        }
        let of_runs = self.run_directories();
        if of_runs.len() != 1 {
            return Err(format!("one run lives, and there are {of_runs:?}"));
        }
        Ok(())
    }

    /// Waits until a fault is survived, and weighs the survivors.
    fn recover(&mut self, scene: &mut Scene) -> Result<(), String> {
        let begun = Instant::now();
        scene.now = self.await_strength(&mut scene.host, &scene.parts)?;
        self.tally.recovered.push(begun.elapsed());
        self.tally.weigh("host", scene.host.id, flat::HOST);
        self.tally.weigh("guardian", scene.now.guardian, flat::GUARDIAN);
        if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            println!("{:>6} s  {}", self.begun.elapsed().as_secs(), self.tally.progress());
        }
        Ok(())
    }

    pub(crate) fn await_strength(&mut self, host: &mut Host, parts: &[&'static Part]) -> Result<Settled, String> {
        let begun = Instant::now();
        loop {
            let last = self.strength(host, parts)?;
            match last {
                Ok(settled) => return Ok(settled),
                Err(why) if begun.elapsed() > STRENGTH => {
                    return Err(format!("not at full strength after {STRENGTH:?}: {why}"));
                }
                Err(_) => pause(),
            }
        }
    }

    /// One look. The outer error is a failure, the inner one what is still to come.
    fn strength(&mut self, host: &mut Host, parts: &[&'static Part]) -> Result<Result<Settled, String>, String> {
        self.observer.reap();
        if let Some(end) = self.observer.end_of(host.id.pid) {
            host.read();
            return Err(format!("the host ended by itself: {end:?}, {:?}", host.over));
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
            return Ok(Err(format!("{} was killed and lives", describe(*victim))));
        }
        let expected = Expected {
            host: host.id,
            bystanders: self.observer.bystanders(),
            parts,
            wounded: &self.wounded,
        };
        let settled = settled(&status, &census, &expected);
        if settled.is_ok() {
            self.victims.clear();
        }
        Ok(settled)
    }

    /// Processes that look like workers of ours to anybody who goes by names, and are nobody's business.
    #[expect(
        clippy::zombie_processes,
        reason = "the observer reaps whatever becomes its child, these too"
    )]
    fn begin_bystanders(&mut self) {
        for modes in ["sleep", "ignore-term+sleep"] {
            let mut command = std::process::Command::new(program("ostler-test-worker"));
            command.args([modes, "0", &self.tag]);
            let child = dying_with_us(&command).spawn().expect("a bystander starts");
            let id = Id::of(i32::try_from(child.id()).expect("a pid")).expect("it is not reaped yet");
            self.observer.add_bystander(id);
        }
    }

    fn app(&self) -> String {
        format!("chaos{}", self.tag.trim_start_matches('.'))
    }

    pub(crate) fn app_dir(&self) -> PathBuf {
        self.directory.path().join("state").join(self.app())
    }

    /// All that is in the app's directory: runs', half-made and half-removed ones, stores that were set aside.
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

    /// How a host ended, once it has.
    pub(crate) fn await_end(&mut self, host: &mut Host, within: Duration) -> Result<WaitStatus, String> {
        let begun = Instant::now();
        loop {
            host.read();
            if let Some(status) = self.observer.end_of(host.id.pid) {
                // All that it has said is in the pipe still.
                host.read_until(AT_ONCE, |_| false);
                return Ok(status);
            }
            if begun.elapsed() > within {
                return Err(format!("the host did not end within {within:?}"));
            }
            pause();
        }
    }

    pub(crate) fn tell(&mut self, step: &str) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story
            .push_back(format!("{:>9.3} s  {step}", self.begun.elapsed().as_secs_f64()));
    }

    fn with_events(&self, host: &Host, what: &str) -> String {
        let events: Vec<&str> = host.last.iter().map(String::as_str).collect();
        format!("{what}\n\nThe host's last events:\n  {}", events.join("\n  "))
    }

    fn describe_failure(&mut self, what: &str) -> String {
        let steps: Vec<&str> = self.story.iter().map(String::as_str).collect();
        let left: Vec<String> = self.observer.survivors(None).into_iter().map(describe).collect();
        format!(
            "{what}\n\nWhat happened:\n  {}\n\nProcesses now:\n  {}",
            steps.join("\n  "),
            left.join("\n  ")
        )
    }
}
