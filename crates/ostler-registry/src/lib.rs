//! ostler-registry.
