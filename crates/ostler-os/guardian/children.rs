//! Finding this process's children.
//!
//! Every pid that /proc lists is put to waitid(2), which knows a child of ours from any other process. So a pid that is
//! told here is a child, and stays its pid until we reap it: nothing can be confused with it. /proc/PID/task/TID/children
//! would list children at once, but not every kernel has it, and proc(5) calls it unreliable while they run.

use core::ffi::CStr;

use crate::sys;
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

/// The name in a `linux_dirent64`, and what follows it. Layout: inode u64, offset i64, record length u16, kind u8, name.
fn next_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes([*entries.get(16)?, *entries.get(17)?]));
    let name = CStr::from_bytes_until_nul(entries.get(19..length)?).ok()?;
    Some((name.to_bytes(), &entries[length..]))
}

/// Field 22 of /proc/PID/stat; 0 when it cannot be read. Exact only for a process that cannot be reaped meanwhile.
pub(crate) fn start_time(pid: i32) -> u64 {
    let mut path = *b"/proc/0000000000/stat\0";
    let digits = text::write_decimal(pid.unsigned_abs(), &mut path[6..16]);
    path[6 + digits..]
        .iter_mut()
        .zip(b"/stat\0")
        .for_each(|(to, from)| *to = *from);
    let Ok(path) = CStr::from_bytes_until_nul(&path) else {
        return 0;
    };
    let mut stat = [0; 512];
    sys::open(path)
        .and_then(|file| sys::read(file.raw(), &mut stat))
        .ok()
        .and_then(|length| text::start_time(&stat[..length]))
        .unwrap_or(0)
}
