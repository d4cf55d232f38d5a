//! `[telemetry]`: where traces, metrics and log records go.

use ostler::otlp::{Protocol, Settings};
use ostler_core::config::values::{fraction, string};
use ostler_core::config::{Section, Walk};

use super::{keys, values};

/// Reads the section; `None`: it is not there.
pub(super) fn read(walk: &mut Walk, root: &Section<'_>) -> Option<Settings> {
    let section = root.table(walk, "telemetry", keys::TELEMETRY).ok()?;
    let settings = Settings {
        endpoint: section.read(walk, "otlp", values::receiver).ok(),
        protocol: section.read(walk, "protocol", values::protocol).or(Protocol::default()),
        headers: section.strings(walk, "headers"),
        sampling: section.read(walk, "sampling", fraction).ok(),
        metric_interval: None,
        service_name: section.read(walk, "service_name", string).ok(),
    };
    if let Some(part) = settings.sampling.filter(|part| !(0.0..=1.0).contains(part)) {
        let at = section.locate("sampling");
        walk.wrong(
            at,
            &section.path_of("sampling"),
            format!("expected a number between 0 and 1, found {part}"),
        );
    }
    Some(settings)
}
