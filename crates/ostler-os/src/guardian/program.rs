//! Runs the guardian's program (ADR 0003): from a memory file; where that is forbidden, from a file
//! in a cache directory; or from a path that the user names.
//!
//! A file is run only if no other user could have written it. The cached one is opened, checked and
//! run through the same descriptor, so that it can't be exchanged in between.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::GuardianOptions;
use super::error::{Attempt, LaunchError};
use crate::machine::trusted_variable;

/// The program, built by this crate's build script for the target of this crate.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ostler-guardian"));

/// A hash of the program's content (FNV-1a, 64 bits), so that versions never share a cache file.
/// Not a protection: the whole content is compared before each use.
const CONTENT: u64 = fnv1a(PROGRAM);

/// The memory file's name, for people.
const MEMORY_NAME: &str = "ostler-guardian";

/// A program file that was just written is busy (ETXTBSY) until a process that another thread
/// forked meanwhile has called exec. Running it is retried this often, after this pause.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Where the guardian's program was run from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramFrom {
    /// From a memory file. Nothing is on disk.
    Memory,
    /// From this file: in a cache directory, or named by the user.
    File(PathBuf),
}

/// Starts the program with `control` as its standard input. This happens in place, on a thread of
/// the runtime: it copies about 50 KiB and calls posix_spawn, a millisecond for each guardian. Only
/// with a cached file does it wait for a disk.
pub(super) async fn start(options: &GuardianOptions, control: &OwnedFd) -> Result<(Child, ProgramFrom), LaunchError> {
    let mut tried = Vec::new();
    if let Some(path) = options.program.clone().or_else(named_by_environment) {
        let outcome = match only_ours_to_write(&path) {
            Ok(()) => run_retrying(&path, options, control).await,
            Err(error) => Err(error),
        };
        return match outcome {
            Ok(child) => Ok((child, ProgramFrom::File(path))),
            Err(error) => {
                tried.push(Attempt { from: path, error });
                Err(LaunchError::NoProgram { tried })
            }
        };
    }
    if options.memfd {
        match from_memory(options, control) {
            Ok(child) => return Ok((child, ProgramFrom::Memory)),
            Err(error) => tried.push(Attempt {
                from: "memfd".into(),
                error,
            }),
        }
    }
    for directory in cache_directories(options) {
        let name = format!("guardian-{CONTENT:016x}");
        let from = directory.join(&name);
        let outcome = match cached(&directory, &name) {
            Ok(file) => run_retrying(&by_descriptor(&file), options, control).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(child) => return Ok((child, ProgramFrom::File(from))),
            Err(error) => tried.push(Attempt { from, error }),
        }
    }
    Err(LaunchError::NoProgram { tried })
}

fn named_by_environment() -> Option<PathBuf> {
    trusted_variable("OSTLER_GUARDIAN")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Checks that only this user or root could have written a program that the user names.
fn only_ours_to_write(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    let me = rustix::process::geteuid().as_raw();
    if [0, me].contains(&meta.uid()) && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "not run: another user owns it or may write to it",
    ))
}

/// A path by which a file that this process has open can be executed.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn from_memory(options: &GuardianOptions, control: &OwnedFd) -> io::Result<Child> {
    let memory = match rustix::fs::memfd_create(MEMORY_NAME, MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        // Kernels before 6.3 lack the flag, and let every memory file be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(MEMORY_NAME, MemfdFlags::CLOEXEC)?,
        other => other?,
    };
    let mut file = File::from(memory);
    file.write_all(PROGRAM)?;
    run(&by_descriptor(&file), options, control)
}

async fn run_retrying(program: &Path, options: &GuardianOptions, control: &OwnedFd) -> io::Result<Child> {
    for _ in 1..BUSY_TRIES {
        match run(program, options, control) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => tokio::time::sleep(BUSY_PAUSE).await,
            other => return other,
        }
    }
    run(program, options, control)
}

/// Without `pre_exec`, std uses posix_spawn, whose cost does not grow with the host's memory.
fn run(program: &Path, options: &GuardianOptions, control: &OwnedFd) -> io::Result<Child> {
    // One /dev/null for reading and writing: it becomes the standard input of every worker.
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // Its environment has the markers of the runs that this host is a worker of: the guardian
    // belongs to them, too.
    let markers = env::vars_os().filter(|(name, _)| is_marker(name));
    Command::new(program)
        .arg0("ostler-guardian")
        .args((!options.label.is_empty()).then_some(&options.label))
        .env_clear()
        .envs(markers)
        .envs(ostler_failpoint::environment())
        .stdin(Stdio::from(control.try_clone()?))
        .stdout(Stdio::from(null.try_clone()?))
        .stderr(Stdio::from(null))
        .spawn()
}

fn is_marker(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("OSTLER_RUN_"))
}

/// `$XDG_CACHE_HOME/ostler`, `~/.cache/ostler`, then the state directory: those that are set.
fn cache_directories(options: &GuardianOptions) -> Vec<PathBuf> {
    let absolute = |name: &str| {
        trusted_variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    [
        absolute("XDG_CACHE_HOME").map(|path| path.join("ostler")),
        absolute("HOME").map(|path| path.join(".cache").join("ostler")),
        options.state_dir.clone(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The program's file in a cache directory, opened. Creates and replaces it as necessary. The
/// directory is opened once and then used by its descriptor.
fn cached(directory: &Path, name: &str) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&directory)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "another user owns the directory or may write to it",
        ));
    }
    if let Some(file) = open_program(&directory, name)? {
        return Ok(file);
    }
    // A name that nothing else writes to: neither this process, nor one in another PID namespace
    // with our pid.
    let temporary = format!("{name}.{}", Uuid::now_v7().simple());
    let written = write_program(&directory, &temporary)
        .and_then(|()| Ok(rustix::fs::renameat(&directory, &temporary, &directory, name)?));
    if written.is_err() {
        // The first error is the one to report.
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
    written?;
    open_program(&directory, name)?.ok_or_else(|| io::Error::other("the file does not contain what was written to it"))
}

/// The file, if it is a regular file of ours that contains exactly the program. Otherwise `None`:
/// it is replaced.
fn open_program(directory: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_file() || meta.uid() != me || meta.mode() & 0o7777 != 0o700 || meta.len() != PROGRAM.len() as u64 {
        return Ok(None);
    }
    let mut content = Vec::with_capacity(PROGRAM.len());
    Read::by_ref(&mut file)
        .take(PROGRAM.len() as u64 + 1)
        .read_to_end(&mut content)?;
    Ok((content == PROGRAM).then_some(file))
}

fn write_program(directory: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RWXU;
    let mut file = File::from(rustix::fs::openat(directory, name, flags, mode)?);
    // The umask may have removed bits.
    rustix::fs::fchmod(&file, mode)?;
    file.write_all(PROGRAM)
}

const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAME: &str = "guardian";

    fn private(home: &Path, name: &str) -> PathBuf {
        let directory = home.join(name);
        DirBuilder::new().mode(0o700).create(&directory).expect("created");
        directory
    }

    #[test]
    fn a_cached_file_is_kept_and_a_forged_one_replaced() {
        let home = tempfile::tempdir().expect("temporary directory");
        let directory = home.path().join("cache").join("ostler");
        let path = directory.join(NAME);
        cached(&directory, NAME).expect("written");
        let first = fs::metadata(&path).expect("exists").ino();
        assert_eq!(fs::metadata(&directory).expect("exists").mode() & 0o777, 0o700);
        cached(&directory, NAME).expect("still valid");
        assert_eq!(
            fs::metadata(&path).expect("exists").ino(),
            first,
            "a valid file is kept"
        );

        let mut forged = PROGRAM.to_vec();
        forged[PROGRAM.len() / 2] ^= 1;
        fs::write(&path, forged).expect("forged");
        cached(&directory, NAME).expect("replaced");
        assert_eq!(fs::read(&path).expect("exists"), PROGRAM);
    }

    #[test]
    fn concurrent_writers_of_the_cached_file_all_find_it_whole() {
        let home = tempfile::tempdir().expect("temporary directory");
        let directory = &private(home.path(), "cache");
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            let one = || {
                start.wait();
                cached(directory, NAME)
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            for one in all {
                one.join().expect("no panic").expect("written");
            }
        });
        assert_eq!(fs::read(directory.join(NAME)).expect("exists"), PROGRAM);
        assert_eq!(
            fs::read_dir(directory).expect("exists").count(),
            1,
            "a partial file is left"
        );
    }

    #[test]
    fn a_cache_directory_that_others_may_write_to_is_refused() {
        let home = tempfile::tempdir().expect("temporary directory");
        for mode in [0o777, 0o720, 0o702] {
            let directory = private(home.path(), &format!("open-{mode:o}"));
            fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).expect("opened");
            assert!(cached(&directory, NAME).is_err(), "{mode:o}");
        }
    }
    #[test]
    fn links_are_not_followed_to_the_cache() {
        let home = tempfile::tempdir().expect("temporary directory");
        let real = private(home.path(), "real");
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        assert!(cached(&link, NAME).is_err(), "the directory is a link");

        let elsewhere = home.path().join("elsewhere");
        fs::write(&elsewhere, "kept").expect("written");
        std::os::unix::fs::symlink(&elsewhere, real.join(NAME)).expect("linked");
        cached(&real, NAME).expect("replaced");
        assert!(!fs::symlink_metadata(real.join(NAME)).expect("exists").is_symlink());
        assert_eq!(fs::read_to_string(&elsewhere).expect("exists"), "kept");
    }
    #[test]
    fn a_named_program_that_others_may_write_to_is_not_run() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("program");
        fs::write(&path, "").expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("set");
        only_ours_to_write(&path).expect("ours");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o757)).expect("set");
        assert!(only_ours_to_write(&path).is_err());
    }
}
