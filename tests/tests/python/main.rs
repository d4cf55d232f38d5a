//! Python workers, called from Rust: real interpreters, the real SDK, and every outcome by its
//! name.

mod calls;
mod faults;
mod figures;
mod large;
mod many;
mod scene;
mod servicers;
mod streams;
mod venv;
