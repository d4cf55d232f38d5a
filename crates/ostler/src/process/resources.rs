//! What one incarnation holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::signal::Signal;
use ostler_core::spec::WorkerSpec;
use ostler_core::traceback;
use ostler_os::cgroup::Group;
use ostler_os::identity::ProcessIdentity;
use ostler_os::oom::OomWatch;
use ostler_os::output::Capture;
use ostler_os::port_choice::PortReservation;
use ostler_telemetry::Facts;

use super::protocol::Listeners;
use super::tap::Tap;
use super::watch::{LastAnswer, LineWatch, Notify};
use crate::follow::Stdio;
use crate::status::{PortMap, SocketMap};

/// How many lines of stderr a failure contains.
const STDERR_TAIL: usize = 20;

/// What one incarnation holds.
#[derive(Default)]
pub(super) struct Resources {
    pub(super) ports: PortMap,
    /// Its own Unix sockets. The release removes the paths.
    pub(super) sockets: SocketMap,
    /// Reservations of its ports against other workers of this process.
    pub(super) reservations: Vec<PortReservation>,
    pub(super) listeners: Listeners,
    /// Why no port is available; it becomes the failure of the spawn, so that the reservation is
    /// announced first.
    pub(super) port_failure: Option<Failure>,
    pub(super) pid: Option<u32>,
    pub(super) identity: Option<ProcessIdentity>,
    pub(super) sitter_pid: Option<i32>,
    /// The sitter as it was identified at the spawn.
    pub(super) sitter: Option<ProcessIdentity>,
    pub(super) containment: Option<&'static str>,
    /// Shared with the work that kills a tree without a sitter.
    pub(super) cgroup: Option<Arc<Group>>,
    pub(super) oom: Option<OomWatch>,
    pub(super) stdout: Option<Capture>,
    pub(super) stderr: Option<Capture>,
    /// Where its lines go beside being kept.
    pub(super) tap: Arc<Tap>,
    /// Its stdin and stdout, where they belong to a client.
    pub(super) stdio: Option<Stdio>,
    pub(super) notify: Option<Notify>,
    pub(super) ready_file: Option<PathBuf>,
    pub(super) lines: Option<LineWatch>,
    /// Why it was not ready at the latest check.
    pub(super) last_answer: LastAnswer,
}

impl Resources {
    pub(super) fn new(tap: &Arc<Tap>) -> Self {
        let mut resources = Self::default();
        resources.tap = Arc::clone(tap);
        resources
    }

    /// Adds what every event of the incarnation contains.
    pub(super) fn complete(&self, facts: Facts) -> Facts {
        let named = self.ports.iter().filter(|(name, _)| !name.is_empty());
        let shown = |path: &Path| path.display().to_string();
        let named_sockets = self.sockets.iter().filter(|(name, _)| !name.is_empty());
        Facts {
            pid: facts.pid.or(self.pid),
            port: self.ports.get("").copied(),
            ports: named.map(|(name, port)| (name.clone(), *port)).collect(),
            socket: self.sockets.get("").map(|path| shown(path)),
            sockets: named_sockets.map(|(name, path)| (name.clone(), shown(path))).collect(),
            containment: self.containment.map(str::to_owned),
            ..facts
        }
    }

    /// The worker has bound its ports, which now keep other hosts away by themselves.
    pub(super) fn settle_ports(&mut self) {
        for reservation in &mut self.reservations {
            reservation.settle();
        }
    }

    /// Drops the cgroup after it was killed, because it can't be reused. Returns whether it could
    /// be removed: the kernel may report it as busy for another moment.
    pub(super) fn drop_cgroup(&mut self) -> bool {
        self.cgroup
            .take()
            .is_none_or(|group| group.try_remove().unwrap_or(false))
    }

    /// Replaces the status of an out-of-memory kill, which wait(2) reports like any other SIGKILL.
    /// Only for an end that Ostler did not order.
    pub(super) fn explain_exit(&mut self, status: ExitStatus) -> ExitStatus {
        let is_kill = status == ExitStatus::Signal(Signal::KILL);
        let watch = self.oom.take().filter(|_| is_kill);
        match watch.is_some_and(OomWatch::attribute_kill) {
            true => ExitStatus::OomKilled,
            false => status,
        }
    }

    /// The number of lines dropped from the kept output.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.captures().map(Capture::dropped).sum()
    }

    /// Reads what the process wrote before it ended, without waiting for others that hold its
    /// pipes.
    pub(super) fn drain_output(&self) -> impl Future<Output = ()> + Send + use<> {
        let captures: Vec<Capture> = self.captures().cloned().collect();
        async move {
            for capture in captures {
                capture.drain_after_exit().await;
            }
        }
    }

    /// Adds to the failure what the incarnation knows: the last lines of its stderr, and why it was
    /// not ready.
    pub(super) fn explain(&self, spec: &WorkerSpec, mut failure: Failure) -> Failure {
        if failure.stderr_tail.is_empty()
            && let Some(stderr) = &self.stderr
        {
            failure.stderr_tail = stderr.tail(STDERR_TAIL);
        }
        let more = match failure.reason {
            Reason::ExitedBeforeReady => last_words(spec, &mut failure),
            Reason::ReadyTimeout => self.last_answer.get(),
            _ => None,
        };
        if let Some(more) = more.filter(|more| !failure.message.ends_with(more.as_str())) {
            failure.message = format!("{}; {more}", failure.message);
        }
        failure
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }
}

/// The last output of a worker that never became ready: the exception of a Python program, with the
/// package that fixes it, or its last line on stderr.
fn last_words(spec: &WorkerSpec, failure: &mut Failure) -> Option<String> {
    let Some(found) = traceback::read(&failure.stderr_tail) else {
        let last = failure.stderr_tail.last()?;
        return Some(format!("its last line on stderr: {last}"));
    };
    if let Some(missing) = found.missing {
        let python = spec.command.first().map_or("python3", String::as_str);
        failure.suggestion = missing.suggestion(python);
    }
    Some(format!("its last exception: {}", found.line))
}

impl Drop for Resources {
    fn drop(&mut self) {
        self.captures().for_each(Capture::close);
        if let Some(file) = &self.ready_file {
            // Missing if the worker has not created it, or has removed it.
            drop(std::fs::remove_file(file));
        }
    }
}
