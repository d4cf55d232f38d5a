//! Commands that are run one after another, each with its title and its time.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What went wrong, for people.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_owned()
}

/// The folder of this profile's programs: the one that this program itself was built into.
pub(crate) fn programs() -> Outcome<PathBuf> {
    let own = std::env::current_exe().map_err(|error| format!("where xtask itself is can't be told: {error}"))?;
    Ok(own.parent().unwrap_or(&own).to_owned())
}

/// The cargo that runs us, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command under a title; says how long it took.
pub(crate) fn step(title: &str, command: &mut Command) -> Outcome {
    println!("── {title}");
    let started = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    let took = seconds(started.elapsed());
    if status.success() {
        println!("── {title}: done in {took}");
        Ok(())
    } else {
        Err(format!("{title}: {program} ended with {status} after {took}"))
    }
}

/// What a command prints on stdout.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a command can be run at all.
pub(crate) fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        whole @ 1..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}
