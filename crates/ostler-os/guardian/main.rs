//! The guardian and its sitters: one tiny program that starts Ostler's workers and ends their trees
//! (ADR 0002).
//!
//! Reading order: `life` (when a tree is ended, pure), `sitter` (one slot), `worker` (from an order
//! to exec), `tree` (killing), `start` and `server` (the guardian itself); below them `nursery`,
//! `outbox`, `wire`, `children`, `wait`, `process`, `sys` and `arch`. `failpoint` is for tests. The
//! messages are in the library's `src/protocol`, which is compiled into both.
//!
//! It uses only `core` and raw system calls: no allocator, no libc, no threads. It waits only in
//! `ppoll`, with a deadline where something is due later. A panic fails safe: when the guardian
//! exits, sitters end their trees; when a sitter exits, its worker dies with it and the guardian
//! ends the rest.
#![no_std]
#![no_main]
#![no_builtins]

mod arch;
mod children;
mod failpoint;
mod life;
mod mem;
mod nursery;
mod outbox;
mod process;
#[path = "../src/protocol/mod.rs"]
mod protocol;
mod server;
mod sitter;
mod slots;
mod start;
mod sys;
mod text;
mod tree;
mod wait;
mod wire;
mod worker;

/// The numbers of the guardian's descriptors, and of those that a sitter has, too. 0, 1 and 2 are
/// /dev/null. Every other descriptor is created close-on-exec.
mod fd {
    /// Orders: from the host in the guardian, from the guardian in a sitter.
    pub(crate) const CONTROL: i32 = 3;
    /// Events: the writing end, which all share.
    pub(crate) const EVENTS: i32 = 4;
    /// A signalfd for SIGCHLD, the only signal that is handled.
    pub(crate) const SIGNALS: i32 = 5;
    /// Only kept open: its lock shows later hosts that a guardian or sitter of this run lives.
    pub(crate) const LOCK: i32 = 6;
    /// A pidfd of the host, in the guardian only. A sitter closes this and everything above. In the
    /// guardian, the places of [`nursery`](crate::nursery) are above it, then the sitters' sockets.
    pub(crate) const HOST: i32 = 7;
}

/// Exit statuses.
mod status {
    /// Ordered to end, or the host is gone. No child is left.
    pub(crate) const DONE: i32 = 0;
    /// The first message was not a hello.
    pub(crate) const NO_HELLO: i32 = 2;
    /// The host speaks another version of the protocol.
    pub(crate) const VERSION: i32 = 4;
    /// The set-up failed. The host has received the errno.
    pub(crate) const SETUP: i32 = 5;
    /// The hard limit on descriptors was lowered so far that no wait is possible.
    pub(crate) const DEAF: i32 = 6;
    /// A bug.
    pub(crate) const PANIC: i32 = 101;
    /// In a worker-to-be: exec or a step before it failed. The pipe has reported which.
    pub(crate) const NOT_STARTED: i32 = 127;
}

/// Called by `_start` in `arch`, on the initial stack.
#[unsafe(no_mangle)]
extern "C" fn guardian_start() -> ! {
    start::run()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    process::exit(status::PANIC)
}

/// The compiled `core` refers to this function in its unwind tables. Nothing unwinds here, so
/// nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
