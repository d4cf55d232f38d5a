//! Runs a command to its end under a deadline.

use std::io::Read as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::error::{CommandError, PythonError};

const POLL: Duration = Duration::from_millis(20);

/// What a command that succeeded printed on stdout.
///
/// Its output goes to files and not to pipes, so that they need no reader while it runs, and a
/// grandchild that keeps them open holds nothing up.
///
/// Its stdin is empty, unless the caller has set it.
pub(crate) fn run(step: &str, command: &mut Command, timeout: Duration) -> Result<String, PythonError> {
    let failed = |source: CommandError| PythonError::Install {
        step: step.to_owned(),
        source,
    };
    let program = command.get_program().to_string_lossy().into_owned();
    let io = |source: std::io::Error| {
        let program = program.clone();
        failed(CommandError::NotRun { program, source })
    };
    let (mut out, mut err) = (tempfile::tempfile().map_err(io)?, tempfile::tempfile().map_err(io)?);
    let mut child = command
        .stdout(out.try_clone().map_err(io)?)
        .stderr(err.try_clone().map_err(io)?)
        .spawn()
        .map_err(io)?;
    let ended = wait(&mut child, timeout);
    let text = read(&mut out).map_err(io)?;
    match ended.map_err(io)? {
        Some(status) if status.success() => Ok(text),
        Some(status) => {
            let printed = read(&mut err).map_err(io)?;
            let output = last_lines(&format!("{text}\n{printed}"), 8);
            Err(failed(CommandError::Ended { status, output }))
        }
        None => {
            let printed = read(&mut err).map_err(io)?;
            Err(PythonError::Timeout {
                step: step.to_owned(),
                seconds: timeout.as_secs(),
                last: last_lines(&format!("{text}\n{printed}"), 1),
            })
        }
    }
}

/// The child's exit status; `None`: it was killed at the end of its time.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

fn read(file: &mut std::fs::File) -> std::io::Result<String> {
    use std::io::Seek as _;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
