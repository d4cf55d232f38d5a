//! Directories and files of a run that are replaced, or are links: nothing foreign is read, written
//! or removed.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::store::{Change, Opened};

const FOREIGN: &str = "not ours";

/// A directory with one file in it.
fn foreign(path: &Path, file: &str) -> PathBuf {
    fs::create_dir_all(path).expect("made");
    let file = path.join(file);
    fs::write(&file, FOREIGN).expect("written");
    file
}

fn is_untouched(file: &Path) -> bool {
    fs::read(file).is_ok_and(|bytes| bytes == FOREIGN.as_bytes()) && names(file.parent().expect("parent")).len() == 1
}

fn found_dead(app_dir: &Path) -> DeadRun {
    match only(runs(app_dir).expect("listed")) {
        FoundRun::Dead(run) => run,
        other => panic!("{other:?}"),
    }
}

/// Moves a directory away, and puts a link to another one in its place.
fn replace(path: &Path, by: &Path) -> PathBuf {
    let moved = path.with_extension("moved");
    fs::rename(path, &moved).expect("moved");
    symlink(by, path).expect("linked");
    moved
}

#[test]
fn live_run_stays_in_its_directory_when_the_path_leads_elsewhere() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (app_dir, name) = (dir.path().join("demo"), info(1).run.to_string());
    let run = RunDir::create(&app_dir, info(1)).expect("made");
    let elsewhere = dir.path().join("elsewhere");
    let theirs = foreign(&elsewhere.join(&name), "run.json");
    let moved = replace(&app_dir, &elsewhere);

    run.set_guardian(Some(process(99))).expect("written");
    let written = info::read(&opened(&moved.join(&name))).expect("readable");
    assert_eq!(written.guardian, Some(process(99)));

    for engine in Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in()) {
        let Opened { mut store, .. } = run.place(engine).open().expect("opens");
        let (key, value) = (b"a".to_vec(), vec![1, 0, 9]);
        store.apply(&[Change::Put { key, value }]).expect("written");
        drop(store);
        // The row is damaged, so the store is set aside and another one begun.
        let aside = run.place(engine).open().expect("opens").set_aside.expect("damaged");
        assert_eq!(aside.path.parent(), Some(run.set_aside_dir().as_path()));
        assert!(moved.join(&name).join(engine.file_name()).exists());
        let aside = aside.path.file_name().expect("name").to_owned();
        assert!(moved.join("set-aside").join(aside).exists());
    }
    run.remove().expect("removed");
    assert_eq!(names(&moved), BTreeSet::from(["set-aside".to_owned()]));
    assert!(is_untouched(&theirs));
    assert_eq!(names(&elsewhere), BTreeSet::from([name]));
}

#[test]
fn what_took_the_place_of_a_runs_directory_is_not_removed_and_not_used() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = RunDir::create(dir.path(), info(1)).expect("made");
    let (path, scratch) = (run.path().to_owned(), Scratch::of(run.path()));
    fs::rename(&path, dir.path().join("moved")).expect("moved");
    let theirs = foreign(&path, "file");
    for refused in [scratch.directory().map(drop), run.remove()] {
        let error = refused.expect_err("replaced");
        let is_named = |found: &Path| found == path;
        assert!(
            matches!(&error, RunDirError::Untrusted { path, why: Distrust::Replaced } if is_named(path)),
            "{error:?}"
        );
        assert!(error.suggestion().contains("replaced"), "{}", error.suggestion());
    }
    assert!(is_untouched(&theirs));

    // The same with a dead run and a link.
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dead(dir.path(), 1);
    let run = found_dead(dir.path());
    let theirs = foreign(&dir.path().join("other"), "file");
    replace(&path, &dir.path().join("other"));
    assert!(matches!(run.remove(), Err(RunDirError::Untrusted { .. })));
    assert!(is_untouched(&theirs) && path.is_symlink());
}

#[test]
fn links_are_not_written_through() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = RunDir::create(&dir.path().join("demo"), info(1)).expect("made");
    let theirs = foreign(&dir.path().join("other"), "file");
    for name in [".run.json.new", "table.redb-new"] {
        symlink(&theirs, run.path().join(name)).expect("linked");
    }
    run.set_guardian(Some(process(99))).expect("written");
    assert_eq!(info::read(&opened(run.path())).expect("readable"), run.info());
    #[cfg(feature = "redb")]
    drop(run.place(Engine::Redb).open().expect("opens"));
    assert!(is_untouched(&theirs));
}

/// A file of a dead run that only this user can have written is believed, and no other.
#[test]
fn description_that_another_user_could_have_written_is_not_believed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dead(dir.path(), 1).join("run.json");
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
    let refused = || {
        let error = found_dead(dir.path())
            .info()
            .expect_err("not trusted")
            .source()
            .map(ToString::to_string);
        error.expect("source")
    };
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    for mode in [0o620, 0o602] {
        set_mode(mode);
        assert!(refused().contains("lets other users write to it"), "{}", refused());
    }
    set_mode(0o644);
    assert!(found_dead(dir.path()).info().is_ok());
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(&file, Some(nix::unistd::Uid::from_raw(65534)), None).expect("given away");
        assert!(refused().contains("belongs to user 65534"), "{}", refused());
        nix::unistd::chown(&file, Some(nix::unistd::geteuid()), None).expect("taken back");
    }
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&file, &elsewhere).expect("moved");
    symlink(&elsewhere, &file).expect("linked");
    assert!(refused().contains("it is a link"), "{}", refused());
}

#[test]
fn store_of_a_dead_run_is_not_read_through_a_link() {
    use crate::codec::encode_record;
    for engine in Engine::ALL.into_iter().filter(|engine| engine.is_compiled_in()) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let described = RunInfo {
            engine: engine.name().to_owned(),
            ..info(1)
        };
        let run = RunDir::create(dir.path(), described).expect("made");
        let place = run.place(engine);
        let mut store = place.open().expect("opens").store;
        let (key, value) = (b"a".to_vec(), encode_record(&reserved("embed", 0, 1)).expect("encodes"));
        store.apply(&[Change::Put { key, value }]).expect("written");
        drop(store);
        let path = place.path();
        drop((run, place));
        assert_eq!(found_dead(dir.path()).records().expect("readable").records.len(), 1);

        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("moved");
        symlink(&elsewhere, &path).expect("linked");
        let error = found_dead(dir.path()).records().expect_err("a link");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(
            error
                .source()
                .is_some_and(|why| why.to_string().contains("it is a link")),
            "{error:?}"
        );
    }
}

#[test]
fn store_is_not_set_aside_through_a_link() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let app_dir = dir.path().join("demo");
    let path = dead(&app_dir, 1);
    let store = path.join(Engine::DEFAULT.file_name());
    fs::write(&store, "damaged").expect("written");
    let theirs = foreign(&dir.path().join("other"), "file");
    let damaged = || StoreError::Corrupt {
        path: store.clone(),
        detail: "all of it".to_owned(),
    };
    symlink(dir.path().join("other"), app_dir.join("set-aside")).expect("linked");
    found_dead(&app_dir).set_aside(damaged()).expect_err("a link");
    assert!(store.exists() && is_untouched(&theirs));

    // The app's own directory is replaced between the sweep's check and its work.
    fs::remove_file(app_dir.join("set-aside")).expect("removed");
    let run = found_dead(&app_dir);
    let moved = replace(&app_dir, &dir.path().join("other"));
    let aside = run.set_aside(damaged()).expect("moved").expect("worth keeping");
    assert!(
        moved
            .join("set-aside")
            .join(aside.path.file_name().expect("name"))
            .exists()
    );
    assert!(is_untouched(&theirs));
}
