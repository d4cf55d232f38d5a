//! Failpoints: steps at which a test has this process, its guardian, a sitter or a worker-to-be kill itself (ADR 0014).
//!
//! Without the feature `failpoints`, which nothing but tests turns on, [`reach`] is an empty function. With it, two
//! variables of the host's environment say what happens: `OSTLER_FAILPOINT` names a point, and
//! `OSTLER_FAILPOINT_FILE` a file that has to be there and empty. Whoever comes to the point first writes to the file,
//! and is gone by SIGKILL; once there is something in the file, nothing happens any more.

#[path = "points.rs"]
mod points;

pub use points::Point;

/// The variable that names a point.
pub const POINT: &str = "OSTLER_FAILPOINT";
/// The variable that names the file.
pub const FILE: &str = "OSTLER_FAILPOINT_FILE";

/// This process has come to this point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_: Point) {}

/// This process has come to this point, and may end here.
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) {
    armed::reach(point);
}

/// What the guardian's program has to know of it.
#[cfg(feature = "failpoints")]
pub(crate) fn environment() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    [POINT, FILE]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn environment() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    std::iter::empty()
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use super::{FILE, POINT, Point};

    /// The point that was chosen, and the file.
    static CHOSEN: LazyLock<Option<(Point, PathBuf)>> = LazyLock::new(|| {
        let name = std::env::var(POINT).ok()?;
        let point = Point::ALL.iter().find(|point| point.name() == name);
        Some((*point?, std::env::var_os(FILE)?.into()))
    });

    pub(super) fn reach(point: Point) {
        let Some((_, file)) = CHOSEN.as_ref().filter(|(chosen, _)| *chosen == point) else {
            return;
        };
        let file = std::fs::OpenOptions::new().append(true).open(file);
        let empty = file.and_then(|file| Ok((file.metadata()?.len() == 0).then_some(file)));
        if let Ok(Some(mut file)) = empty
            && writeln!(file, "{}", point.name()).is_ok()
        {
            _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // It comes before the call returns to us; should another thread have to die first, nothing more is done here.
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
    fn names_differ() {
        let names: HashSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
