//! What one incarnation holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::signal::Signal;
use ostler_core::spec::WorkerSpec;
use ostler_core::traceback;
use ostler_os::cgroup::Group;
use ostler_os::identity::ProcessIdentity;
use ostler_os::oom::OomWatch;
use ostler_os::output::Capture;
use ostler_os::port_choice::PortReservation;
use ostler_os::python_env;
use ostler_telemetry::{Containment, Facts};

use super::incarnation::Incarnation;
use super::place::Place;
use super::protocol::Listeners;
use super::tap::Tap;
use super::watch::{LastAnswer, LineWatch, Notify, Uninspected};
use crate::follow::Stdio;
use crate::small_watch;
use crate::status::{PortMap, SocketMap};

/// What happened to a worker whose process ended with status 0 and left others behind.
pub(super) const BACKGROUND: &str = "it went into the background: its process ended with 0 while its child lived";
/// What to do about it.
pub(super) const RUN_IN_FOREGROUND: &str = "run it in the foreground (an option such as --foreground, --no-daemon or \"daemon off\"): Ostler supervises the process that it starts";

/// How long an exit waits for the end of what it left behind: 250 ms.
const COUNT_LIMIT: Duration = Duration::from_millis(250);

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
    pub(super) port_failure: Option<Box<Failure>>,
    pub(super) pid: Option<u32>,
    pub(super) identity: Option<ProcessIdentity>,
    pub(super) sitter_pid: Option<i32>,
    /// The sitter as it was identified at the spawn.
    pub(super) sitter: Option<ProcessIdentity>,
    pub(super) containment: Option<Containment>,
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
    /// The paths by which it reports and serves.
    pub(super) places: Vec<Place>,
    /// Why it was not ready at the latest check.
    pub(super) last_answer: LastAnswer,
    /// The number of processes that its tree's kill has ended, beside its own; `None` until the
    /// tree is gone.
    pub(super) left_behind: small_watch::Sender<Option<u32>>,
    /// Whether a warning about what can't be inspected was already logged.
    warned: Arc<AtomicBool>,
}

impl Resources {
    pub(super) fn new(tap: &Arc<Tap>) -> Self {
        let mut resources = Self::default();
        resources.tap = Arc::clone(tap);
        resources
    }

    /// Adds what every event of the incarnation contains.
    pub(super) fn complete(&self, mut facts: Facts) -> Facts {
        let named = self.ports.iter().filter(|(name, _)| !name.is_empty());
        let shown = |path: &Path| path.display().to_string();
        let named_sockets = self.sockets.iter().filter(|(name, _)| !name.is_empty());
        facts.pid = facts.pid.or(self.pid);
        facts.port = self.ports.get("").copied();
        facts.ports = named.map(|(name, port)| (name.clone(), *port)).collect();
        facts.socket = self.sockets.get("").map(|path| shown(path));
        facts.sockets = named_sockets.map(|(name, path)| (name.clone(), shown(path))).collect();
        facts.containment = self.containment;
        facts
    }

    /// Warns of what of the incarnation can't be inspected.
    pub(super) fn uninspected(&self, incarnation: &Incarnation) -> Uninspected {
        Uninspected::new(incarnation.key().to_string(), Arc::clone(&self.warned))
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

    /// Waits until its tree is gone, so that it is known whether processes were left in it. A kill
    /// takes milliseconds; one that takes longer is not waited for.
    pub(super) fn tree_counted(&self) -> impl Future<Output = ()> + Send + use<> {
        let left_behind = self.left_behind.subscribe();
        async move {
            let counted = left_behind.wait_for(|count| count.is_some());
            // Without the count, only a hint is missing.
            _ = tokio::time::timeout(COUNT_LIMIT, counted).await;
        }
    }

    /// Whether the process of an incarnation that ended by itself with status 0 left others behind,
    /// as a program does that turns itself into a daemon.
    pub(super) fn went_into_background(&self) -> bool {
        self.left_behind.get().is_some_and(|killed| killed > 0)
    }

    /// Adds to the failure what the incarnation knows: the last lines of its stderr, why it was not
    /// ready, whether it has left the foreground, and whether a path that it depends on was lost.
    pub(super) fn explain(&self, spec: &WorkerSpec, mut failure: Failure) -> Failure {
        if failure.stderr_tail.is_empty()
            && let Some(stderr) = &self.stderr
        {
            failure.stderr_tail = stderr.tail(STDERR_TAIL);
        }
        if failure.status.is_some_and(ExitStatus::success) && self.went_into_background() {
            append(&mut failure, BACKGROUND);
            RUN_IN_FOREGROUND.clone_into(&mut failure.suggestion);
        }
        let more = match failure.reason {
            Reason::ExitedBeforeReady => last_words(spec, &mut failure),
            Reason::ReadyTimeout => self.last_answer.get(),
            _ => None,
        };
        if let Some(more) = more {
            append(&mut failure, &more);
        }
        self.excuse(failure)
    }

    /// Looks at the paths that it depends on, before a failure is judged.
    pub(super) fn look_at_places(&mut self) {
        self.places.iter_mut().for_each(Place::look);
    }

    /// A failure that comes of a lost path is not the worker's.
    pub(super) fn excuse(&self, failure: Failure) -> Failure {
        self.places.iter().fold(failure, |failure, place| place.excuse(failure))
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }
}

/// Adds to the message what it does not say yet.
fn append(failure: &mut Failure, more: &str) {
    if !failure.message.contains(more) {
        failure.message = format!("{}; {more}", failure.message);
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
        failure.suggestion = missing.suggestion(python_env::installer(Path::new(python)), python);
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
