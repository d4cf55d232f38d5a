//! The messages between host, guardian and sitters.
//!
//! This module is compiled twice: into the library and, by its path, into the guardian program. So
//! it uses `core` only. Every message is a few fixed-size fields in the machine's byte order,
//! because both ends run on the same kernel. There are two `SOCK_SEQPACKET` sockets, which keep
//! message boundaries and never send half a message:
//!
//! - the **control** socket: the host sends one [`Hello`], then [`Order`]s, one or more in a
//!   message. The guardian never writes to it. It forwards a slot's orders unchanged to that slot's
//!   sitter, one in a message.
//! - the **events** socket: guardian and sitters share its writing end. A message is one or more
//!   [`Event`]s.
//!
//! A change that an older peer could misread raises [`VERSION`]. The first eight bytes of [`Hello`]
//! and all of
//! [`Payload::Ready`] keep their layout in every version, because they carry the version.

mod event;
mod hello;
mod order;
mod spec;

pub use event::{Cause, Event, Payload, Step, TreeKill};
pub use hello::Hello;
pub use order::{Order, OrderKind};
pub use spec::SpecHead;

/// The version of this protocol. Host and guardian must have the same one.
pub const VERSION: u32 = 5;

/// The first word of [`Hello`] and of a spec (`OSTL`), to recognise a peer.
pub const MAGIC: u32 = 0x4F53_544C;

/// Slot numbers are below this. They should be dense: the guardian's table of slots grows with the
/// highest number in use.
pub const MAX_SLOTS: u32 = 1 << 20;

/// The most listening sockets in one spawn order. The kernel's limit for one message is 253
/// descriptors.
pub const MAX_LISTEN: usize = 64;

/// The most descriptors in one spawn order: spec, stdout, stderr, a cgroup, stdin, and the
/// listening sockets.
pub const MAX_SPAWN_FDS: usize = 5 + MAX_LISTEN;

/// The largest spec that a sitter's child maps, in bytes: far more than execve(2) accepts (a
/// quarter of the stack limit).
pub const MAX_SPEC: usize = 64 << 20;

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (slot, byte) in out.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    u32_at(bytes, at) as i32
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    put(&mut word, 0, &bytes[at..]);
    u64::from_ne_bytes(word)
}
