//! ostler-os.
