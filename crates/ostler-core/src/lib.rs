//! ostler-core.
