//! `ostler` with file capabilities, run by a user without them: nothing in that user's environment
//! chooses what it executes or where it writes (AT_SECURE of getauxval(3), SECURITY.md). Its user
//! id is that user's, so comparing ids does not show it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::{Uid, chown};
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::scene::{pool_of, reachable_copy, unprivileged, wrapped, write_program};
use ostler_tests::{SOON, Up};

/// A user id that nothing else uses.
const USER: u32 = 64_132;

/// The attribute that setcap(8) writes for cap_net_bind_service+ep (capabilities(7)).
const SETCAP: &str = "
import os, struct, sys
os.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0))
";

fn may_not_run() -> bool {
    let skipped = !nix::unistd::geteuid().is_root();
    if skipped {
        eprintln!("skipped: giving capabilities to a program takes root");
    }
    skipped
}

fn give_capability(program: &Path) {
    let set = Command::new("python3").args(["-c", SETCAP]).arg(program).status();
    assert!(set.expect("python3").success(), "setting the capability");
}

/// Runs a copy of `ostler` for [`USER`] in a directory of that user.
fn sweep(directory: &Path, ostler: &Path) -> Output {
    let mut command = Command::new(ostler);
    command.args(["sweep", "--app", "demo"]).current_dir(directory);
    let user = USER.to_string();
    wrapped(
        &mut command,
        &["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"],
    );
    for variable in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"] {
        command.env(variable, directory);
    }
    command.output().expect("running ostler")
}

#[test]
fn directories_in_the_environment_are_ignored_by_a_program_with_file_capabilities() {
    if may_not_run() {
        return;
    }
    let directory = TestDirectory::new();
    chown(directory.path(), Some(Uid::from_raw(USER)), None).expect("given away");
    let ostler = reachable_copy("ostler", directory.path());
    let ordinary = sweep(directory.path(), &ostler);
    assert!(ordinary.status.success(), "{ordinary:?}");
    give_capability(&ostler);
    let refused = sweep(directory.path(), &ostler);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{refused:?}");
    assert!(said.contains("no state directory was given"), "{said}");
}

#[test]
fn commands_are_not_searched_in_the_environment_of_a_program_with_file_capabilities() {
    if may_not_run() {
        return;
    }
    let mut found = Vec::new();
    for is_capable in [false, true] {
        let mut up = Up::start_with(
            |tag| pool_of(&format!("[\"their-program\", {tag:?}]"), "intensity = 0"),
            |command| {
                let file = PathBuf::from(command.get_args().nth(1).expect("configuration file"));
                let directory = file.parent().expect("directory").to_owned();
                unprivileged(command, USER);
                write_program(&directory.join("their-program"), "#!/bin/sh\nexec sleep 3600\n", 0o755);
                if is_capable {
                    give_capability(&directory.join("ostler"));
                }
                command.env("PATH", format!("{}:/usr/bin:/bin", directory.display()));
            },
        );
        let event = up.wait_for("its start or failure", SOON, |event| {
            event["event"] == "worker.ready" || event["event"] == "worker.failed"
        });
        found.push((event["event"].clone(), event["reason"].clone()));
        up.signal(nix::sys::signal::Signal::SIGTERM);
        up.end(SOON);
        up.assert_nothing_left();
    }
    assert_eq!(found[0].0, "worker.ready");
    assert_eq!(found[1], ("worker.failed".into(), "command_not_found".into()));
}
