//! Finds this process's children.
//!
//! `/proc/thread-self/children` lists them at a cost that depends on their number only. proc(5)
//! calls the file unreliable because a child may be reaped while it is read. Here that can't
//! happen: this process has one thread, and only it reaps. So the list holds every child that
//! existed when the read reached its end, ended and unreaped ones included, and also those that
//! `/proc` hides from us (`hidepid`). Each pid stays that child's until we reap it.
//!
//! Where the kernel has no such file (CONFIG_PROC_CHILDREN), or it shows nothing although waitid(2)
//! knows of a child, every pid in `/proc` is passed to waitid, which tells our children from other
//! processes.

use core::ffi::CStr;

use crate::process;
use crate::sys::{self, Errno, Fd};
use crate::text;
use crate::wait;

/// The size of one read, in bytes. A page, to keep the stack small.
const BUFFER: usize = 4096;

/// Calls `found` for each child, including those that have ended and are not reaped. A child that
/// is born or adopted during the call may be missed: callers look again as long as wait(2) reports
/// children.
///
/// Never inlined: the buffer would be in the caller's frame, in every sitter's main loop, and every
/// call from there would touch another page. The stack is most of what a sitter costs.
#[inline(never)]
pub(crate) fn each(mut found: impl FnMut(i32)) -> sys::Result<()> {
    let mut buffer = [0; BUFFER];
    if each_listed(&mut buffer, &mut found)? > 0 || !wait::has_child() {
        return Ok(());
    }
    each_in_proc(&mut buffer, &mut found)
}

/// Calls `found` for each child that the kernel lists, and returns their number: 0 where it has no
/// such list.
fn each_listed(buffer: &mut [u8], found: &mut impl FnMut(i32)) -> sys::Result<u32> {
    let list = match sys::open(c"/proc/thread-self/children") {
        Err(Errno::ENOENT) => return Ok(0),
        other => other?,
    };
    let (mut pid, mut count) = (0, 0);
    loop {
        let length = sys::read(list.raw(), buffer)?;
        if length == 0 {
            return Ok(count);
        }
        // Each number is followed by a space. A number may be split between two reads.
        for byte in &buffer[..length] {
            if byte.is_ascii_digit() {
                pid = pid * 10 + i32::from(byte - b'0');
                continue;
            }
            found(pid);
            (pid, count) = (0, count + 1);
        }
    }
}

/// Calls `found` for each child that `/proc` shows.
fn each_in_proc(buffer: &mut [u8], found: &mut impl FnMut(i32)) -> sys::Result<()> {
    let directory = sys::open(c"/proc")?;
    loop {
        let length = sys::read_directory(&directory, buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut entries = &buffer[..length];
        while let Some((name, rest)) = next_entry(entries) {
            entries = rest;
            if let Some(pid) = text::pid_of(name).filter(|pid| wait::is_child(*pid)) {
                found(pid);
            }
        }
    }
}

/// The name in a `linux_dirent64`, and the bytes after it. Layout: inode u64, offset i64, record
/// length u16, type u8, name.
fn next_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes([*entries.get(16)?, *entries.get(17)?]));
    let name = CStr::from_bytes_until_nul(entries.get(19..length)?).ok()?;
    Some((name.to_bytes(), &entries[length..]))
}

/// Field 22 of `/proc/PID/stat`; 0 if it can't be read. Reliable only for a process that can't be
/// reaped meanwhile.
pub(crate) fn start_time(pid: i32) -> u64 {
    let mut stat = [0; 512];
    open_stat(pid)
        .and_then(|file| sys::read(file.raw(), &mut stat))
        .ok()
        .and_then(|length| text::start_time(&stat[..length]))
        .unwrap_or(0)
}

/// The inode number of a child's pidfd; 0 if it can't be opened. The host decides whether it means
/// anything: before Linux
/// 6.9 all pidfds share one. Reliable only for a process that can't be reaped meanwhile.
pub(crate) fn pidfd_inode(pid: i32) -> u64 {
    process::open(pid).and_then(|pidfd| sys::inode(&pidfd)).unwrap_or(0)
}

fn open_stat(pid: i32) -> sys::Result<Fd> {
    let mut path = *b"/proc/0000000000/stat\0";
    let digits = text::write_decimal(pid.unsigned_abs(), &mut path[6..16]);
    path[6 + digits..]
        .iter_mut()
        .zip(b"/stat\0")
        .for_each(|(to, from)| *to = *from);
    CStr::from_bytes_until_nul(&path)
        .map_err(|_| Errno::EINVAL)
        .and_then(sys::open)
}
