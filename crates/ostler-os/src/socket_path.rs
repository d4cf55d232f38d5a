//! Paths of Unix sockets: in a directory that only this user can enter, and short enough for a
//! socket address wherever the run's own directory is.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{self, Path, PathBuf};

use rustix::process::geteuid;

use crate::private::is_own_directory;

/// The longest path that fits into a socket address with its terminating zero (unix(7)).
pub const LONGEST: usize = 107;

/// Where the sockets of a directory with a long path are.
const SHORT_PLACE: &str = "/tmp";

/// The path for a socket named `name` in `dir`. If it would be longer than [`LONGEST`] bytes, or
/// is not UTF-8 and can't be part of every command, the socket belongs into a directory of `dir`'s
/// own in `/tmp` instead, which only this user can enter. That directory is made here and stays
/// until [`remove_leftovers`]: a worker binds its socket later.
///
/// # Errors
/// If that directory can't be made, is not private, or `name` is too long for any directory.
pub fn place(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let path = path::absolute(dir)?.join(name);
    if path.as_os_str().len() <= LONGEST && path.to_str().is_some() {
        return Ok(path);
    }
    let short = short_directory(dir)?;
    let path = short.join(name);
    if path.as_os_str().len() > LONGEST {
        let message = format!("{} is longer than {LONGEST} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    make_private(&short)?;
    Ok(path)
}

/// Removes what the sockets of a run that has ended left outside its directory `dir`.
///
/// # Errors
/// If it can't be removed; a directory that does not exist, or belongs to another user, is left
/// alone.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    let short = short_directory(dir)?;
    match check_private(&short) {
        Ok(()) => fs::remove_dir_all(&short),
        Err(_) => Ok(()),
    }
}

/// The directory of the sockets of `dir` in [`SHORT_PLACE`]: the same for every socket of a run, so
/// that a sweep finds it.
fn short_directory(dir: &Path) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    path::absolute(dir)?.hash(&mut hasher);
    let name = format!(".ostler-{}-{:016x}", geteuid().as_raw(), hasher.finish());
    Ok(Path::new(SHORT_PLACE).join(name))
}

fn make_private(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_private(directory),
        other => other,
    }
}

/// Whether a directory is ours alone, and not a link. It lies in a sticky directory, so no other
/// user can exchange it.
fn check_private(directory: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(directory)?;
    if is_own_directory(&meta, 0o077) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} belongs to another user or is open to others", directory.display()),
    ))
}
