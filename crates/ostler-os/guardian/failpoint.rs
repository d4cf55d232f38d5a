//! Failpoints of guardian, sitter and worker-to-be (ADR 0014). They exist only with the library's
//! feature `failpoints`, which the build script passes on. The crate `ostler-failpoint` says what
//! they do.

/// The list of points, written by the build script from that crate's source. A module of its own:
/// the file begins with its own documentation.
mod points {
    include!(concat!(env!("OUT_DIR"), "/points.rs"));
}

pub(crate) use points::Point;

/// Reads from the environment which point is armed, if any.
#[cfg(not(failpoints))]
#[inline(always)]
pub(crate) fn arm() {}

/// Kills this process if the point is armed.
#[cfg(not(failpoints))]
#[inline(always)]
pub(crate) fn reach(_: Point) {}

#[cfg(failpoints)]
pub(crate) use armed::{arm, reach};

#[cfg(failpoints)]
mod armed {
    use core::ffi::CStr;
    use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use super::Point;
    use crate::process;
    use crate::sys::{self, Fd};

    const LONGEST_PATH: usize = 256;

    /// The armed point's index in the list plus one; 0 for none. Forks inherit it.
    static ARMED: AtomicUsize = AtomicUsize::new(0);
    /// The file's path, NUL-terminated.
    static PATH: [AtomicU8; LONGEST_PATH] = [const { AtomicU8::new(0) }; LONGEST_PATH];

    pub(crate) fn arm() {
        let mut bytes = [0; 4096];
        let Ok(environ) = sys::open(c"/proc/self/environ") else {
            return;
        };
        let length = sys::read(environ.raw(), &mut bytes).unwrap_or(0);
        for variable in bytes[..length].split(|byte| *byte == 0) {
            if let Some(name) = variable.strip_prefix(b"OSTLER_FAILPOINT=") {
                let at = Point::ALL.iter().position(|point| point.name().as_bytes() == name);
                ARMED.store(at.map_or(0, |at| at + 1), Ordering::Relaxed);
            }
            if let Some(path) = variable.strip_prefix(b"OSTLER_FAILPOINT_FILE=") {
                for (to, from) in PATH[..LONGEST_PATH - 1].iter().zip(path) {
                    to.store(*from, Ordering::Relaxed);
                }
            }
        }
    }

    pub(crate) fn reach(point: Point) {
        if ARMED.load(Ordering::Relaxed) == point as usize + 1
            && let Some(file) = open()
            && sys::size(file.raw()) == Ok(0)
            && sys::write(file.raw(), point.name().as_bytes()).is_ok()
        {
            let _ = process::signal(process::own_pid(), crate::life::SIGKILL);
        }
    }

    fn open() -> Option<Fd> {
        let mut path = [0; LONGEST_PATH];
        for (to, from) in path.iter_mut().zip(&PATH) {
            *to = from.load(Ordering::Relaxed);
        }
        let root = sys::open(c"/").ok()?;
        // The path is absolute, so the directory does not matter.
        sys::open_in_to_write(&root, CStr::from_bytes_until_nul(&path).ok()?).ok()
    }
}
