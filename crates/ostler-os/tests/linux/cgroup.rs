//! Containment by cgroup, on machines that provide it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ostler_core::ids::{RunId, WorkerId};
use ostler_os::cgroup::{CgroupUse, RunGroup, Site, Unusable};

use crate::common::{Troupe, is_root, run_unprivileged, soon, until};

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

/// A run whose group is removed on drop, even if the test fails.
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

/// Starts a shell that enters the group before it starts other processes, as the guardian does at
/// clone.
fn spawn_inside(troupe: &mut Troupe, group: &Path, script: &str) -> i32 {
    let script = format!("echo $$ > {}/cgroup.procs && {script}", group.display());
    let (pid, line) = troupe.spawn_and_read_line(troupe.command("sh", &["-c", &script]));
    assert_eq!(line, "up");
    pid
}

#[test]
fn containment_can_be_switched_off() {
    assert!(matches!(Site::find(CgroupUse::Off), Err(Unusable::SwitchedOff)));
}

#[test]
fn unprivileged_user_gets_the_reason_for_missing_cgroups() {
    if is_root() {
        run_unprivileged("cgroup::unprivileged_user_gets_the_reason_for_missing_cgroups");
        return;
    }
    match Site::find(CgroupUse::Auto) {
        Err(Unusable::NotWritable { path, .. }) => assert!(path.is_dir()),
        Err(Unusable::NotMounted | Unusable::NotVisible { .. } | Unusable::NotDelegated { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn group_kills_every_process_started_in_it() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let run = TestRun::new(&site, some_run());
    let slot = run.slot(&WorkerId::new("embed", 0), None).expect("made");
    assert_eq!(slot.path().file_name().and_then(|name| name.to_str()), Some("embed-0"));
    assert!(!slot.is_populated().expect("read"));

    // Double-forked, in sessions of their own, without environment, ignoring TERM.
    let script = "trap '' TERM; (setsid env -i sh -c \"trap '' TERM; sleep 600 & sleep 600\" &) ; echo up; sleep 600";
    spawn_inside(&mut troupe, slot.path(), script);
    until("all processes are in the group", || {
        slot.pids().expect("read").len() >= 5
    });
    assert_eq!(
        run.group().pids().expect("read").len(),
        slot.pids().expect("read").len()
    );
    assert!(slot.is_populated().expect("read") && run.group().is_populated().expect("read"));
    assert!(
        !slot.try_remove().expect("removing the group"),
        "the group is not empty"
    );

    slot.kill().expect("killed");
    until("the group is empty", || !slot.is_populated().expect("read"));
    troupe.assert_none_left();
    assert!(slot.remove_until(soon()).expect("removed"));
    assert!(slot.try_remove().expect("a missing group counts as removed"));
    slot.kill().expect("killing a missing group");
    assert!(!slot.is_populated().expect("reading a missing group"));
    assert!(run.group().remove_until(soon()).expect("removed"));
    assert!(!run.group().path().exists());
}

#[test]
fn next_incarnation_reuses_the_slots_group() {
    let Some(site) = site() else { return };
    let run = TestRun::new(&site, some_run());
    let first = run.slot(&WorkerId::new("embed", 7), None).expect("made");
    let second = run.slot(&WorkerId::new("embed", 7), None).expect("taken");
    assert_eq!(first.path(), second.path());
    assert_ne!(
        run.slot(&WorkerId::new("embed", 8), None).expect("made").path(),
        first.path()
    );
    assert!(
        run.group()
            .remove_until(soon())
            .expect("removing the group with its slots")
    );
}

/// At the end of a run, one busy group must not leave the others to a second attempt.
#[test]
fn busy_group_does_not_keep_its_neighbours() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let run = TestRun::new(&site, some_run());
    let slots: Vec<_> = (0..9)
        .map(|index| run.slot(&WorkerId::new("embed", index), None).expect("made"))
        .collect();
    let busy = &slots[4];
    spawn_inside(&mut troupe, busy.path(), "echo up; sleep 600");
    until("the process is in the group", || busy.is_populated().expect("read"));

    assert!(!run.group().try_remove().expect("removing what is empty"));
    for slot in &slots {
        assert_eq!(
            slot.path().exists(),
            slot.path() == busy.path(),
            "{}",
            slot.path().display()
        );
    }

    busy.kill().expect("killed");
    assert!(run.group().remove_until(soon()).expect("removed"));
    troupe.assert_none_left();
}

/// Regression: a late kill for an incarnation whose group had been removed hit the next one, which
/// had the same path.
#[test]
fn removed_group_kills_nothing_in_its_successor() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let run = TestRun::new(&site, some_run());
    let worker = WorkerId::new("embed", 0);
    let gone = run.slot(&worker, None).expect("made");
    assert!(gone.remove_until(soon()).expect("removed"));
    let next = run.slot(&worker, None).expect("creating the group again");
    assert_eq!(gone.path(), next.path());
    let innocent = spawn_inside(&mut troupe, next.path(), "echo up; sleep 600");
    until("the process is in the new group", || {
        next.pids().expect("read").contains(&innocent)
    });

    gone.kill().expect("killing a missing group");
    assert!(!gone.is_populated().expect("reading a missing group"));
    assert!(gone.is_empty_by(Instant::now()).expect("waiting for a missing group"));
    assert!(!next.is_empty_by(Instant::now()).expect("read"));
    // The kernel kills during the write, so a process that is alive now was not hit.
    let fate = fs::read_to_string(format!("/proc/{innocent}/stat")).expect("process is running");
    assert!(!fate.contains(") Z "), "{fate}");

    next.kill().expect("killed");
    assert!(next.is_empty_by(soon()).expect("read"));
    troupe.assert_none_left();
}

#[test]
fn only_the_dead_runs_group_is_killed_and_removed() {
    let Some(site) = site() else { return };
    let mut troupe = Troupe::new();
    let (dead, live) = (some_run(), some_run());
    let dead_path = {
        let run = site.create_run(dead).expect("made");
        let slot = run.slot(&WorkerId::new("embed", 0), None).expect("made");
        // An Ostler inside the worker has created its own group below.
        let nested = slot.path().join("ostler-nested");
        fs::create_dir(&nested).expect("made");
        spawn_inside(&mut troupe, &nested, "echo up; sleep 600");
        run.group().path().to_owned()
    };
    let live_run = TestRun::new(&site, live);

    assert!(
        RunGroup::of_dead_run(live_run.group().path(), dead).is_err(),
        "a path of another run must be refused"
    );
    assert!(RunGroup::of_dead_run(Path::new("/tmp"), dead).is_err());
    let missing = live_run.group().path().with_file_name(format!("ostler-{}", some_run()));
    let missing_run = missing
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix("ostler-"));
    let missing_run = missing_run.expect("name of the run").parse().expect("run id");
    assert!(RunGroup::of_dead_run(&missing, missing_run).expect("asked").is_none());

    let found = RunGroup::of_dead_run(&dead_path, dead).expect("opened").expect("there");
    found.group().kill().expect("killed");
    assert!(found.group().remove_until(soon()).expect("removed"));
    troupe.assert_none_left();
    assert!(live_run.group().path().exists());
    assert!(live_run.group().remove_until(soon()).expect("removed"));
}

#[test]
fn directory_that_is_not_a_cgroup_is_refused() {
    let run = some_run();
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join(format!("ostler-{run}"));
    fs::create_dir(&path).expect("made");
    assert!(RunGroup::of_dead_run(&path, run).is_err(), "not a cgroup");
    assert!(path.exists());
}
