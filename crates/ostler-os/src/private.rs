//! Directories of this user's alone.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;

/// Whether this is a directory that belongs to this user (by its effective id), and whose mode has
/// none of `forbidden`: 0o022 where no other user may have written to it, 0o077 where none may
/// enter it either. A link is none, if the metadata are its own (symlink_metadata).
pub fn is_own_directory(meta: &Metadata, forbidden: u32) -> bool {
    meta.is_dir() && meta.uid() == geteuid().as_raw() && meta.mode() & forbidden == 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_directory_of_another_user_or_open_to_others_is_not_ours() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("ours");
        fs::create_dir(&directory).unwrap();
        let is_ours = |forbidden| is_own_directory(&fs::symlink_metadata(&directory).unwrap(), forbidden);
        for (mode, closed, unwritable) in [(0o700, true, true), (0o755, false, true), (0o770, false, false)] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!((is_ours(0o077), is_ours(0o022)), (closed, unwritable), "{mode:o}");
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        let link = home.path().join("link");
        symlink(&directory, &link).unwrap();
        assert!(!is_own_directory(&fs::symlink_metadata(link).unwrap(), 0));
        if geteuid().is_root() {
            chown(&directory, Some(65_534), None).unwrap();
            assert!(!is_ours(0));
        }
    }
}
