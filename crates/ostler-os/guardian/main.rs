//! The guardian and its sitters: one tiny program that starts Ostler's workers and ends their trees (ADR 0002).
//!
//! Reading order: `life` (when a tree is ended, pure), `sitter` (one slot), `worker` (fork to exec), `tree` (killing),
//! `start` and `server` (the guardian itself); below them `wire`, `children`, `wait`, `process`, `sys` and `arch`; `failpoint` is for tests. The
//! messages are in the library's `src/protocol.rs`, which is compiled into both.
//!
//! It uses `core` and raw system calls only: no allocator, no libc, no thread. Every wait is one `ppoll`, with a
//! deadline where there is anything to be done later. A bug that panics fails safe: when the guardian exits, sitters
//! end their trees; when a sitter exits, its worker dies with it and the guardian ends the rest.
#![no_std]
#![no_main]
#![no_builtins]

mod arch;
mod children;
mod failpoint;
mod life;
mod mem;
mod process;
#[path = "../src/protocol.rs"]
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

/// Where the guardian keeps its descriptors; a sitter has the same numbers for what it has. 0, 1 and 2 are /dev/null.
/// Everything else is close-on-exec from its first moment.
mod fd {
    /// Orders: from the host in the guardian, from the guardian in a sitter.
    pub(crate) const CONTROL: i32 = 3;
    /// Events: the writing end that all share.
    pub(crate) const EVENTS: i32 = 4;
    /// A signalfd for SIGCHLD, the only signal that is listened to.
    pub(crate) const SIGNALS: i32 = 5;
    /// Kept, and nothing is done with it: by its lock the host's successors know that guardian or sitter lives.
    pub(crate) const LOCK: i32 = 6;
    /// A pidfd of the host, in the guardian only. Everything from here on is closed in a sitter.
    pub(crate) const HOST: i32 = 7;
}

/// Exit statuses that mean something to whoever looks at the guardian's end.
mod status {
    /// Told to end, or the host is gone; no child was left.
    pub(crate) const DONE: i32 = 0;
    /// The first message was no hello of a host.
    pub(crate) const NO_HELLO: i32 = 2;
    /// The host speaks another version of the protocol.
    pub(crate) const VERSION: i32 = 4;
    /// The set-up failed; the host was told the errno.
    pub(crate) const SETUP: i32 = 5;
    /// Somebody has set our hard limit on descriptors so low that we can't wait for anything.
    pub(crate) const DEAF: i32 = 6;
    /// A bug.
    pub(crate) const PANIC: i32 = 101;
    /// In a worker-to-be: exec or a step before it failed, as the pipe has told.
    pub(crate) const NOT_STARTED: i32 = 127;
}

/// Called by `arch`'s `_start` on the stack that the kernel gave us.
#[unsafe(no_mangle)]
extern "C" fn guardian_start() -> ! {
    start::run()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    process::exit(status::PANIC)
}

/// `core`, as it comes compiled, names this function in its unwind tables. Nothing unwinds here, so nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
