//! The lookup of a worker's program, and the errors when it fails.

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
    fs::create_dir_all(path.parent().expect("parent directory")).expect("creating a directory");
    fs::write(path, text).expect("writing a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("setting the mode");
    path.to_owned()
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("setting the mode");
    let path = dir.path().canonicalize().expect("canonical path");
    (dir, path)
}

/// As root, runs the closure in a thread with an unprivileged user, because root is allowed
/// everything.
fn unprivileged<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let run = || {
        if geteuid().is_root() {
            let user = Uid::from_raw(65534);
            set_thread_res_uid(user, user, user).expect("changing the user");
        }
        what()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("unprivileged thread"))
}

fn refused(found: Result<PathBuf, ProgramError>, reason: Reason) -> ProgramError {
    let error = found.expect_err("expected an error");
    assert_eq!(error.reason(), reason, "{error}");
    error
}

#[test]
fn name_is_searched_in_the_workers_path_in_order() {
    let (_dir, dir) = directory();
    let second = write(&dir.join("two/tool"), "", 0o755);
    let path = format!("{0}/none:{0}/one:{0}/two", dir.display());
    assert_eq!(resolve("tool", &env(&path), None), Ok(second));
    let first = write(&dir.join("one/tool"), "", 0o755);
    assert_eq!(resolve("tool", &env(&path), None), Ok(first.clone()));
    fs::set_permissions(&first, fs::Permissions::from_mode(0o644)).expect("setting the mode");
    assert_eq!(
        resolve("tool", &env(&path), None),
        Ok(dir.join("two/tool")),
        "files that are not executable are skipped"
    );
}

#[test]
fn relative_entries_and_paths_start_at_the_workers_directory() {
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
fn symbolic_link_keeps_its_name() {
    let (_dir, dir) = directory();
    symlink("/bin/sh", dir.join("alias")).expect("creating a symbolic link");
    assert_eq!(
        resolve("alias", &env(dir.to_str().unwrap()), None),
        Ok(dir.join("alias"))
    );
}

#[test]
fn without_path_the_systems_default_is_used() {
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
fn missing_program_is_not_found() {
    let (_dir, dir) = directory();
    fs::create_dir(dir.join("tool")).expect("creating a directory");
    let path = dir.to_str().unwrap();
    let error = refused(resolve("tool", &env(path), None), Reason::CommandNotFound);
    assert!(
        error.to_string().contains(path),
        "{error}: a directory is not a program"
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
fn non_executable_file_is_named() {
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
fn inaccessible_directory_on_the_path_is_named() {
    let (_dir, dir) = directory();
    let tool = write(&dir.join("closed/tool"), "", 0o755);
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o600)).expect("setting the mode");
    let found = unprivileged(|| resolve(tool.to_str().unwrap(), &[], None));
    assert_eq!(
        refused(found, Reason::PermissionDenied),
        ProgramError::Unreachable { path: tool }
    );
    let searched = env(&format!("{0}/closed", dir.display()));
    refused(
        unprivileged(|| resolve("tool", &searched, None)),
        Reason::CommandNotFound,
    );
}

#[test]
fn missing_interpreter_is_named() {
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
fn missing_directory_is_named_by_its_first_missing_component() {
    let (_dir, dir) = directory();
    let cwd = dir.join("a/b/c");
    fs::create_dir(dir.join("a")).expect("creating a directory");
    let error = refused(resolve("sh", &[], Some(&cwd)), Reason::DirectoryMissing);
    assert_eq!(
        error,
        ProgramError::DirectoryMissing {
            cwd: cwd.clone(),
            missing: dir.join("a/b")
        }
    );
    fs::write(dir.join("a/b"), "").expect("writing a file");
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
fn inaccessible_directory_is_named() {
    let (_dir, dir) = directory();
    let cwd = dir.join("closed/inner");
    fs::create_dir_all(&cwd).expect("directories");
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o600)).expect("setting the mode");
    let error = refused(
        unprivileged(|| resolve("sh", &[], Some(&cwd))),
        Reason::PermissionDenied,
    );
    assert_eq!(
        error,
        ProgramError::DirectoryClosed {
            cwd,
            closed: dir.join("closed")
        }
    );
}
