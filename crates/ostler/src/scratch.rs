//! The directory for sockets and ready files of a run.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ostler_core::ids::RunId;
use ostler_os::machine::trusted_variable;
use ostler_os::private::is_own_directory;
use ostler_os::socket_path;
use ostler_registry::Scratch;

/// The directory for sockets and ready files: the run's own, or, if that is gone (logind removes
/// the runtime directory at the last logout), a spare one beside it. Where neither is possible, or
/// others can enter it, one below the directory for temporary files. Only this user can enter it.
///
/// # Errors
/// If none can be created.
pub(crate) fn make(run: RunId, own: &Scratch) -> io::Result<PathBuf> {
    if let Ok(directory) = own.directory()
        && check_private(&directory).is_ok()
    {
        return Ok(directory);
    }
    let spare = spare(run);
    make_private(&spare)?;
    Ok(spare)
}

/// Removes what the sockets and ready files of a run that has ended left outside its own directory.
///
/// # Errors
/// If something can't be removed.
pub(crate) fn remove(run: RunId, own: &Path) -> io::Result<()> {
    let spare = spare(run);
    for directory in [own, &Scratch::spare_of(own), &spare] {
        socket_path::remove_leftovers(directory)?;
    }
    match check_private(&spare) {
        Ok(()) => fs::remove_dir_all(&spare),
        // Usually it does not exist, or it is not ours.
        Err(_) => Ok(()),
    }
}

/// The replacement for the run's own directory.
fn spare(run: RunId) -> PathBuf {
    temporary(trusted_variable("TMPDIR")).join(format!("ostler-{run}"))
}

/// The directory for temporary files, for this value of `TMPDIR`.
fn temporary(tmpdir: Option<OsString>) -> PathBuf {
    let named = tmpdir.map(PathBuf::from).filter(|path| path.is_absolute());
    named.unwrap_or_else(|| PathBuf::from("/tmp"))
}

/// A directory that only this user can enter.
fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => check_private(path),
    }
}

fn check_private(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if is_own_directory(&found, 0o077) {
        return Ok(());
    }
    let message = format!("{} is not a directory that only this user can enter", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn temporary_files_are_where_the_environment_says_or_in_tmp() {
        assert_eq!(temporary(Some("/var/tmp".into())), Path::new("/var/tmp"));
        for unusable in [None, Some("".into()), Some("relative".into())] {
            assert_eq!(temporary(unusable), Path::new("/tmp"));
        }
    }

    #[test]
    fn a_directory_that_others_can_enter_is_replaced_and_both_are_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let (run, own) = (RunId::from_u128(u128::from(std::process::id())), directory.path());
        let set_mode = |mode| fs::set_permissions(own, fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o700);
        let scratch = Scratch::of(own);
        assert_eq!(make(run, &scratch).unwrap(), own);
        set_mode(0o750);
        let spare = make(run, &scratch).unwrap();
        assert_ne!(spare, own);
        assert_eq!(fs::metadata(&spare).unwrap().mode() & 0o777, 0o700);
        fs::write(spare.join("0.sock"), "").unwrap();
        remove(run, own).unwrap();
        assert!(!spare.exists() && own.exists());
    }
}
