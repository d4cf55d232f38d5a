//! What lets a worker report and serve by path, and can disappear while it runs: logind removes the
//! runtime directory at the last logout.
//!
//! A worker can't do without these paths, and learns them when it starts. So it is replaced when
//! one is missed (no heartbeat comes, say), and that is not counted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::signal::Signal;

/// A path that one incarnation depends on.
#[derive(Debug)]
pub(super) struct Place {
    purpose: Purpose,
    path: PathBuf,
    /// What was made there; `None` if it was gone at once.
    made: Option<Identity>,
    is_lost: bool,
}

/// What the worker does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// It sends messages to the socket.
    Notify,
    /// It makes its ready file in the directory.
    ReadyFile,
    /// It binds its Unix sockets in the directory.
    Sockets,
}

impl Place {
    /// A notify socket, which is bound.
    pub(super) fn notify(socket: &Path) -> Self {
        Self::new(Purpose::Notify, socket)
    }

    /// Where the worker makes this ready file.
    pub(super) fn ready_file(file: &Path) -> Self {
        Self::new(Purpose::ReadyFile, directory(file))
    }

    /// Where the worker binds this Unix socket. The socket itself is the worker's to remove.
    pub(super) fn socket(path: &Path) -> Self {
        Self::new(Purpose::Sockets, directory(path))
    }

    fn new(purpose: Purpose, path: &Path) -> Self {
        Self {
            purpose,
            path: path.to_owned(),
            made: identity(path),
            is_lost: false,
        }
    }

    /// Notes whether the path still leads to what was made. What can't be looked at can't be
    /// reached by the worker either.
    pub(super) fn look(&mut self) {
        self.is_lost |= self.made.is_none() || identity(&self.path) != self.made;
    }

    /// Returns the failure; one that comes of the loss of this place is not counted.
    pub(super) fn excuse(&self, mut failure: Failure) -> Failure {
        if !self.is_lost || !self.can_explain(&failure) {
            return failure;
        }
        let path = self.path.display();
        let what = match self.purpose {
            Purpose::Notify => "its notify socket",
            Purpose::ReadyFile => "the directory of its ready file",
            Purpose::Sockets => "the directory of its Unix sockets",
        };
        failure.reason = Reason::StoreFailed;
        failure.message = format!("{}; {what} {path} was removed while it ran", failure.message);
        failure.suggestion = format!(
            "no action needed, the worker is restarted with another path; to keep it, find out what removed {path}, or set `state_dir` to a directory that stays"
        );
        failure
    }

    /// Whether this is what happens to a worker without the place.
    fn can_explain(&self, failure: &Failure) -> bool {
        match failure.reason {
            Reason::HeartbeatLost => self.purpose == Purpose::Notify,
            Reason::HealthCheckFailed => self.purpose == Purpose::Sockets,
            Reason::ReadyTimeout => true,
            Reason::ExitedBeforeReady | Reason::ExitedEarly | Reason::Exited | Reason::Killed => {
                failure.status.is_some_and(is_by_itself)
            }
            _ => false,
        }
    }
}

/// Whether a process ends so when it meets an error. No other signal comes of a missing path.
fn is_by_itself(status: ExitStatus) -> bool {
    matches!(status, ExitStatus::Code(_) | ExitStatus::Signal(Signal::ABRT))
}

fn directory(of: &Path) -> &Path {
    of.parent().unwrap_or(of)
}

/// Device, inode, and birth where the file system knows it: a directory that is made again can get
/// the inode of the one before.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(path: &Path) -> Option<Identity> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.created().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(place: &mut Place, reason: Reason, status: Option<ExitStatus>) -> Reason {
        place.look();
        let mut failure = Failure::new(reason, "it failed");
        failure.status = status;
        let excused = place.excuse(failure);
        assert!(excused.message.starts_with("it failed"), "{excused}");
        excused.reason
    }

    #[test]
    fn what_fails_for_lack_of_a_path_is_excused_once_that_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("run");
        fs::create_dir(&directory).unwrap();
        let socket = directory.join("0-1.notify");
        fs::write(&socket, "").unwrap();
        let mut notify = Place::notify(&socket);
        let mut file = Place::ready_file(&directory.join("0-1.ready"));
        let mut sockets = Place::socket(&directory.join("0.sock"));
        let exit = Some(ExitStatus::Code(1));
        assert_eq!(after(&mut notify, Reason::HeartbeatLost, None), Reason::HeartbeatLost);
        assert_eq!(
            after(&mut file, Reason::ExitedBeforeReady, exit),
            Reason::ExitedBeforeReady
        );
        assert_eq!(
            after(&mut sockets, Reason::HealthCheckFailed, None),
            Reason::HealthCheckFailed
        );

        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(after(&mut notify, Reason::HeartbeatLost, None), Reason::StoreFailed);
        assert_eq!(after(&mut file, Reason::ExitedBeforeReady, exit), Reason::StoreFailed);
        assert_eq!(
            after(&mut sockets, Reason::HealthCheckFailed, None),
            Reason::StoreFailed
        );
        // Something else stands at the path: the worker's messages do not reach us.
        fs::create_dir(&directory).unwrap();
        fs::write(&socket, "").unwrap();
        assert_eq!(after(&mut notify, Reason::ReadyTimeout, None), Reason::StoreFailed);
    }

    #[test]
    fn what_has_another_cause_is_not_excused() {
        let home = tempfile::tempdir().unwrap();
        let mut gone = Place::notify(&home.path().join("gone"));
        let (code, signal) = (ExitStatus::Code(1), ExitStatus::Signal);
        assert_eq!(after(&mut gone, Reason::Exited, Some(code)), Reason::StoreFailed);
        assert_eq!(
            after(&mut gone, Reason::Killed, Some(signal(Signal::KILL))),
            Reason::Killed
        );
        assert_eq!(
            after(&mut gone, Reason::OomKilled, Some(ExitStatus::OomKilled)),
            Reason::OomKilled
        );
        assert_eq!(after(&mut gone, Reason::PortInUse, None), Reason::PortInUse);
        assert_eq!(
            after(&mut gone, Reason::HealthCheckFailed, None),
            Reason::HealthCheckFailed,
            "it does not serve there"
        );
    }
}
