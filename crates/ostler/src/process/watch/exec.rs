//! A command that examines the worker: its exit status is the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure};
use ostler_core::spec::WorkerSpec;
use ostler_os::guardian::SpawnRequest;
use ostler_os::output::Capture;
use ostler_os::patience;

use super::super::exec::{End, ProbePlace, Probing};
use super::super::host::Setup;
use super::super::incarnation::Incarnation;
use super::Answer;
use crate::status::PortMap;

/// How many of the last lines of its output are part of a failure.
const LINES: usize = 5;

/// Makes the order to start the command, and the reader of its output.
pub(in crate::process) type Prepare = Box<dyn Fn() -> Result<(SpawnRequest, Capture), Failure> + Send + Sync>;

/// A command that examines one incarnation of a worker.
pub(in crate::process) struct ExecPlan {
    pub(in crate::process) setup: Arc<Setup>,
    pub(in crate::process) place: Arc<ProbePlace>,
    pub(in crate::process) incarnation: Incarnation,
    /// The worker's specification with the command in place of its own.
    pub(in crate::process) spec: Arc<WorkerSpec>,
    pub(in crate::process) prepare: Prepare,
    /// Whether there was a warning that it leaves processes behind.
    pub(in crate::process) warned: AtomicBool,
}

impl ExecPlan {
    /// Runs the command once. Dropped, the command is killed.
    pub(super) async fn attempt(&self, limit: Duration) -> Answer {
        let (request, output) = match (self.prepare)() {
            Ok(prepared) => prepared,
            Err(failure) => return self.not_started(failure),
        };
        let run = async {
            // The one before may have been killed a moment ago.
            self.place.idle().await;
            let spec = Arc::clone(&self.spec);
            let mut probing = Probing::start(&self.setup, &self.place, &self.incarnation, spec, request);
            let end = probing.ended().await;
            output.drain_after_exit().await;
            end
        };
        match patience::within(limit, run).await {
            Some(End::Exited { status, left }) => self.exited(status, left, &output),
            Some(End::NotStarted(failure)) => self.not_started(failure),
            Some(End::Lost) => Answer::Unasked(format!("{self}: its sitter was lost, and it was killed")),
            None => Answer::NotYet(format!(
                "{self} did not end within {limit:?} and was killed{}",
                written(&output)
            )),
        }
    }

    fn exited(&self, status: Option<ExitStatus>, left: u32, output: &Capture) -> Answer {
        if left > 0 && !self.warned.swap(true, Ordering::Relaxed) {
            let worker = &self.incarnation.worker;
            tracing::warn!(target: "ostler", %worker, left, "{self} left processes behind, which were killed: a probe has to do its work in the foreground");
        }
        match status {
            Some(status) if status.success() => Answer::Yes(PortMap::new()),
            Some(status) => Answer::NotYet(format!("{self} ended with {status}{}", written(output))),
            None => Answer::NotYet(format!("{self} ended, and its exit status is unknown")),
        }
    }

    /// What the machine lacks now it may have the next time; a program that is missing stays so.
    fn not_started(&self, mut failure: Failure) -> Answer {
        failure.message = format!("{self} could not be started: {}", failure.message);
        match failure.reason.is_counted() {
            true => Answer::Never(failure),
            false => Answer::Unasked(failure.message),
        }
    }
}

impl std::fmt::Display for ExecPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the probe {:?}", self.spec.command.join(" "))
    }
}

fn written(output: &Capture) -> String {
    match output.tail(LINES) {
        lines if lines.is_empty() => ", without any output".to_owned(),
        lines => format!("; its output: {}", lines.join(" | ")),
    }
}
