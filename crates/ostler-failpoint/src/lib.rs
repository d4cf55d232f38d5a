//! Failpoints: steps at which a test makes the host, its guardian, a sitter or a worker-to-be kill
//! itself (ADR 0014).
//!
//! Without the feature `failpoints`, which only tests enable, [`reach`] does nothing. With it, two
//! variables in the host's environment select what happens: `OSTLER_FAILPOINT` names a point and
//! `OSTLER_FAILPOINT_FILE` names an existing, empty file. The first process to reach the point
//! writes to the file and kills itself with SIGKILL. A file that is not empty disarms the point.
//!
//! This crate depends on no other crate of Ostler, so every layer can use it. The guardian's
//! program, which is `no_std`, compiles [`SOURCE`] and has its own implementation of `reach`.

mod points;

use std::ffi::OsString;

pub use points::Point;

/// The environment variable that names a point.
pub const POINT: &str = "OSTLER_FAILPOINT";

/// The environment variable that names the file.
pub const FILE: &str = "OSTLER_FAILPOINT_FILE";

/// The source of [`Point`], which uses nothing but `core`: the guardian's program is built from it.
pub const SOURCE: &str = include_str!("points.rs");

/// Kills this process if `_point` is armed. Does nothing in a build without the feature
/// `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: Point) {}

/// Kills this process if `point` is armed.
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) {
    armed::reach(point);
}

/// The variables that a guardian needs in its environment to have the same point armed as its host.
/// None in a build without the feature `failpoints`.
pub fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    let names: &[&'static str] = if cfg!(feature = "failpoints") {
        &[POINT, FILE]
    } else {
        &[]
    };
    names.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex};

    use super::{FILE, POINT, Point};

    static ARMED: LazyLock<Option<(Point, PathBuf)>> = LazyLock::new(|| {
        let name = std::env::var(POINT).ok()?;
        let point = Point::ALL.iter().find(|point| point.name() == name);
        Some((*point?, std::env::var_os(FILE)?.into()))
    });

    pub(super) fn reach(point: Point) {
        let Some((_, file)) = ARMED.as_ref().filter(|(armed, _)| *armed == point) else {
            return;
        };
        // Two threads may be here at once.
        static FIRST: Mutex<()> = Mutex::new(());
        let _first = FIRST.lock();
        let file = OpenOptions::new().append(true).open(file);
        let empty = file.and_then(|file| Ok((file.metadata()?.len() == 0).then_some(file)));
        if let Ok(Some(mut file)) = empty
            && writeln!(file, "{}", point.name()).is_ok()
        {
            _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // This thread may run for a moment more, while the kernel ends another one first.
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
