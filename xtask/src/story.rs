//! A run of the ostler program, followed by its events.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::steps::Outcome;

/// One event of the run.
pub(crate) struct Event(pub(crate) Value);

impl Event {
    pub(crate) fn name(&self) -> &str {
        self.text("event")
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.0[key].as_u64()
    }

    /// Whether it is this event of this worker.
    pub(crate) fn is(&self, name: &str, worker: &str) -> bool {
        self.name() == name && self.text("worker") == worker
    }
}

/// The program while it runs. Dropping it ends the program.
pub(crate) struct Run {
    child: Child,
    events: Receiver<Event>,
    stderr: Option<JoinHandle<String>>,
}

impl Run {
    /// Starts `ostler up FILE --events -`.
    pub(crate) fn start(program: &Path, file: &Path) -> Outcome<Self> {
        let mut child = Command::new(program)
            .arg("up")
            .arg(file)
            .args(["--events", "-", "--no-table"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} can't be run: {error}", program.display()))?;
        let events = follow(child.stdout.take().expect("its stdout is piped"));
        let mut errors = child.stderr.take().expect("its stderr is piped");
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read before an error is what there is to show.
            errors.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self {
            child,
            events,
            stderr: Some(stderr),
        })
    }

    /// The program's own pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next event, within `patience`.
    pub(crate) fn next(&mut self, patience: Duration) -> Outcome<Event> {
        match self.events.recv_timeout(patience) {
            Ok(event) => Ok(event),
            Err(RecvTimeoutError::Timeout) => Err(format!("no event from ostler for {} s", patience.as_secs())),
            Err(RecvTimeoutError::Disconnected) => {
                let said = self
                    .stderr
                    .take()
                    .and_then(|thread| thread.join().ok())
                    .unwrap_or_default();
                Err(format!("ostler ended unexpectedly. It printed:\n{}", said.trim_end()))
            }
        }
    }

    /// Asks it to stop, as Ctrl-C or systemd would.
    pub(crate) fn ask_to_stop(&self) -> Outcome {
        signal(self.pid(), Signal::SIGTERM)
    }

    /// The events that are left, until it has ended.
    pub(crate) fn end(mut self, patience: Duration, mut each: impl FnMut(&Event)) -> Outcome<(ExitStatus, String)> {
        let deadline = Instant::now() + patience;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => each(&event),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("it has not ended within {} s", patience.as_secs()));
                }
            }
        }
        let status = self
            .child
            .wait()
            .map_err(|error| format!("waiting for ostler: {error}"))?;
        let said = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        Ok((status, said))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The demo failed. Its guardian ends the workers when the program is killed; drop can't
            // report errors.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn follow(stdout: ChildStdout) -> Receiver<Event> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let Ok(event) = serde_json::from_str(&line) else {
                continue;
            };
            if sender.send(Event(event)).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Sends a signal to a process that the demo has started.
pub(crate) fn signal(pid: u32, signal: Signal) -> Outcome {
    let number = i32::try_from(pid).map_err(|_| format!("{pid} is no pid"))?;
    kill(Pid::from_raw(number), signal).map_err(|error| format!("pid {pid} could not be sent {signal}: {error}"))
}
