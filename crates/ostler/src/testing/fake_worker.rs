//! A worker whose behaviour the test chooses.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_core::spec::{PoolSpec, Port, Ready};
use ostler_os::fake_worker;

/// A real program that behaves well or badly, as the test chooses. It is part of this crate, needs
/// nothing on the machine, and starts in a millisecond.
///
/// What it does follows the order of the calls: `.pause(d).stdout("loaded").exit_with(1)` sleeps,
/// writes a line and exits. Then it reports that it is ready (`READY=1`, see [`Ready::Notify`])
/// and runs until it is stopped. TERM ends it, unless [`FakeWorker::ignore_term`] was called.
#[derive(Debug, Clone)]
#[must_use = "it runs as the command of a pool"]
pub struct FakeWorker {
    program: PathBuf,
    steps: Vec<String>,
    reports_ready: bool,
    listens: bool,
}

impl FakeWorker {
    /// Writes the program into this directory, which the caller removes.
    /// [`TestBed::fake_worker`](super::TestBed::fake_worker) uses the test's own.
    ///
    /// # Errors
    /// When it can't be written there or not be executed, as on a file system that is mounted
    /// noexec.
    pub fn install(directory: impl AsRef<Path>) -> io::Result<Self> {
        let program = std::path::absolute(directory.as_ref().join("fake-worker"))?;
        fake_worker::install(&program)?;
        Ok(Self {
            program,
            steps: Vec::new(),
            reports_ready: true,
            listens: false,
        })
    }

    /// Its command line, for a specification of your own. The worker listens on the port without a
    /// name (`PORT`).
    pub fn command(&self) -> Vec<String> {
        let program = self.program.display().to_string();
        let ready = self.reports_ready.then(|| "ready".to_owned());
        [program].into_iter().chain(self.steps.clone()).chain(ready).collect()
    }

    /// A pool of such workers: ready when it says so, with a port that the host picks if it
    /// listens. Every other setting is at its default.
    pub fn pool(&self, name: impl Into<String>) -> PoolSpec {
        let spec = PoolSpec::new(name, self.command()).ready(Ready::Notify);
        if self.listens { spec.port(Port::Any) } else { spec }
    }

    /// Sleeps.
    pub fn pause(self, time: Duration) -> Self {
        self.step(format!("pause={}", time.as_millis()))
    }

    /// Reports that it is ready this much later than it would. The same as
    /// [`pause`](Self::pause) as the last call.
    pub fn ready_after(self, time: Duration) -> Self {
        self.pause(time)
    }

    /// Never reports that it is ready.
    pub fn never_ready(mut self) -> Self {
        self.reports_ready = false;
        self
    }

    /// Serves HTTP on its port: answers every request with 200 and its worker and incarnation,
    /// such as `web/0#1`.
    pub fn http(self) -> Self {
        self.listening("http".to_owned())
    }

    /// Serves HTTP on its port: answers so many requests with 200, every later one with 503. Zero:
    /// never 503.
    pub fn http_failing_after(self, requests: u64) -> Self {
        self.listening(format!("http={requests}"))
    }

    /// Serves HTTP on its port, and starts a child that ignores TERM and keeps the port in use
    /// after the worker's own exit.
    pub fn hold_port(self) -> Self {
        self.listening("hold-port".to_owned())
    }

    /// Ignores TERM, INT and HUP from here on; so do the children that it starts.
    pub fn ignore_term(self) -> Self {
        self.step("ignore-term".to_owned())
    }

    /// Exits with this status, at this point.
    pub fn exit_with(self, status: u8) -> Self {
        self.step(format!("exit={status}"))
    }

    /// Exits with this status so long after this point, while it goes on.
    pub fn exit_after(self, time: Duration, status: u8) -> Self {
        self.step(format!("exit-after={}:{status}", time.as_millis()))
    }

    /// Aborts, at this point: it is ended by the signal ABRT.
    pub fn abort(self) -> Self {
        self.step("abort".to_owned())
    }

    /// Writes this line to stdout.
    pub fn stdout(self, line: &str) -> Self {
        self.step(format!("say-out={line}"))
    }

    /// Writes this line to stderr.
    pub fn stderr(self, line: &str) -> Self {
        self.step(format!("say-err={line}"))
    }

    /// Writes so many bytes to stdout, in lines of 1 KiB, as fast as they are read.
    pub fn flood(self, bytes: u64) -> Self {
        self.step(format!("flood={bytes}"))
    }

    fn listening(mut self, step: String) -> Self {
        self.listens = true;
        self.step(step)
    }

    fn step(mut self, step: String) -> Self {
        self.steps.push(step);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_their_order_and_a_port_comes_with_what_listens() {
        let directory = tempfile::tempdir().unwrap();
        let worker = FakeWorker::install(directory.path()).unwrap();
        let command = worker
            .clone()
            .stderr("a = b")
            .http()
            .exit_after(Duration::from_secs(1), 3)
            .command();
        assert_eq!(command[1..], ["say-err=a = b", "http", "exit-after=1000:3", "ready"]);
        assert_eq!(worker.pool("p").worker.ports, ostler_core::spec::Ports::None);
        assert_eq!(worker.clone().never_ready().http().pool("p").problems(), []);
        assert!(FakeWorker::install(directory.path()).is_err(), "it is there already");
    }
}
