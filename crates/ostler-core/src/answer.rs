//! How much is read of the head of an answer over HTTP, by probes and by calls: chosen, not what
//! the library happens to allow.

/// How many headers an answer over HTTP/1.1 may have; hyper's own limit is 100.
pub const MAX_HEADERS: usize = 1_000;

/// How large the headers of an answer may be together: 512 KiB. hyper's own limits are 400 KiB, and
/// 16 KiB over HTTP/2.
pub const MAX_HEAD: u32 = 512 * 1024;
