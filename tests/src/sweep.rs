//! `ostler sweep` over what dead runs of the app `test` have left.

use std::path::Path;
use std::process::Command;

use crate::{program, run_directories};

/// What a sweep said, and whether it succeeded.
#[derive(Debug)]
pub struct Swept {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Its stdout, then its stderr.
    pub said: String,
}

/// The command that sweeps this state directory, and no other.
pub fn sweep_by(ostler: &Path, state: &Path) -> Command {
    let mut command = Command::new(ostler);
    command.args(["sweep", "--app", "test", "--state-dir"]).arg(state);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY");
    command
}

/// Runs such a command to its end.
///
/// # Panics
/// When it can't be run.
pub fn swept(command: &mut Command) -> Swept {
    let output = command.output().expect("the sweep runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Swept {
        success: output.status.success(),
        said: said.concat(),
    }
}

/// Sweeps this state directory; the answer is what was said.
///
/// # Panics
/// When the sweep fails.
pub fn sweep(state: &Path) -> String {
    let swept = swept(&mut sweep_by(&program("ostler"), state));
    assert!(swept.success, "{}", swept.said);
    swept.said
}

/// Makes the one run in this state directory one of a version that had no `guardian.lock`.
///
/// # Panics
/// When there is not exactly one, or it has none.
pub fn without_guardians_lock(state: &Path) {
    let [lock] = &run_directories(state)[..] else {
        panic!("one run is wanted")
    };
    std::fs::remove_file(lock.with_file_name("guardian.lock")).expect("it has the lock");
}
