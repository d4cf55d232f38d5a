//! Waits for children with waitid(2), which can look at one without reaping it and knows children
//! from other processes.

use crate::arch::number;
use crate::sys::{Result, call};

/// A child that has ended.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    /// The wait status, as wait(2) encodes it.
    pub(crate) status: i32,
}

/// The siginfo_t that waitid(2) fills in: signo, errno, code, padding, pid, uid, status; 128 bytes.
#[repr(C, align(8))]
struct ChildInfo {
    signo: i32,
    errno: i32,
    code: i32,
    padding: i32,
    pid: i32,
    uid: u32,
    status: i32,
    rest: [u8; 100],
}

const P_ALL: usize = 0;
const P_PID: usize = 1;
const WNOHANG: usize = 1;
const WEXITED: usize = 4;
const WNOWAIT: usize = 0x0100_0000;
/// Children of every kind, including those whose exit signal is not SIGCHLD.
const WALL: usize = 0x4000_0000;

fn wait(kind: usize, pid: i32, flags: usize) -> Result<Option<Ended>> {
    // SAFETY: all zeros is a valid value of plain numbers.
    let mut info: ChildInfo = unsafe { core::mem::zeroed() };
    let args = [
        kind,
        pid as usize,
        &raw mut info as usize,
        flags | WEXITED | WNOHANG | WALL,
        0,
        0,
    ];
    // SAFETY: room for a siginfo_t.
    unsafe { call(number::WAITID, args) }?;
    if info.pid == 0 {
        return Ok(None);
    }
    const CLD_EXITED: i32 = 1;
    const CLD_DUMPED: i32 = 3;
    let status = match info.code {
        CLD_EXITED => (info.status & 0xff) << 8,
        CLD_DUMPED => (info.status & 0x7f) | 0x80,
        _ => info.status & 0x7f,
    };
    Ok(Some(Ended { pid: info.pid, status }))
}

/// A child that has ended, without reaping it: its pid and its process group's id stay taken until
/// it is reaped. `None` if all children live; ECHILD if there is none.
pub(crate) fn peek_ended() -> Result<Option<Ended>> {
    wait(P_ALL, 0, WNOWAIT)
}

/// Reaps any child that has ended. `None` if all children live; ECHILD if there is none.
pub(crate) fn reap_any() -> Result<Option<Ended>> {
    wait(P_ALL, 0, 0)
}

/// Reaps one child. `None` if it lives.
pub(crate) fn reap(pid: i32) -> Result<Option<Ended>> {
    wait(P_PID, pid, 0)
}

/// Whether there is any child, alive or not reaped.
pub(crate) fn has_child() -> bool {
    peek_ended().is_ok()
}

/// Whether this pid is a child of ours, alive or not reaped. Then it can't be reused: only we reap
/// it.
pub(crate) fn is_child(pid: i32) -> bool {
    wait(P_PID, pid, WNOWAIT).is_ok()
}
