//! Finding this process's children.
//!
//! Every pid that /proc lists is put to waitid(2), which knows a child of ours from any other process. So a pid that is
//! told here is a child, and stays its pid until we reap it: nothing can be confused with it. /proc/thread-self/children
//! would list children at once, but not every kernel has it, and proc(5) calls it unreliable while they run. It serves
//! for those that /proc hides: hidepid=2 does that to whoever is not dumpable, our own children included.

use core::ffi::CStr;

use crate::process;
use crate::sys::{self, Errno, Fd};
use crate::text;
use crate::wait;

/// Room for one read of the directory; a page keeps the stack small.
const BUFFER: usize = 4096;

/// Calls `found` for each child, those that have ended and are not reaped included. A child that is born or inherited
/// while the list is read may be missed: callers look again as long as wait says that there are children.
///
/// Never inlined: its buffer would lie in its caller's frame, in every sitter's loop, and everything that is called from
/// there would touch a further page. A sitter's stack is most of what a sitter costs.
#[inline(never)]
pub(crate) fn each(mut found: impl FnMut(i32)) -> sys::Result<()> {
    let directory = sys::open(c"/proc")?;
    let mut buffer = [0; BUFFER];
    loop {
        let length = sys::read_directory(&directory, &mut buffer)?;
        if length == 0 {
            return each_hidden(&mut buffer, &mut found);
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

/// Calls `found` for each child that /proc hides, as far as the kernel tells.
fn each_hidden(buffer: &mut [u8], found: &mut impl FnMut(i32)) -> sys::Result<()> {
    let list = match sys::open(c"/proc/thread-self/children") {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let mut pid = 0;
    loop {
        let length = sys::read(list.raw(), buffer)?;
        if length == 0 {
            return Ok(());
        }
        // Each number is followed by a space.
        for byte in &buffer[..length] {
            if byte.is_ascii_digit() {
                pid = pid * 10 + i32::from(byte - b'0');
                continue;
            }
            if open_stat(pid).err() == Some(Errno::ENOENT) && wait::is_child(pid) {
                found(pid);
            }
            pid = 0;
        }
    }
}

/// The name in a `linux_dirent64`, and what follows it. Layout: inode u64, offset i64, record length u16, kind u8, name.
fn next_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes([*entries.get(16)?, *entries.get(17)?]));
    let name = CStr::from_bytes_until_nul(entries.get(19..length)?).ok()?;
    Some((name.to_bytes(), &entries[length..]))
}

/// Field 22 of /proc/PID/stat; 0 when it cannot be read. Exact only for a process that cannot be reaped meanwhile.
pub(crate) fn start_time(pid: i32) -> u64 {
    let mut stat = [0; 512];
    open_stat(pid)
        .and_then(|file| sys::read(file.raw(), &mut stat))
        .ok()
        .and_then(|length| text::start_time(&stat[..length]))
        .unwrap_or(0)
}

/// The inode number of a child's pidfd; 0 when it cannot be had. Whether it means anything is the host's to say: before
/// Linux 6.9 it is the same for all. Exact only for a process that cannot be reaped meanwhile.
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
