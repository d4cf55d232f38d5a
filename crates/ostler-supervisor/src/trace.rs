//! Emits reports as tracing events with the target `ostler::supervisor`.

use ostler_core::chain::chain;
use ostler_core::supervision::Report;
use ractor::ActorCell;
use tracing::{debug, error};

/// The target that users filter by.
const TARGET: &str = "ostler::supervisor";

/// One line for each failure, at level error; what follows from it is logged at level debug.
/// Progress has level debug, because OTP's default level does not show it either.
pub(crate) fn trace(supervisor: &ActorCell, report: &Report) {
    let (supervisor, name, child) = (supervisor.get_name(), report.name(), report.child());
    let (id, incarnation) = (child.id.as_str(), child.incarnation);
    match report {
        Report::Progress { .. } => {
            debug!(target: TARGET, report = name, supervisor, child = id, incarnation, "child started");
        }
        Report::StartError { reason, .. } => {
            error!(target: TARGET, report = name, supervisor, child = id, incarnation, reason = %chain(reason), "child did not start");
        }
        Report::ChildTerminated { reason, counted, .. } => {
            error!(target: TARGET, report = name, supervisor, child = id, incarnation, reason = %chain(reason), counted, "child ended");
        }
        Report::ShutdownError { reason, .. } => {
            error!(target: TARGET, report = name, supervisor, child = id, incarnation, reason = %chain(reason), "child did not stop as requested");
        }
        Report::RestartScheduled {
            attempt,
            delay,
            restarts,
            ..
        } => {
            let delay_ms = delay.as_millis();
            debug!(target: TARGET, report = name, supervisor, child = id, incarnation, attempt, delay_ms, restarts, "child will be restarted");
        }
        Report::ReachedMaxRestartIntensity { reason, restarts, .. } => {
            error!(target: TARGET, report = name, supervisor, child = id, incarnation, reason = %chain(reason), restarts, "too many restarts: the supervisor gives up");
        }
        // A new kind of report has no line until it gets one here.
        _ => {}
    }
}
