//! Failures to start a process: nothing was executed, and the failure says what is wrong.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ostler_tests::scene::{pool, pool_of, unprivileged};
use ostler_tests::{SOON, Up};
use serde_json::Value;

use crate::{assert_message, gives_up, resident, text};

/// A run whose worker cannot be started, in a prepared directory.
pub(crate) fn fails_to_start(reason: &str, command: &str, keys: &str, prepare: impl Fn(&Path)) -> (Value, String) {
    let mut up = Up::start_with(
        |_| pool_of(command, &format!("intensity = 0\n{keys}")),
        |command| prepare(Path::new(command.get_args().nth(1).unwrap()).parent().unwrap()),
    );
    let (failure, stderr) = gives_up(&mut up, reason);
    assert_eq!(up.count("worker.spawned"), 0);
    assert_eq!(up.count("worker.reserved"), 1, "reserved and released");
    assert_eq!(up.count("worker.released"), 1);
    (failure, stderr)
}

pub(crate) fn file(path: &Path, text: &str, mode: u32) {
    ostler_tests::scene::write_program(path, text, mode);
}

#[test]
fn port_in_use_names_the_holder_on_stderr() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let mut up = Up::start(|tag| pool("http", tag, &format!("intensity = 0\nport = {port}")));
    let (failure, stderr) = gives_up(&mut up, "port_in_use");
    assert_message(&failure, &[&port.to_string()]);
    let pid = std::process::id().to_string();
    assert!(text(&failure, "holder").contains(&pid), "{failure}");
    assert!(stderr.contains(text(&failure, "holder")), "{stderr}");
    assert_eq!(up.count("worker.spawned"), 0);
}

#[test]
fn command_not_found_names_the_search_path() {
    let keys = "env = { PATH = \"/nonesuch/bin:/usr/nonesuch\" }";
    let (failure, _) = fails_to_start("command_not_found", "[\"sleep\", \"3600\"]", keys, |_| {});
    assert_message(&failure, &["\"sleep\"", "/nonesuch/bin:/usr/nonesuch"]);
}

#[test]
fn command_not_found_for_a_missing_path() {
    let keys = "cwd = \".\"";
    let (failure, _) = fails_to_start("command_not_found", "[\"./worker.py\"]", keys, |_| {});
    assert_message(&failure, &["/worker.py"]);
}

#[test]
fn command_not_found_names_a_missing_interpreter() {
    let script = |directory: &Path| file(&directory.join("run"), "#!/usr/bin/nonesuch -u\n", 0o755);
    let keys = "cwd = \".\"";
    let (failure, _) = fails_to_start("command_not_found", "[\"./run\"]", keys, script);
    assert_message(&failure, &["/run", "/usr/bin/nonesuch"]);
    assert!(text(&failure, "suggestion").contains("interpreter"), "{failure}");
}

#[test]
fn directory_missing_names_the_directory() {
    let (failure, _) = fails_to_start(
        "directory_missing",
        "[\"sleep\", \"3600\"]",
        "cwd = \"no/where\"",
        |_| {},
    );
    assert_message(&failure, &["no/where", "/no"]);
}

#[test]
fn directory_missing_for_a_file() {
    let in_the_way = |directory: &Path| file(&directory.join("data"), "", 0o644);
    let (failure, _) = fails_to_start(
        "directory_missing",
        "[\"sleep\", \"3600\"]",
        "cwd = \"data\"",
        in_the_way,
    );
    assert_message(&failure, &["/data is not a directory"]);
}

#[test]
fn permission_denied_for_a_non_executable_program() {
    let script = |directory: &Path| file(&directory.join("run"), "#!/bin/sh\n", 0o644);
    let (failure, _) = fails_to_start("permission_denied", "[\"./run\"]", "cwd = \".\"", script);
    assert_message(&failure, &["/run may not be executed"]);
}

#[test]
fn permission_denied_for_an_inaccessible_directory() {
    let mut up = Up::start_with(
        |tag| pool_of(&resident(tag), "intensity = 0\ncwd = \"closed\""),
        |command| {
            let closed = Path::new(command.get_args().nth(1).unwrap()).with_file_name("closed");
            std::fs::create_dir(&closed).unwrap();
            std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
            unprivileged(command, 64_102);
        },
    );
    let (failure, _) = gives_up(&mut up, "permission_denied");
    assert_message(&failure, &["/closed", "closed to it"]);
}

#[test]
fn unsupported_modes_are_refused_by_name() {
    for mode in ["independent", "supervised", "distributed"] {
        let mut up = Up::start(|tag| pool("sleep", tag, &format!("mode = \"{mode}\"")));
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.code(), Some(2), "{stderr}");
        for text in [mode, "not built yet", "coupled", "pool.p.mode", "ostler.toml"] {
            assert!(stderr.contains(text), "{text:?} missing in {stderr}");
        }
        assert!(up.seen.is_empty(), "{}", up.story());
        up.assert_nothing_left();
    }
}
