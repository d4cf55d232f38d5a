//! What the system refuses at a start: each error has its reason, and what passes is repeated
//! without being counted (the table in docs/failure-reasons.md).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc::{EPERM, ESTALE, SYS_chdir, SYS_setsid};
use ostler_tests::scene::{pool, pool_of, refusing};
use ostler_tests::{SOON, Up, program};

use crate::limits::three_failures;
use crate::start::{fails_to_start, file};
use crate::{assert_message, assert_on_stderr, gives_up, text};

/// The directory of a run, before it starts.
fn directory_of(command: &Command) -> PathBuf {
    let file = command.get_args().nth(1).expect("configuration file");
    Path::new(file).parent().expect("directory").to_owned()
}

/// A deployment writes the program while it is being started.
#[test]
fn program_that_is_being_written_is_started_when_it_is_closed() {
    let mut written = None;
    let mut up = Up::start_with(
        |tag| pool_of(&format!("[\"./run\", {tag:?}]"), "intensity = 0\ncwd = \".\""),
        |command| {
            let path = directory_of(command).join("run");
            file(&path, "#!/bin/sh\nwhile :; do sleep 3600; done\n", 0o755);
            written = Some(OpenOptions::new().append(true).open(path).unwrap());
        },
    );
    let failure = three_failures(&mut up, "program_busy");
    assert_message(&failure, &["/run", "open for writing", "ETXTBSY"]);
    let degraded = up.named("pool.degraded").next().expect("the pool says that it waits");
    assert_message(degraded, &["0 of 1 workers are ready", "p/0", "open for writing"]);
    for (restarting, attempt) in up.named("worker.restarting").zip(1..) {
        assert_eq!(restarting["attempt"], attempt, "{restarting}");
        assert_eq!(restarting["reason"], "program_busy", "{restarting}");
        let least = 80 << (attempt - 1);
        assert!(restarting["delay_ms"].as_u64() >= Some(least), "{restarting}");
    }
    drop(written);
    up.wait_for_event("worker.ready");
    up.wait_for_event("pool.ready");
    let stderr = up.stop_cleanly();
    assert_on_stderr(&failure, &stderr);
    assert_eq!(up.count("worker.gave_up"), 0, "{}", up.story());
    assert_eq!(up.count("pool.degraded"), 1, "{}", up.story());
}

/// The directory's file system fails for the sitter alone.
#[test]
fn directory_on_a_file_system_that_fails_is_tried_again() {
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, "intensity = 0\ncwd = \".\""),
        |command| refusing(command, SYS_chdir, ESTALE),
    );
    let failure = three_failures(&mut up, "file_system_failed");
    assert_message(&failure, &["the working directory", "ESTALE", "Stale file handle"]);
    up.stop_cleanly();
    assert_eq!(up.count("worker.gave_up"), 0, "{}", up.story());
}

#[test]
fn set_up_that_a_seccomp_filter_forbids_names_the_step() {
    let mut up = Up::start_with(
        |tag| pool("sleep", tag, "intensity = 0"),
        |command| refusing(command, SYS_setsid, EPERM),
    );
    let (failure, _) = gives_up(&mut up, "permission_denied");
    assert_message(&failure, &["Session", "EPERM"]);
    assert!(text(&failure, "suggestion").contains("seccomp"), "{failure}");
}

/// Files that pass the checks before the spawn, but that the kernel refuses.
#[test]
fn file_that_is_not_a_program_has_the_kernels_error() {
    for content in ["\u{7f}ELF is not enough", "echo no first line\n", ""] {
        let broken = |directory: &Path| file(&directory.join("run"), content, 0o755);
        let (failure, _) = fails_to_start("exec_failed", "[\"./run\"]", "cwd = \".\"", broken);
        assert_message(&failure, &["/run", "Exec format error", "ENOEXEC"]);
        assert!(text(&failure, "suggestion").contains("#!/bin/sh"), "{failure}");
    }
}

#[test]
fn environment_that_is_too_large_is_named() {
    let keys = format!("env = {{ LARGE = \"{}\" }}", "x".repeat(200_000));
    let (failure, _) = fails_to_start("exec_failed", "[\"sleep\", \"3600\"]", &keys, |_| {});
    assert_message(&failure, &["\"sleep\"", "Argument list too long", "E2BIG"]);
    assert!(
        text(&failure, "suggestion").contains("shorten command and env"),
        "{failure}"
    );
}

#[test]
fn program_whose_path_can_not_be_resolved_is_not_called_missing() {
    let looped = |directory: &Path| symlink("run", directory.join("run")).unwrap();
    for (command, keys) in [
        ("[\"./run\"]", "cwd = \".\""),
        ("[\"run\"]", "cwd = \".\"\nenv = { PATH = \".\" }"),
    ] {
        let (failure, _) = fails_to_start("exec_failed", command, keys, looped);
        assert_message(&failure, &["/run", "loop of symbolic links", "ELOOP"]);
    }
    let long = format!("[\"./{}\"]", "x".repeat(300));
    let (failure, _) = fails_to_start("exec_failed", &long, "cwd = \".\"", |_| {});
    assert_message(&failure, &["/xxx", "its path is too long", "ENAMETOOLONG"]);
}

#[test]
fn directory_whose_path_can_not_be_resolved_is_not_called_missing() {
    let looped = |directory: &Path| symlink("data", directory.join("data")).unwrap();
    let sleep = "[\"sleep\", \"3600\"]";
    let (failure, _) = fails_to_start("directory_missing", sleep, "cwd = \"data\"", looped);
    assert_message(&failure, &["/data", "loop of symbolic links", "ELOOP"]);
    let long = format!("cwd = {:?}", "x".repeat(300));
    let (failure, _) = fails_to_start("directory_missing", sleep, &long, |_| {});
    assert_message(&failure, &["/xxx", "its path is too long", "ENAMETOOLONG"]);
}

/// The kernel's ENOENT would name the program, which is there.
#[test]
fn missing_interpreter_of_an_interpreter_is_named() {
    let scripts = |directory: &Path| {
        file(&directory.join("run"), "#!./inner\n", 0o755);
        file(&directory.join("inner"), "#!/usr/bin/nonesuch\n", 0o755);
    };
    let (failure, _) = fails_to_start("command_not_found", "[\"./run\"]", "cwd = \".\"", scripts);
    assert_message(&failure, &["/inner", "/usr/bin/nonesuch"]);
}

#[test]
fn missing_loader_of_a_program_is_named() {
    let mut program = fs::read(program("ostler-test-worker")).unwrap();
    let Some(at) = program.windows(4).position(|bytes| bytes == b"/ld-") else {
        return eprintln!("skipped: the test worker is linked statically");
    };
    program[at..at + 4].copy_from_slice(b"/no-");
    let copy = |directory: &Path| ostler_tests::scene::write_program(&directory.join("run"), &program, 0o755);
    let (failure, _) = fails_to_start("command_not_found", "[\"./run\"]", "cwd = \".\"", copy);
    assert_message(&failure, &["/run", "needs the loader", "/no-"]);
    assert!(text(&failure, "suggestion").contains("loader"), "{failure}");
}

#[test]
fn interpreter_that_may_not_be_run_is_named() {
    let scripts = |directory: &Path| {
        file(&directory.join("run"), "#!./inner\n", 0o755);
        file(&directory.join("inner"), "#!/bin/sh\n", 0o644);
    };
    let (failure, _) = fails_to_start("permission_denied", "[\"./run\"]", "cwd = \".\"", scripts);
    assert_message(&failure, &["/run", "./inner", "EACCES"]);
}

/// The worker runs; then its program is written in place and closed again, and nothing is counted.
#[test]
fn deploy_in_place_is_not_counted_against_the_worker() {
    let mut path = PathBuf::new();
    let mut up = Up::start_with(
        |tag| {
            pool_of(
                &format!("[\"./run\", {tag:?}]"),
                "intensity = 1\nperiod = \"1h\"\ncwd = \".\"",
            )
        },
        |command| {
            path = directory_of(command).join("run");
            file(&path, "#!/bin/sh\nwhile :; do sleep 3600; done\n", 0o755);
        },
    );
    let ready = up.wait_for_event("worker.ready");
    let written = OpenOptions::new().append(true).open(&path).unwrap();
    ostler_tests::send(ostler_tests::pid_of(&ready), nix::sys::signal::Signal::SIGKILL);
    three_failures(&mut up, "program_busy");
    drop(written);
    let again = up.wait_for("the worker again", SOON, |event| event["event"] == "worker.ready");
    // This restart is the second one that counts: with what went before, it would be the fifth.
    ostler_tests::send(ostler_tests::pid_of(&again), nix::sys::signal::Signal::SIGKILL);
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}");
    let gave_up = up.named("worker.gave_up").next().expect("gave up");
    assert_eq!(gave_up["reason"], "killed", "{gave_up}");
    assert_eq!(gave_up["count"], 2, "{gave_up}");
    up.assert_nothing_left();
}
