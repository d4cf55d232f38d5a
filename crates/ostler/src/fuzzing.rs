//! What `fuzz/` and the replay of its corpus call: any bytes may come in, and nothing may panic.

pub use crate::process::ready_file;
