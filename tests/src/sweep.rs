//! `ostler sweep` of what dead runs of the app `test` have left.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::scene::reachable_copy;
use crate::{program, run_directories};

/// The output of a sweep.
#[derive(Debug)]
pub struct Swept {
    /// Whether the exit status was 0.
    pub success: bool,
    /// Its stdout, followed by its stderr.
    pub output: String,
}

/// The command that sweeps this state directory, and no other. It runs as the user who owns the
/// app's directory: a sweep does not trust another user's.
pub fn sweep_by(ostler: &Path, state: &Path) -> Command {
    let owner = std::fs::metadata(state.join("test")).ok();
    let foreign = owner.filter(|app| app.uid() != nix::unistd::geteuid().as_raw());
    let mut command = match foreign {
        None => Command::new(ostler),
        Some(app) => {
            let mut command = Command::new(reachable_copy("ostler", state.parent().unwrap_or(state)));
            command.uid(app.uid()).gid(app.gid());
            command
        }
    };
    command.args(["sweep", "--app", "test", "--state-dir"]).arg(state);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
    command
}

/// Runs a sweep command.
///
/// # Panics
///
/// If it cannot be run.
pub fn swept(command: &mut Command) -> Swept {
    let output = command.output().expect("running the sweep");
    let streams = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Swept {
        success: output.status.success(),
        output: streams.concat(),
    }
}

/// Sweeps this state directory and returns the output.
///
/// # Panics
///
/// If the sweep fails.
pub fn sweep(state: &Path) -> String {
    let swept = swept(&mut sweep_by(&program("ostler"), state));
    assert!(swept.success, "{}", swept.output);
    swept.output
}

/// Turns the only run in this state directory into one of an old version that had no
/// `guardian.lock`.
///
/// # Panics
///
/// If there is not exactly one run, or if it has no such lock.
pub fn without_guardians_lock(state: &Path) {
    let [lock] = &run_directories(state)[..] else {
        panic!("expected exactly one run")
    };
    std::fs::remove_file(lock.with_file_name("guardian.lock")).expect("removing guardian.lock");
}
