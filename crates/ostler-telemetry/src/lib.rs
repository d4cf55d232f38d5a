//! ostler-telemetry.
