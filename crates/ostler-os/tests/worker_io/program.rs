//! The search for a worker's program, and what is said when it fails.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use ostler_core::failure::Reason;
use ostler_os::program::{ProgramError, resolve};
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

fn env(path: &str) -> Vec<(OsString, OsString)> {
    vec![("A".into(), "b".into()), ("PATH".into(), path.into())]
}

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    path.to_owned()
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = dir.path().canonicalize().expect("a path");
    (dir, path)
}

/// Runs it in a thread that is nobody, when we are root, who may do anything.
fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let run = || {
        if geteuid().is_root() {
            let nobody = Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody).expect("another user");
        }
        what()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("a thread"))
}

fn refused(found: Result<PathBuf, ProgramError>, reason: Reason) -> ProgramError {
    let error = found.expect_err("a refusal");
    assert_eq!(error.reason(), reason, "{error}");
    error
}

#[test]
fn a_name_is_looked_for_in_the_workers_path_in_order() {
    let (_dir, dir) = directory();
    let second = write(&dir.join("two/tool"), "", 0o755);
    let path = format!("{0}/none:{0}/one:{0}/two", dir.display());
    assert_eq!(resolve("tool", &env(&path), None), Ok(second));
    let first = write(&dir.join("one/tool"), "", 0o755);
    assert_eq!(resolve("tool", &env(&path), None), Ok(first.clone()));
    fs::set_permissions(&first, fs::Permissions::from_mode(0o644)).expect("a mode");
    assert_eq!(
        resolve("tool", &env(&path), None),
        Ok(dir.join("two/tool")),
        "what can't be executed is passed over"
    );
}

#[test]
fn entries_and_paths_are_relative_to_the_workers_directory() {
    let (_dir, dir) = directory();
    let tool = write(&dir.join("bin/tool"), "", 0o755);
    assert_eq!(resolve("tool", &env("bin"), Some(&dir)), Ok(tool.clone()));
    assert_eq!(resolve("bin/tool", &env("/none"), Some(&dir)), Ok(tool.clone()));
    assert_eq!(
        resolve("tool", &env("/none:"), Some(&dir.join("bin"))),
        Ok(tool.clone()),
        "an empty entry"
    );
    assert_eq!(
        resolve("./tool", &[], Some(&dir.join("bin"))).map(|path| path.canonicalize().unwrap()),
        Ok(tool)
    );
}

#[test]
fn a_symbolic_link_keeps_its_name() {
    let (_dir, dir) = directory();
    symlink("/bin/sh", dir.join("alias")).expect("a link");
    assert_eq!(
        resolve("alias", &env(dir.to_str().unwrap()), None),
        Ok(dir.join("alias"))
    );
}

#[test]
fn without_a_path_it_is_the_systems() {
    assert!(resolve("sh", &[], None).is_ok_and(|path| path.is_absolute()));
    let error = refused(resolve("ostler-no-such", &[], None), Reason::CommandNotFound);
    let searched = "/bin:/usr/bin".into();
    assert_eq!(
        error,
        ProgramError::NotFound {
            command: "ostler-no-such".into(),
            searched
        }
    );
}

#[test]
fn what_is_not_there_is_not_found() {
    let (_dir, dir) = directory();
    fs::create_dir(dir.join("tool")).expect("a directory");
    let path = dir.to_str().unwrap();
    let error = refused(resolve("tool", &env(path), None), Reason::CommandNotFound);
    assert!(
        error.to_string().contains(path),
        "{error}: a directory of that name is no program"
    );
    let error = refused(resolve("./tool/x", &env(path), Some(&dir)), Reason::CommandNotFound);
    assert!(matches!(error, ProgramError::Missing { path } if path.starts_with(&dir)));
    assert_eq!(
        refused(resolve("", &env(path), None), Reason::CommandNotFound),
        ProgramError::Empty
    );
    refused(resolve("a\0b", &env(path), None), Reason::CommandNotFound);
}

#[test]
fn what_may_not_be_executed_is_named() {
    let (_dir, dir) = directory();
    let path = write(&dir.join("tool"), "", 0o644);
    let refusal = ProgramError::NotExecutable { path: path.clone() };
    let in_path = resolve("tool", &env(&format!("/none:{}", dir.display())), None);
    assert_eq!(refused(in_path, Reason::PermissionDenied), refusal);
    assert_eq!(
        refused(resolve(path.to_str().unwrap(), &[], None), Reason::PermissionDenied),
        refusal
    );
    let error = refused(resolve("./", &[], Some(&dir)), Reason::PermissionDenied);
    assert!(matches!(error, ProgramError::NotAFile { .. }));
}

#[test]
fn a_path_through_a_closed_directory_is_named() {
    let (_dir, dir) = directory();
    let tool = write(&dir.join("closed/tool"), "", 0o755);
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let found = as_nobody(|| resolve(tool.to_str().unwrap(), &[], None));
    assert_eq!(
        refused(found, Reason::PermissionDenied),
        ProgramError::Unreachable { path: tool }
    );
    let searched = env(&format!("{0}/closed", dir.display()));
    refused(as_nobody(|| resolve("tool", &searched, None)), Reason::CommandNotFound);
}

#[test]
fn a_missing_interpreter_is_named() {
    let (_dir, dir) = directory();
    for (line, interpreter) in [
        ("#!/no/such/python -u\nx", "/no/such/python"),
        ("#! /bin/sh\r\nx", "/bin/sh\r"),
        ("#!none", "none"),
    ] {
        let script = write(&dir.join("script"), line, 0o755);
        let error = refused(resolve("./script", &[], Some(&dir)), Reason::CommandNotFound);
        let interpreter = interpreter.into();
        assert_eq!(
            error,
            ProgramError::InterpreterMissing {
                script: dir.join("./script"),
                interpreter
            }
        );
        assert!(script.exists());
    }
    write(&dir.join("run"), "", 0o755);
    for line in ["#!/bin/sh -e\n", "#!\n", "", "#!run"] {
        write(&dir.join("script"), line, 0o755);
        assert!(resolve("./script", &[], Some(&dir)).is_ok(), "{line:?}");
    }
}

#[test]
fn a_missing_directory_is_named_by_its_first_missing_part() {
    let (_dir, dir) = directory();
    let cwd = dir.join("a/b/c");
    fs::create_dir(dir.join("a")).expect("a directory");
    let error = refused(resolve("sh", &[], Some(&cwd)), Reason::DirectoryMissing);
    assert_eq!(
        error,
        ProgramError::DirectoryMissing {
            cwd: cwd.clone(),
            missing: dir.join("a/b")
        }
    );
    fs::write(dir.join("a/b"), "").expect("a file");
    let error = refused(resolve("sh", &[], Some(&cwd)), Reason::DirectoryMissing);
    assert_eq!(
        error,
        ProgramError::NotADirectory {
            cwd,
            found: dir.join("a/b")
        }
    );
    refused(resolve("sh", &[], Some(Path::new("no/such"))), Reason::DirectoryMissing);
}

#[test]
fn a_closed_directory_is_named() {
    let (_dir, dir) = directory();
    let cwd = dir.join("closed/inner");
    fs::create_dir_all(&cwd).expect("directories");
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let error = refused(as_nobody(|| resolve("sh", &[], Some(&cwd))), Reason::PermissionDenied);
    assert_eq!(
        error,
        ProgramError::DirectoryClosed {
            cwd,
            closed: dir.join("closed")
        }
    );
}
