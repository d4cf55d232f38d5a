//! Every key of the file, table by table: those of pools, and those that the program has beside
//! them. `docs/configuration.md` is compared with these.

pub(super) use ostler_core::config::keys::*;

pub(super) const ROOT: Keys = &["app", "pool", "telemetry"];
pub(super) const APP: Keys = &["name", "state_dir", "store", "audit"];
pub(super) const TELEMETRY: Keys = &["otlp", "protocol", "headers", "sampling", "service_name"];
