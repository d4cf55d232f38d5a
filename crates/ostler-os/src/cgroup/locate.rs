//! Finds the host's own cgroup, and checks whether the host may divide it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use rustix::fs::getxattr;

use super::Unusable;

/// The directory of this process's v2 cgroup.
pub(crate) fn own_directory() -> Result<PathBuf, Unusable> {
    let us = Process::myself().map_err(io::Error::other)?;
    let mounts = us.mountinfo().map_err(io::Error::other)?;
    let cgroups = us.cgroups().map_err(io::Error::other)?;
    // The line `0::PATH` belongs to the v2 hierarchy, on hybrid systems too.
    let own = cgroups
        .into_iter()
        .find(|cgroup| cgroup.hierarchy == 0 && cgroup.controllers.is_empty());
    let own = own.map(|cgroup| cgroup.pathname).unwrap_or_default();
    directory_of(&own, &mounts.0)
}

/// The directory of this process's memory cgroup of v1, on hybrid systems; `None` if v1 has no
/// memory controller, or shows it only outside this namespace.
pub(crate) fn own_memory_directory_v1() -> Option<PathBuf> {
    let us = Process::myself().ok()?;
    let mounts = us.mountinfo().ok()?.0;
    let own = us
        .cgroups()
        .ok()?
        .into_iter()
        .find(|cgroup| cgroup.controllers.iter().any(|controller| controller == "memory"))?;
    memory_directory_v1_of(&own.pathname, &mounts)
}

fn memory_directory_v1_of(own: &str, mounts: &[MountInfo]) -> Option<PathBuf> {
    let controls_memory = |mount: &&MountInfo| mount.fs_type == "cgroup" && mount.super_options.contains_key("memory");
    mounts
        .iter()
        .filter(controls_memory)
        .find_map(|mount| directory_in(own, mount))
}

/// The directory of the v2 cgroup `own` (as named in `/proc/self/cgroup`) in the mounts of this
/// namespace.
fn directory_of(own: &str, mounts: &[MountInfo]) -> Result<PathBuf, Unusable> {
    let mut mounts = mounts.iter().filter(|mount| mount.fs_type == "cgroup2").peekable();
    if mounts.peek().is_none() {
        return Err(Unusable::NotMounted);
    }
    mounts
        .find_map(|mount| directory_in(own, mount))
        .ok_or_else(|| Unusable::NotVisible { path: own.to_owned() })
}

/// The directory of a cgroup in a mount, which may show only a part of the hierarchy. Paths above
/// the namespace's root start with `/..`.
fn directory_in(own: &str, mount: &MountInfo) -> Option<PathBuf> {
    let below = Path::new(own).strip_prefix(&mount.root).ok()?;
    let outside = own.is_empty() || own.starts_with("/..");
    (!outside).then(|| mount.mount_point.components().chain(below.components()).collect())
}

/// Whether no other manager controls the directory: it was delegated (systemd sets an extended
/// attribute), systemd is not running, or it belongs to an unprivileged user, who could not own it
/// otherwise.
pub(super) fn is_ours_to_divide(path: &Path) -> io::Result<bool> {
    if !fs::exists("/run/systemd/system")? {
        return Ok(true);
    }
    let delegated = ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        getxattr(path, *name, &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
    });
    let user = rustix::process::geteuid();
    let is_our_users = !user.is_root() && fs::metadata(path)?.uid() == user.as_raw();
    Ok(delegated || is_our_users)
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::FromBufRead;
    use procfs::process::MountInfos;

    fn mounts(text: &str) -> Vec<MountInfo> {
        MountInfos::from_buf_read(text.as_bytes()).expect("mountinfo lines").0
    }

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
38 31 0:35 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const PART: &str = "30 23 0:27 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";

    #[test]
    fn hybrid_and_unified_mounts_are_found() {
        let own = "/system.slice/app.service";
        let hybrid = directory_of(own, &mounts(HYBRID)).expect("found");
        assert_eq!(hybrid, Path::new("/sys/fs/cgroup/unified/system.slice/app.service"));
        let unified = directory_of("/", &mounts(UNIFIED)).expect("found");
        assert_eq!(unified, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn partial_mount_only_shows_what_is_below_it() {
        let inside = directory_of("/docker/abc/app", &mounts(PART)).expect("found");
        assert_eq!(inside, Path::new("/sys/fs/cgroup/app"));
        for outside in ["/docker/abcd", "/user.slice", "/../other", ""] {
            assert!(
                matches!(directory_of(outside, &mounts(PART)), Err(Unusable::NotVisible { .. })),
                "{outside}"
            );
        }
        assert!(matches!(
            directory_of("/../other", &mounts(UNIFIED)),
            Err(Unusable::NotVisible { .. })
        ));
    }

    #[test]
    fn memory_controller_of_v1_is_found() {
        let memory = "35 23 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let mounts = mounts(&format!("{HYBRID}{memory}"));
        assert_eq!(
            memory_directory_v1_of("/app", &mounts).as_deref(),
            Some(Path::new("/sys/fs/cgroup/memory/app"))
        );
        assert_eq!(memory_directory_v1_of("/../other", &mounts), None);
        assert_eq!(memory_directory_v1_of("/app", &self::mounts(HYBRID)), None);
    }

    #[test]
    fn machine_without_v2_is_reported() {
        let v1 = "38 31 0:35 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n";
        assert!(matches!(directory_of("/", &mounts(v1)), Err(Unusable::NotMounted)));
    }
}
