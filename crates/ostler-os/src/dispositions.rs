//! This process's own signal mask and dispositions (signal(7)): what a program sets up first thing
//! in its `main`.
//!
//! A library never calls these: an embedding host decides about its own signals.

use std::fs;
use std::io;
use std::ptr;

use nix::libc;
use nix::sys::signal::SigSet;
use ostler_core::signal::Signal;

/// Unblocks every signal for the calling thread, and for the threads that it starts from now on.
///
/// # Errors
/// What pthread_sigmask(3) reports.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Has the kernel discard this signal. Children inherit that across exec; workers don't, the
/// guardian resets it for them.
///
/// Signals 32 and 33, which the C library keeps for itself, are included: until it has set its
/// handlers, their default action ends the program. Ignore them before the first thread is started;
/// the C library then replaces what it needs.
///
/// # Errors
/// EINVAL for KILL and STOP.
pub fn ignore(signal: Signal) -> io::Result<()> {
    set(signal, libc::SIG_IGN)
}

/// Gives this signal its default action.
///
/// # Errors
/// As for [`ignore`].
pub fn reset(signal: Signal) -> io::Result<()> {
    set(signal, libc::SIG_DFL)
}

/// By the system call, because sigaction(3) refuses the signals of the C library.
fn set(signal: Signal, action: libc::sighandler_t) -> io::Result<()> {
    // The kernel's struct sigaction: action, flags, restorer, mask.
    let new: [u64; 4] = [action as u64, 0, 0, 0];
    // SAFETY: `new` is as long as the kernel's struct and outlives the call, the mask has eight
    // bytes, and the action is no function that could be called.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal.number(),
            new.as_ptr(),
            ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signals that this process ignores, from `/proc/self/status`.
///
/// # Errors
/// When `/proc` can't be read.
pub fn ignored() -> io::Result<Vec<Signal>> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(in_mask(mask(&status, "SigIgn:")))
}

/// A mask of /proc/PID/status (proc_pid_status(5)): bit 0 is signal 1.
fn mask(status: &str, field: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(field));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn in_mask(mask: u64) -> Vec<Signal> {
    (1..=64)
        .filter(|number| mask >> (number - 1) & 1 == 1)
        .filter_map(Signal::from_number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read() {
        let ignored = in_mask(mask("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n", "SigIgn:"));
        assert_eq!(
            ignored.iter().map(|signal| signal.number()).collect::<Vec<_>>(),
            [1, 13]
        );
        assert_eq!(in_mask(mask("", "SigIgn:")), []);
    }

    #[test]
    fn a_signal_is_ignored_and_gets_its_default_back() {
        // Nothing in this test program uses it.
        let urgent = Signal::from_number(libc::SIGURG).unwrap();
        ignore(urgent).unwrap();
        assert!(super::ignored().unwrap().contains(&urgent));
        reset(urgent).unwrap();
        assert!(!super::ignored().unwrap().contains(&urgent));
        assert!(ignore(Signal::KILL).is_err());
        // One of the C library's, which it sets up only for pthread_cancel(3).
        let cancel = Signal::from_number(32).unwrap();
        ignore(cancel).unwrap();
        assert!(super::ignored().unwrap().contains(&cancel));
        reset(cancel).unwrap();
    }
}
