//! What a worker's whole tree uses.

use std::time::Duration;

use ostler_os::identity::{self, ProcessIdentity};
use ostler_os::tree;
use ostler_telemetry::Usage;

use crate::process::Slot;

/// `None`: its tree is gone, or its sitter's pid belongs to another process by now.
pub(crate) fn usage(slot: &Slot) -> Option<Usage> {
    let sitter = slot.sitter()?;
    let is_ours = |now: &ProcessIdentity| now.is_same_as(&sitter);
    identity::of(sitter.pid).ok().flatten().filter(is_ours)?;
    let usage = tree::usage(sitter.pid).ok()?;
    let cpu = Duration::from_millis(usage.cpu_ticks.saturating_mul(1_000) / tree::ticks_per_second());
    Some(Usage::new(slot.worker.clone(), cpu, usage.resident_bytes))
}
