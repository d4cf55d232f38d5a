//! Commands that are run one after another, each with its title and its time.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

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
    let own = std::env::current_exe().map_err(|error| format!("finding xtask's own path: {error}"))?;
    Ok(own.parent().unwrap_or(&own).to_owned())
}

/// The target folder of the workspace.
pub(crate) fn target_directory() -> Outcome<PathBuf> {
    let metadata = metadata()?;
    let directory = metadata["target_directory"].as_str();
    Ok(PathBuf::from(
        directory.ok_or("cargo metadata names no target directory")?,
    ))
}

/// What cargo says of the workspace.
pub(crate) fn metadata() -> Outcome<Value> {
    let printed = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    serde_json::from_str(&printed).map_err(|error| format!("cargo metadata: {error}"))
}

/// The cargo that runs us, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command under a title; says how long it took.
pub(crate) fn step(name: &str, command: &mut Command) -> Outcome {
    let started = title(name);
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    finished(name, &program, status, started)
}

/// Prints the title of a step that starts now.
pub(crate) fn title(name: &str) -> Instant {
    println!("── {name}");
    Instant::now()
}

/// Prints how long a step took; an error if its program failed.
pub(crate) fn finished(name: &str, program: &str, status: ExitStatus, started: Instant) -> Outcome {
    let took = seconds(started.elapsed());
    if status.success() {
        println!("── {name}: done in {took}");
        Ok(())
    } else {
        Err(format!("{name}: {program} ended with {status} after {took}"))
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
