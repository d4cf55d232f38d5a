//! Runs a command to its end under a guardian of its own: whatever ends first, the command, its
//! time, its caller or this program, nothing that the command has started is left.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::pending;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use ostler_core::signal::Signal;
use ostler_os::guardian::{EndPolicy, Events, Guardian, GuardianEvent, GuardianOptions, QuitError, SpawnRequest};
use ostler_os::{patience, program};

use crate::error::{CommandError, PythonError};
use crate::job::Cancel;

/// INT first, on which pip and uv remove their temporary files, and KILL 2 s later.
const END: EndPolicy = EndPolicy {
    signal: Signal::INT,
    grace: Duration::from_secs(2),
};

/// How long the guardian has to answer: a build keeps every core busy, and nothing waits for it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the guardian has to exit after the last process of its tree. It needs milliseconds.
const QUIT_LIMIT: Duration = Duration::from_secs(10);

/// The guardian's only slot, and what runs in it.
const SLOT: u32 = 0;
const INCARNATION: u64 = 1;

/// A command, and what bounds it. Its stdin is empty.
pub(crate) struct Step<'a> {
    /// What it is called in errors.
    pub(crate) name: &'a str,
    /// Program, arguments, directory, and changes of the environment.
    pub(crate) command: &'a Command,
    /// Its time, which a suspension of this program does not use up.
    pub(crate) timeout: Duration,
    /// A locked file that stays locked until every process of the command has ended, even if this
    /// program is killed meanwhile.
    pub(crate) lock: Option<&'a File>,
    /// Ends it early.
    pub(crate) cancel: &'a Cancel,
}

/// How the command ended.
#[derive(Debug)]
enum Ended {
    Exited(ExitStatus),
    TimedOut,
    Cancelled,
}

/// What a command that succeeded printed on stdout. Blocks; may be called on any thread.
///
/// Its output goes to files and not to pipes, so that they need no reader while it runs.
pub(crate) fn run(step: &Step<'_>) -> Result<String, PythonError> {
    let failed = |source: CommandError| PythonError::Install {
        step: step.name.to_owned(),
        source,
    };
    let program = step.command.get_program().to_string_lossy();
    let io = |source: io::Error| {
        let program = program.clone().into_owned();
        failed(CommandError::NotRun { program, source })
    };
    let (mut out, mut err) = (tempfile::tempfile().map_err(io)?, tempfile::tempfile().map_err(io)?);
    // A thread of its own: the caller may be a task, where no other runtime can be driven.
    let ended = std::thread::scope(|scope| {
        let supervised = scope.spawn(|| supervise(step, &out, &err));
        supervised
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let text = read(&mut out).map_err(io)?;
    let printed = |err: &mut File| read(err).map(|printed| format!("{text}\n{printed}")).map_err(io);
    match ended.map_err(io)? {
        Ended::Exited(status) if status.success() => Ok(text),
        Ended::Exited(status) => {
            let output = last_lines(&printed(&mut err)?, 8);
            Err(failed(CommandError::Ended { status, output }))
        }
        Ended::TimedOut => Err(PythonError::Timeout {
            step: step.name.to_owned(),
            seconds: step.timeout.as_secs(),
            last: last_lines(&printed(&mut err)?, 1),
        }),
        Ended::Cancelled => Err(io(io::ErrorKind::Interrupted.into())),
    }
}

fn supervise(step: &Step<'_>, out: &File, err: &File) -> io::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(run_under_guardian(step, out, err))
}

async fn run_under_guardian(step: &Step<'_>, out: &File, err: &File) -> io::Result<Ended> {
    let request = request(step, out, err)?;
    let lock = step.lock.map(|lock| lock.try_clone().map(OwnedFd::from)).transpose();
    let options = GuardianOptions {
        lock: lock?.map(Arc::new),
        label: OsString::from("python"),
        handshake_timeout: HANDSHAKE_TIMEOUT,
        ..GuardianOptions::default()
    };
    let (guardian, mut events) = Guardian::launch(options).await.map_err(io::Error::other)?;
    let ended = watch(step, request, &guardian, &mut events).await;
    // Its lock is free when it has ended, and not a moment later. Its events stay open until then:
    // a guardian that can't send them ends by itself.
    match guardian.quit(QUIT_LIMIT).await {
        Err(error @ QuitError::Timeout { .. }) => return Err(io::Error::other(error)),
        // It is gone.
        Ok(()) | Err(QuitError::Order(_)) => drop(events),
    }
    ended
}

/// Starts the command and waits for the end of its tree.
async fn watch(step: &Step<'_>, request: SpawnRequest, guardian: &Guardian, events: &mut Events) -> io::Result<Ended> {
    // A guardian that is gone has ended the tree.
    let end = || drop(guardian.end(SLOT, INCARNATION, END.signal, END.grace));
    let mut timeout = pin!(patience::within(step.timeout, pending::<()>()));
    let (mut status, mut cut_short) = (None, None);
    guardian.spawn(SLOT, INCARNATION, request).map_err(io::Error::other)?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = &mut timeout, if cut_short.is_none() => {
                cut_short = Some(Ended::TimedOut);
                end();
                continue;
            }
            () = step.cancel.cancelled(), if cut_short.is_none() => {
                cut_short = Some(Ended::Cancelled);
                end();
                continue;
            }
        };
        match event {
            Some(GuardianEvent::Exited { status: how, .. }) => status = Some(how),
            Some(GuardianEvent::TreeGone { .. }) => break,
            Some(GuardianEvent::SpawnFailed { errno, .. }) => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            Some(GuardianEvent::SitterLost { .. } | GuardianEvent::Lost { .. }) | None => {
                return Err(io::Error::other(
                    "the process that watched it was killed, and it was ended",
                ));
            }
            Some(_) => {}
        }
    }
    cut_short
        .or(status.map(Ended::Exited))
        .ok_or_else(|| io::Error::other("its exit status is unknown"))
}

fn request(step: &Step<'_>, out: &File, err: &File) -> io::Result<SpawnRequest> {
    let command = step.command;
    let changed = |name: &OsString| command.get_envs().any(|(change, _)| change == name);
    let mut env: Vec<(OsString, OsString)> = std::env::vars_os().filter(|(name, _)| !changed(name)).collect();
    let set = |(name, value): (&OsStr, Option<&OsStr>)| Some((name.to_owned(), value?.to_owned()));
    env.extend(command.get_envs().filter_map(set));
    let name = command.get_program().to_string_lossy();
    let program = program::resolve(&name, &env, command.get_current_dir()).map_err(io::Error::other)?;
    let own = |file: &File| file.try_clone().map(OwnedFd::from);
    Ok(SpawnRequest {
        argv: std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(OsString::from)
            .collect(),
        program,
        env,
        cwd: command.get_current_dir().map(Path::to_owned),
        stdin: None,
        stdout: own(out)?,
        stderr: own(err)?,
        cgroup: None,
        listen: Vec::new(),
        host_death: END,
    })
}

fn read(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ostler_core::chain::chain;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn step<'a>(command: &'a Command, timeout: Duration, cancel: &'a Cancel) -> Step<'a> {
        Step {
            name: "the step",
            command,
            timeout,
            lock: None,
            cancel,
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn stdout_is_returned_and_a_failure_has_the_last_lines() {
        let never = Cancel::never();
        let mut command = shell("cat; echo $A $PWD; echo noise >&2");
        command.env("A", "1").current_dir("/");
        assert_eq!(run(&step(&command, LONG, &never)).expect("it succeeds"), "1 /\n");
        let failed = run(&step(&shell("echo out; echo why >&2; exit 3"), LONG, &never)).expect_err("it fails");
        let failed = chain(&failed);
        assert!(
            failed.starts_with("the step failed: exit status: 3\nout\nwhy"),
            "{failed}"
        );
        let missing = run(&step(&Command::new("no-such-program"), LONG, &never)).expect_err("there is none");
        assert!(
            chain(&missing).contains("there is no program \"no-such-program\""),
            "{missing}"
        );
    }

    /// A script that starts a child in a session of its own and never ends; where it writes the
    /// child's pid.
    fn endless() -> (tempfile::TempDir, PathBuf, Command) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let path = file.display().to_string();
        let command = shell(&format!(
            "setsid sh -c 'echo $$ > {path}.new; mv {path}.new {path}; exec sleep 600' & sleep 600"
        ));
        (folder, file, command)
    }

    fn assert_gone(file: &Path) {
        let pid = std::fs::read_to_string(file).expect("it had begun");
        assert!(
            !Path::new("/proc").join(pid.trim()).exists(),
            "{pid} has outlived the step"
        );
    }

    #[test]
    fn at_the_end_of_its_time_the_whole_tree_ends() {
        let (_folder, file, command) = endless();
        let late = run(&step(&command, Duration::from_secs(2), &Cancel::never())).expect_err("it never ends");
        assert!(matches!(late, PythonError::Timeout { seconds: 2, .. }), "{late}");
        assert_gone(&file);
    }

    /// Which of two things that are due at once `select!` sees first is left to chance, so there
    /// are several.
    #[test]
    fn the_time_in_which_this_program_did_not_run_is_not_the_steps() {
        let command = shell("sleep 1; echo done");
        let never = Cancel::never();
        let step = step(&command, Duration::from_secs(2), &never);
        let run = async || {
            let file = || tempfile::tempfile().expect("a file");
            run_under_guardian(&step, &file(), &file()).await
        };
        let suspension = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            std::thread::sleep(Duration::from_secs(3));
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (first, second, third, fourth, ()) =
            runtime.block_on(async { tokio::join!(run(), run(), run(), run(), suspension) });
        for end in [first, second, third, fourth] {
            let end = end.expect("it was watched");
            assert!(matches!(end, Ended::Exited(status) if status.success()), "{end:?}");
        }
    }

    #[cfg(feature = "pool")]
    #[test]
    fn a_cancelled_step_ends_with_its_tree() {
        let (_folder, file, command) = endless();
        let (cancels, cancel) = Cancel::on_drop();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !file.exists() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                drop(cancels);
            });
            let cancelled = run(&step(&command, LONG, &cancel)).expect_err("it never ends");
            assert!(chain(&cancelled).contains("interrupted"), "{cancelled}");
        });
        assert_gone(&file);
    }
}
