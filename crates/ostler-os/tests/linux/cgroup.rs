//! Containment by cgroup, where this machine has it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ostler_core::ids::{RunId, WorkerId};
use ostler_os::cgroup::{CgroupUse, RunGroup, Site, Unusable};

use crate::common::{Troupe, is_root, run_as_nobody, soon, until};

fn some_run() -> RunId {
    RunId::from_u128(uuid::Uuid::now_v7().as_u128())
}

/// The site, or why the test is skipped.
fn site() -> Option<Site> {
    match Site::find(CgroupUse::Auto) {
        Ok(site) => Some(site),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// A run whose group goes at the end of the test, however that ends.
struct TestRun(RunGroup);

impl TestRun {
    fn new(site: &Site, run: RunId) -> Self {
        Self(site.create_run(run).expect("made"))
    }
}

impl std::ops::Deref for TestRun {
    type Target = RunGroup;

    fn deref(&self) -> &RunGroup {
        &self.0
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        let _ = self.group().kill();
        let _ = self.group().remove_until(soon());
    }
}

/// A shell that enters the group by itself and only then starts the others: what the guardian does at clone.
fn spawn_inside(troupe: &mut Troupe, group: &Path, script: &str) -> i32 {
    let script = format!("echo $$ > {}/cgroup.procs && {script}", group.display());
    let (pid, line) = troupe.spawn_and_hear(troupe.command("sh", &["-c", &script]));
    assert_eq!(line, "up");
    pid
}

#[test]
fn switched_off_is_off() {
    assert!(matches!(Site::find(CgroupUse::Off), Err(Unusable::SwitchedOff)));
}

#[test]
fn nobody_is_told_why_there_is_none() {
    if is_root() {
        run_as_nobody("cgroup::nobody_is_told_why_there_is_none");
        return;
    }
    match Site::find(CgroupUse::Auto) {
        Err(Unusable::NotWritable { path, .. }) => assert!(path.is_dir()),
        Err(Unusable::NotMounted | Unusable::NotVisible { .. } | Unusable::NotDelegated { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_kills_all_that_was_born_in_it_whatever_it_did() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let run = TestRun::new(&site, some_run());
    let slot = run.slot(&WorkerId::new("embed", 0)).expect("made");
    assert_eq!(slot.path().file_name().and_then(|name| name.to_str()), Some("embed-0"));
    assert!(!slot.is_populated().expect("read"));
    assert_eq!(slot.oom_kills().unwrap_or_default(), 0);

    // Double-forked, in sessions of their own, without environment, ignoring TERM.
    let script = "trap '' TERM; (setsid env -i sh -c \"trap '' TERM; sleep 600 & sleep 600\" &) ; echo up; sleep 600";
    spawn_inside(&mut troupe, slot.path(), script);
    until("all of them are in it", || slot.pids().expect("read").len() >= 5);
    assert_eq!(
        run.group().pids().expect("read").len(),
        slot.pids().expect("read").len()
    );
    assert!(slot.is_populated().expect("read") && run.group().is_populated().expect("read"));
    assert!(!slot.try_remove().expect("asked"), "somebody is in it");

    slot.kill().expect("killed");
    until("it is empty", || !slot.is_populated().expect("read"));
    troupe.assert_none_left();
    assert!(slot.remove_until(soon()).expect("removed"));
    assert!(slot.try_remove().expect("what is gone is removed"));
    slot.kill().expect("what is gone has nobody to kill");
    assert!(!slot.is_populated().expect("what is gone has nobody"));
    assert!(run.group().remove_until(soon()).expect("removed"));
    assert!(!run.group().path().exists());
}

#[test]
fn the_next_incarnation_takes_the_slots_group_as_it_is() {
    let Some(site) = site() else { return };
    let run = TestRun::new(&site, some_run());
    let first = run.slot(&WorkerId::new("embed", 7)).expect("made");
    let second = run.slot(&WorkerId::new("embed", 7)).expect("taken");
    assert_eq!(first.path(), second.path());
    assert_ne!(run.slot(&WorkerId::new("embed", 8)).expect("made").path(), first.path());
    assert!(run.group().remove_until(soon()).expect("removed with its slots"));
}

/// A late kill for an incarnation whose group was removed meanwhile struck the next one, which had got its path.
#[test]
fn a_group_that_is_gone_kills_nobody_in_the_next_of_its_name() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let run = TestRun::new(&site, some_run());
    let worker = WorkerId::new("embed", 0);
    let gone = run.slot(&worker).expect("made");
    assert!(gone.remove_until(soon()).expect("removed"));
    let next = run.slot(&worker).expect("made again");
    assert_eq!(gone.path(), next.path());
    let innocent = spawn_inside(&mut troupe, next.path(), "echo up; sleep 600");
    until("it is in the next one", || {
        next.pids().expect("read").contains(&innocent)
    });

    gone.kill().expect("what is gone has nobody to kill");
    assert!(!gone.is_populated().expect("what is gone has nobody"));
    assert!(gone.is_empty_by(Instant::now()).expect("what is gone has nobody"));
    assert!(!next.is_empty_by(Instant::now()).expect("read"));
    // The kernel kills while the write is under way: who lives now was not struck.
    let fate = fs::read_to_string(format!("/proc/{innocent}/stat")).expect("it lives");
    assert!(!fate.contains(") Z "), "{fate}");

    next.kill().expect("killed");
    assert!(next.is_empty_by(soon()).expect("read"));
    troupe.assert_none_left();
}

#[test]
fn a_dead_runs_group_is_killed_and_removed_whole_and_no_other_is() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let (dead, live) = (some_run(), some_run());
    let dead_path = {
        let run = site.create_run(dead).expect("made");
        let slot = run.slot(&WorkerId::new("embed", 0)).expect("made");
        // An Ostler inside the worker has made a group of its own below.
        let nested = slot.path().join("ostler-nested");
        fs::create_dir(&nested).expect("made");
        spawn_inside(&mut troupe, &nested, "echo up; sleep 600");
        run.group().path().to_owned()
    };
    let live_run = TestRun::new(&site, live);

    assert!(
        RunGroup::of_dead_run(live_run.group().path(), dead).is_err(),
        "a path of another run is refused"
    );
    assert!(RunGroup::of_dead_run(Path::new("/tmp"), dead).is_err());
    let missing = live_run.group().path().with_file_name(format!("ostler-{}", some_run()));
    let missing_run = missing
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix("ostler-"));
    let missing_run = missing_run.expect("a name").parse().expect("a run");
    assert!(RunGroup::of_dead_run(&missing, missing_run).expect("asked").is_none());

    let found = RunGroup::of_dead_run(&dead_path, dead).expect("opened").expect("there");
    found.group().kill().expect("killed");
    assert!(found.group().remove_until(soon()).expect("removed"));
    troupe.assert_none_left();
    assert!(live_run.group().path().exists());
    assert!(live_run.group().remove_until(soon()).expect("removed"));
}

#[test]
fn what_only_looks_like_a_group_is_refused() {
    let run = some_run();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(format!("ostler-{run}"));
    fs::create_dir(&path).expect("made");
    assert!(RunGroup::of_dead_run(&path, run).is_err(), "it is no cgroup");
    assert!(path.exists());
}
