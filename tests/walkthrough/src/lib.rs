//! Empty: the walkthrough is in `tests/walkthrough.rs`.
