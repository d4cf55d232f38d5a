mod replaced;

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ostler_core::chain::repeats_its_source;
use ostler_core::ids::RunId;

use super::*;
use crate::record::{Owner, UnixNanos};
use crate::samples::{process, reserved};
use crate::store::{Engine, StoreError};

fn info(number: u64) -> RunInfo {
    let owner = Owner {
        app: "demo".to_owned(),
        instance: "main".to_owned(),
        run: RunId::from_parts(number, [7; 10]),
    };
    RunInfo::new(
        &owner,
        process(4242),
        Engine::DEFAULT,
        UnixNanos(1_700_000_000_000_000_000),
    )
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("listed");
    entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
        .collect()
}

fn opened(path: &Path) -> PrivateDir {
    PrivateDir::open(path).expect("private")
}

/// Leaves a run as a dead host would: with its lock released and its directory in place.
fn dead(app_dir: &Path, number: u64) -> PathBuf {
    RunDir::create(app_dir, info(number)).expect("made").path().to_owned()
}

fn only(mut found: Vec<FoundRun>) -> FoundRun {
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn run_is_created_described_and_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let app_dir = dir.path().join("state/demo");
    let run = RunDir::create(&app_dir, info(1)).expect("made");
    assert_eq!(names(&app_dir), BTreeSet::from([info(1).run.to_string()]));
    assert_eq!(
        names(run.path()),
        BTreeSet::from(["guardian.lock".to_owned(), "run.json".to_owned(), "run.lock".to_owned()])
    );
    assert_eq!(info::read(&opened(run.path())).expect("readable"), info(1));

    run.set_guardian(Some(process(99))).expect("written");
    run.set_cgroup(Some("/demo".to_owned())).expect("written");
    let expected = RunInfo {
        guardian: Some(process(99)),
        cgroup: Some("/demo".to_owned()),
        ..info(1)
    };
    assert_eq!(info::read(&opened(run.path())).expect("readable"), expected);
    assert_eq!(run.info(), expected);

    run.remove().expect("removed");
    assert_eq!(names(&app_dir), BTreeSet::new());
}

#[test]
fn directories_are_accessible_to_their_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temporary directory");
    let app_dir = dir.path().join("demo");
    let run = RunDir::create(&app_dir, info(1)).expect("made");
    for path in [&app_dir, run.path()] {
        assert_eq!(
            path.metadata().expect("there").permissions().mode() & 0o777,
            0o700,
            "{}",
            path.display()
        );
    }
}

#[test]
fn own_run_counts_as_live() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let _run = RunDir::create(dir.path(), info(1)).expect("made");
    let FoundRun::Live(live) = only(runs(dir.path()).expect("listed")) else {
        panic!("live")
    };
    assert_eq!((live.run, live.info.expect("readable")), (info(1).run, info(1)));
    // The first look must not have released the lock, as it would with classic fcntl locks.
    assert!(matches!(only(runs(dir.path()).expect("listed")), FoundRun::Live(_)));
}

#[test]
fn dead_run_is_found_by_one_sweep_only() {
    let dir = tempfile::tempdir().expect("temporary directory");
    dead(dir.path(), 1);
    let first = runs(dir.path()).expect("listed");
    assert!(
        matches!(only(runs(dir.path()).expect("listed")), FoundRun::Live(_)),
        "the first sweep holds the lock"
    );
    let FoundRun::Dead(run) = only(first) else {
        panic!("dead")
    };
    assert_eq!(run.info().expect("readable"), &info(1));
    assert!(run.records().expect("no store yet").records.is_empty());
    run.remove().expect("removed");
    assert_eq!(names(dir.path()), BTreeSet::new());
    assert!(runs(dir.path()).expect("listed").is_empty());
}

#[test]
fn missing_app_directory_has_no_runs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    assert!(runs(&dir.path().join("nowhere")).expect("none").is_empty());
    assert_eq!(remove_leftovers(&dir.path().join("nowhere")).expect("none"), 0);
}

#[test]
fn half_created_and_half_removed_directories_are_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path(".new-empty")).expect("made");
    fs::create_dir(path(".new-locked-once")).expect("made");
    fs::write(path(".new-locked-once").join("run.lock"), "").expect("written");
    fs::create_dir_all(path(".gone-half/table.rocksdb")).expect("made");
    fs::create_dir_all(path(".new-being-locked-now/run.lock.almost")).expect("made");
    fs::create_dir(path(".new-alive")).expect("made");
    let Taken::Ours(_maker) = RunLock::create(&opened(&path(".new-alive")), HOST_LOCK).expect("locked") else {
        panic!("ours")
    };
    fs::create_dir(path("set-aside")).expect("made");
    let _live = RunDir::create(dir.path(), info(1)).expect("made");

    assert_eq!(remove_leftovers(dir.path()).expect("cleared"), 3);
    let left = [
        ".new-alive".to_owned(),
        ".new-being-locked-now".to_owned(),
        info(1).run.to_string(),
        "set-aside".to_owned(),
    ];
    assert_eq!(names(dir.path()), BTreeSet::from(left));
}

#[test]
fn run_without_its_lock_is_reported_and_not_touched() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dead(dir.path(), 1);
    fs::remove_file(path.join("run.lock")).expect("removed");
    let FoundRun::Unreadable { path: found, reason } = only(runs(dir.path()).expect("listed")) else {
        panic!("unreadable")
    };
    assert_eq!(found, path);
    assert!(reason.to_string().contains("no run.lock"), "{reason}");
    assert!(path.join("run.json").exists());
}

#[test]
fn dead_run_without_readable_description_still_has_its_id() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dead(dir.path(), 1);
    let newer = format!(r#"{{"format": {}, "something": "else"}}"#, RUN_FORMAT + 1);
    for (text, expected) in [
        (newer.as_str(), "has format 2"),
        ("{", "damaged"),
        (r#"{"format": 1}"#, "damaged"),
    ] {
        fs::write(path.join("run.json"), text).expect("written");
        let FoundRun::Dead(run) = only(runs(dir.path()).expect("listed")) else {
            panic!("dead")
        };
        assert_eq!(run.run(), info(1).run);
        let error = run.info().expect_err("unreadable run.json");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.source().is_some(), expected == "damaged", "{error}");
        assert!(!repeats_its_source(error), "{error:?}");
        assert!(run.records().expect("no store was made").records.is_empty());
    }
}

#[test]
fn unknown_engine_is_reported_by_name() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let future = RunInfo {
        engine: "dets".to_owned(),
        ..info(1)
    };
    drop(RunDir::create(dir.path(), future).expect("made"));
    let FoundRun::Dead(run) = only(runs(dir.path()).expect("listed")) else {
        panic!("dead")
    };
    let error = run.records().expect_err("missing");
    assert!(
        matches!(&error, StoreError::EngineMissing { name } if name == "dets"),
        "{error}"
    );
}

#[test]
fn readable_records_of_a_dead_run_are_returned_and_its_damaged_store_is_kept() {
    use crate::codec::encode_record;
    use crate::store::Change;
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dead(dir.path(), 1);
    let engine = Engine::DEFAULT;
    let mut store = engine.open(&path.join(engine.file_name())).expect("opens");
    let put = |key: &[u8], value: Vec<u8>| Change::Put {
        key: key.to_vec(),
        value,
    };
    let good = encode_record(&reserved("embed", 0, 1)).expect("encodes");
    store
        .apply(&[put(b"a", good), put(b"b", vec![1, 0, 9])])
        .expect("written");
    drop(store);

    let FoundRun::Dead(run) = only(runs(dir.path()).expect("listed")) else {
        panic!("dead")
    };
    let found = run.records().expect("readable");
    assert_eq!(found.records, vec![reserved("embed", 0, 1)]);
    assert_eq!(found.unreadable.len(), 1);
    let why = StoreError::Corrupt {
        path: path.clone(),
        detail: "one row".to_owned(),
    };
    let kept = run.set_aside(why).expect("moved").expect("worth keeping").path;
    run.remove().expect("removed");
    assert!(kept.exists() && !path.exists());
}

#[test]
fn unwritable_directory_is_an_error_with_path_and_suggestion() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("demo");
    fs::write(&file, "in the way").expect("written");
    let error = RunDir::create(&file.join("sub"), info(1)).expect_err("not a directory");
    assert!(error.to_string().contains("demo/sub"), "{error}");
    assert!(error.suggestion().contains("state directory"));
    // /proc refuses to create a directory, even for root.
    assert!(RunDir::create(Path::new("/proc/ostler"), info(1)).is_err());
}

/// Concurrent creation and sweeps in one directory: no creation fails, no live run is swept,
/// nothing is left.
#[test]
fn creation_and_sweeps_do_not_interfere() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let app_dir = dir.path();
    let (makers, rounds) = (3, 60);
    let (start, done, swept) = (Barrier::new(makers + 2), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                while !done.load(Ordering::SeqCst) {
                    remove_leftovers(app_dir).expect("cleared");
                    for found in runs(app_dir).expect("listed") {
                        if let FoundRun::Dead(run) = found {
                            assert_eq!(run.info().expect("whole").instance, "dies");
                            run.remove().expect("removed");
                            swept.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
        let threads: Vec<_> = (0..makers as u64)
            .map(|maker| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    for round in 0..rounds {
                        let dies = round % 2 == 0;
                        let instance = if dies { "dies" } else { "stops" }.to_owned();
                        let info = RunInfo {
                            instance,
                            ..info(maker * 1_000 + round)
                        };
                        let run = RunDir::create(app_dir, info).expect("made");
                        match dies {
                            true => drop(run),
                            false => run.remove().expect("removed"),
                        }
                    }
                })
            })
            .collect();
        let failed = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let all = || failed > 0 || swept.load(Ordering::SeqCst) >= makers * rounds as usize / 2;
        while !all() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        done.store(true, Ordering::SeqCst);
        assert_eq!(failed, 0, "creations failed");
    });
    assert_eq!(swept.load(Ordering::SeqCst), makers * rounds as usize / 2);
    assert_eq!(names(app_dir), BTreeSet::new());
}

#[test]
fn guardians_are_waited_for_while_their_lock_is_held() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = RunDir::create(dir.path(), info(1)).expect("made");
    // The copy of a sitter that outlives the host.
    let copy = run.guardian_lock().try_clone().expect("cloning the lock");
    drop(run);
    let found = runs(dir.path()).expect("listed");
    let [FoundRun::Dead(dead)] = &found[..] else {
        panic!("{found:?}")
    };
    let soon = || Instant::now() + Duration::from_millis(20);
    assert!(!dead.await_guardians(soon()).expect("known"), "a sitter is alive");
    drop(copy);
    assert!(dead.await_guardians(soon()).expect("known"));
    fs::remove_file(dead.path().join("guardian.lock")).expect("removed");
    let unknown = dead.await_guardians(soon());
    assert!(matches!(unknown, Err(RunDirError::NoLock { .. })), "{unknown:?}");
}

#[test]
fn try_out_leaves_no_trace() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = try_out(&dir.path().join("not/there/yet")).expect("usable directory");
    assert_eq!(place, dir.path());
    assert_eq!(names(dir.path()), BTreeSet::new());
    let refused = try_out(Path::new("/proc/self"));
    assert!(matches!(refused, Err(RunDirError::Io { .. })), "{refused:?}");
}

#[test]
fn try_out_removes_nothing_that_it_did_not_make() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let foreign = dir.path().join(format!(".ostler-trial-{}", std::process::id()));
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("file"), "somebody's").expect("written");
    try_out(dir.path()).expect("usable directory");
    assert!(foreign.join("file").exists());
}

/// Leaves a dead run, and sets the mode of its app's or of its own directory.
fn dead_in_mode(app_dir: &Path, mode: u32, of_app_dir: bool) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(app_dir).expect("created");
    let run = dead(app_dir, 1);
    let changed = if of_app_dir { app_dir } else { &run };
    fs::set_permissions(changed, fs::Permissions::from_mode(mode)).expect("set");
    run
}

/// What another user could have planted is neither believed nor removed.
#[test]
fn runs_that_another_user_could_have_planted_are_left_alone() {
    for mode in [0o777, 0o720, 0o702] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let app_dir = dir.path().join("app");
        let run = dead_in_mode(&app_dir, mode, true);
        let refused = runs(&app_dir).expect_err("the app's directory is writable");
        assert!(matches!(refused, RunDirError::Untrusted { .. }), "{mode:o}: {refused}");
        assert!(refused.suggestion().contains("state_dir"));
        assert!(remove_leftovers(&app_dir).is_err());
        let refused = RunDir::create(&app_dir, info(2)).expect_err("not trusted");
        assert!(matches!(refused, RunDirError::Untrusted { .. }), "{mode:o}: {refused}");
        assert!(run.exists());

        let app_dir = dir.path().join("other");
        let run = dead_in_mode(&app_dir, mode, false);
        let FoundRun::Unreadable { path, reason } = only(runs(&app_dir).expect("listed")) else {
            panic!("the run's directory is writable")
        };
        assert!(matches!(reason, RunDirError::Untrusted { .. }), "{mode:o}: {reason}");
        assert_eq!(path, run);
    }
}

#[test]
fn links_are_not_followed_to_runs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    let run = dead(&real, 1);
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    assert!(matches!(runs(&link), Err(RunDirError::Untrusted { .. })));
    // The run's directory, and then its lock, are links.
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("created");
    std::os::unix::fs::symlink(&run, other.join(info(1).run.to_string())).expect("linked");
    let found = only(runs(&other).expect("listed"));
    assert!(
        matches!(
            &found,
            FoundRun::Unreadable {
                reason: RunDirError::Untrusted { .. },
                ..
            }
        ),
        "{found:?}"
    );
    let own_lock = run.join("run.lock");
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&own_lock, &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, &own_lock).expect("linked");
    assert!(matches!(
        only(runs(&real).expect("listed")),
        FoundRun::Unreadable { .. }
    ));
}

#[test]
fn a_run_of_another_user_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: making another user's directory needs root");
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = dead(dir.path(), 1);
    let other = Some(nix::unistd::Uid::from_raw(65534));
    nix::unistd::chown(&run, other, None).expect("given away");
    let found = only(runs(dir.path()).expect("listed"));
    assert!(
        matches!(
            &found,
            FoundRun::Unreadable {
                reason: RunDirError::Untrusted {
                    why: Distrust::ForeignOwner { uid: 65534 },
                    ..
                },
                ..
            }
        ),
        "{found:?}"
    );
    nix::unistd::chown(dir.path(), other, None).expect("given away");
    assert!(matches!(runs(dir.path()), Err(RunDirError::Untrusted { .. })));
}

/// logind removes the runtime directory at the last logout.
#[test]
fn scratch_directory_has_a_locked_spare_when_the_state_directory_is_removed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let app_dir = dir.path().join("state/demo");
    let run = RunDir::create(&app_dir, info(1)).expect("made");
    let scratch = Scratch::of(run.path());
    assert_eq!(scratch.directory().expect("there"), run.path());

    fs::remove_dir_all(dir.path().join("state")).expect("removed");
    let spare = scratch.directory().expect("a spare one");
    assert_ne!(spare, run.path());
    assert_eq!(scratch.directory().expect("the same"), spare);
    fs::write(spare.join("worker.ready"), "1").expect("written");
    assert_eq!(remove_leftovers(&app_dir).expect("cleared"), 0, "its host lives");
    assert!(runs(&app_dir).expect("listed").is_empty(), "it is no run");

    fs::remove_dir_all(dir.path().join("state")).expect("removed again");
    assert_eq!(scratch.directory().expect("made again"), spare);
    fs::write(spare.join("worker.ready"), "1").expect("written");
    drop(scratch);
    assert_eq!(remove_leftovers(&app_dir).expect("cleared"), 1, "its host has died");
    assert_eq!(names(&app_dir), BTreeSet::new());
    run.remove().expect("there is nothing to do");
}

#[test]
fn spare_scratch_directory_is_removed_with_the_run() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let app_dir = dir.path().join("demo");
    let run = RunDir::create(&app_dir, info(1)).expect("made");
    let scratch = Scratch::of(run.path());
    scratch.remove_spare().expect("there is none");
    fs::remove_dir_all(&app_dir).expect("removed");
    scratch.directory().expect("a spare one");
    scratch.remove_spare().expect("removed");
    run.remove().expect("there is nothing to do");
    assert_eq!(names(&app_dir), BTreeSet::new());
}
