//! ostler.
