use std::path::Path;

use ostler_os::limits::{GroupLimit, ProcessLimits};

use super::*;

/// A machine on which every promise holds.
fn good() -> Facts {
    Facts {
        machine: Machine {
            kernel: Some("6.8.0-45-generic".into()),
            uid: 1000,
            pid: 4242,
            proc: Ok(Proc {
                pid_namespace: 4_026_531_836,
                is_first_namespace: true,
                hidepid: None,
            }),
            subreaper: Ok(()),
            pidfd: Ok(()),
            pidfd_group: Ok(false),
            memfd_noexec: Some(0),
            ptrace_scope: Some(1),
            cgroup: Ok("/sys/fs/cgroup/app".into()),
            descriptors: (1024, 5000),
            process_limits: ProcessLimits {
                user: Some(5000),
                threads_max: Some(90_000),
                pid_max: Some(32_768),
                cgroup: None,
            },
            user_processes: 1000,
            system_processes: Some(2000),
        },
        guardian: Ok(ProgramFrom::Memory),
        state: Ok(Ok("/run/user/1000".into())),
        workers: None,
    }
}

fn of(facts: &Facts, check: &str) -> Finding {
    let mut found = judge(facts);
    found.retain(|finding| finding.check == check);
    assert_eq!(found.len(), 1, "{check}");
    found.remove(0)
}

/// What one changed fact does to its finding; no other finding may change with it.
fn changed(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = good();
    change(&mut facts);
    for (now, before) in judge(&facts).iter().zip(judge(&good())) {
        assert!(now.check == check || *now == before, "{now:?} instead of {before:?}");
    }
    of(&facts, check)
}

fn refused() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

#[test]
fn a_good_machine_holds_every_promise_and_wants_nothing() {
    for finding in judge(&good()) {
        assert_eq!((finding.level, &finding.advice), (Level::Holds, &None), "{finding:?}");
    }
}

/// What is not as on a good machine.
type Change = fn(&mut Facts);

#[test]
fn what_is_missing_breaks_or_weakens_and_says_what_to_do() {
    let cases: [(&str, Level, Change); 9] = [
        ("kernel", Level::Broken, |f| f.machine.kernel = Some("5.10.0".into())),
        ("kernel", Level::Unknown, |f| f.machine.kernel = None),
        ("subreaper", Level::Broken, |f| f.machine.subreaper = Err(refused())),
        ("pidfd", Level::Broken, |f| f.machine.pidfd = Err(refused())),
        ("guardian", Level::Broken, |f| {
            f.guardian = Err("nothing may run".into())
        }),
        ("cgroup", Level::Weaker, |f| {
            f.machine.cgroup = Err(Unusable::NotMounted)
        }),
        ("cgroup", Level::Weaker, |f| {
            f.machine.cgroup = Err(Unusable::NotDelegated { path: "/x".into() });
        }),
        ("state", Level::Broken, |f| {
            f.state = Ok(Err(RunDirError::LocksDontWork {
                path: "/x".into(),
                detail: "granted twice".into(),
            }));
        }),
        ("state", Level::Broken, |f| f.state = Err("no directory".into())),
    ];
    for (check, level, change) in cases {
        let finding = changed(check, change);
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.advice.is_some(), "{finding:?}");
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    let level = |release: &str| changed("kernel", |facts| facts.machine.kernel = Some(release.into())).level;
    assert_eq!(level("5.14.0"), Level::Holds);
    assert_eq!(level("5.9.16-arch1"), Level::Broken);
    assert_eq!(level("10.0"), Level::Holds);
    assert_eq!(level("unheard of"), Level::Unknown);
}

#[test]
fn a_proc_that_hides_others_weakens_for_people_but_not_for_root() {
    let hide = |uid| {
        let mut facts = good();
        facts.machine.uid = uid;
        facts.machine.proc.as_mut().unwrap().hidepid = Some("invisible".into());
        of(&facts, "proc")
    };
    assert_eq!(hide(1000).level, Level::Weaker);
    assert!(hide(1000).found.contains("hidepid=invisible"));
    assert_eq!(hide(0).level, Level::Holds);
    let mut facts = good();
    facts.machine.proc = Err(refused());
    assert_eq!(of(&facts, "proc").level, Level::Broken);
    assert_eq!(of(&facts, "namespace").level, Level::Unknown);
}

#[test]
fn pid_1_wants_an_init_and_another_namespace_is_no_fault() {
    let first = changed("namespace", |facts| facts.machine.pid = 1);
    assert_eq!(first.level, Level::Weaker);
    let elsewhere = changed("namespace", |facts| {
        facts.machine.proc.as_mut().unwrap().is_first_namespace = false;
    });
    assert_eq!(elsewhere.level, Level::Holds);
    assert!(elsewhere.means.contains("another one"), "{elsewhere:?}");
}

#[test]
fn a_guardian_from_a_file_is_as_good_and_named() {
    let finding = changed("guardian", |facts| {
        facts.guardian = Ok(ProgramFrom::File("/home/me/.cache/ostler/guardian-1".into()));
    });
    assert_eq!(finding.level, Level::Holds);
    assert!(finding.found.contains("/home/me/.cache"), "{finding:?}");
}

#[test]
fn the_narrowest_limit_says_how_many_workers_have_room() {
    // 5,000 of the user, 1,000 of them used.
    assert!(of(&good(), "processes").means.contains("about 2000 workers"));
    assert!(of(&good(), "descriptors").means.contains("about 1000 workers"));
    let root = changed_user(0);
    assert!(
        root.means.contains("about 15384 workers"),
        "pid_max binds root: {root:?}"
    );
    let grouped = changed("processes", |facts| {
        facts.machine.process_limits.cgroup = Some(GroupLimit {
            path: Path::new("/x").to_owned(),
            max: 100,
            current: 40,
        });
    });
    assert!(grouped.means.contains("about 30 workers"), "{grouped:?}");
    let endless = changed("descriptors", |facts| facts.machine.descriptors = (1024, u64::MAX));
    assert!(endless.means.contains("unlimited"), "{endless:?}");
}

fn changed_user(uid: u32) -> Finding {
    let mut facts = good();
    facts.machine.uid = uid;
    of(&facts, "processes")
}

#[test]
fn more_workers_than_have_room_are_a_weakness_with_its_failure_reason() {
    let mut facts = good();
    facts.workers = Some(1001);
    let tight = of(&facts, "descriptors");
    assert_eq!(tight.level, Level::Weaker);
    assert!(tight.means.contains("room for 1000 of 1001 workers"), "{tight:?}");
    assert!(tight.means.contains("descriptor_limit"), "{tight:?}");
    assert_eq!(of(&facts, "processes").level, Level::Holds);
    facts.workers = Some(2001);
    assert!(of(&facts, "processes").means.contains("process_limit"));
    facts.machine.descriptors = (2, 2);
    facts.workers = None;
    assert_eq!(of(&facts, "descriptors").level, Level::Weaker, "not one has room");
}
