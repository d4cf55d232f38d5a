//! Getting the guardian's program to run on this machine (ADR 0003): from a memory file; where that is forbidden, from a
//! file in a cache directory; or from a path that the user names.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use uuid::Uuid;

use super::GuardianOptions;
use super::error::{Attempt, LaunchError};

/// The program, built by this crate's build script for the target of this crate.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ostler-guardian"));

/// Names the program's content (FNV-1a, 64 bits), so that versions never share a cache file. Not a protection: the
/// content is compared in full before each use.
const CONTENT: u64 = fnv1a(PROGRAM);

/// What the memory file is called, for people.
const MEMORY_NAME: &str = "ostler-guardian";

/// A program file that was just written may be busy (ETXTBSY) for as long as a process forked meanwhile by another
/// thread has not exec'd; then it is tried again, this often and this long after.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How the guardian's program got onto this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramFrom {
    /// From a memory file: nothing of it is on disk.
    Memory,
    /// From this file, in a cache directory or where the user has named one.
    File(PathBuf),
}

/// What program a guardian runs.
pub(super) fn of(pid: u32) -> io::Result<ProgramFrom> {
    let path = fs::read_link(format!("/proc/{pid}/exe"))?;
    // A memory file has no path: the kernel shows its name, and that nothing leads to it.
    let memory = path.to_str() == Some(&format!("/memfd:{MEMORY_NAME} (deleted)"));
    Ok(if memory {
        ProgramFrom::Memory
    } else {
        ProgramFrom::File(path)
    })
}

/// Starts the program with `control` as its standard input. It is done in place, on a thread of the runtime: one copy of some
/// 50 KiB in memory and a posix_spawn, a millisecond for each guardian. Only the way by a file, where memory files are
/// forbidden, waits for a disk.
pub(super) async fn start(options: &GuardianOptions, control: &OwnedFd) -> Result<Child, LaunchError> {
    let mut tried = Vec::new();
    let named = options.program.clone().or_else(|| {
        env::var_os("OSTLER_GUARDIAN")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    });
    if let Some(path) = named {
        match run_retrying(&path, options, control).await {
            Ok(child) => return Ok(child),
            Err(error) => tried.push(Attempt { from: path, error }),
        }
        return Err(LaunchError::NoProgram { tried });
    }
    if options.memfd {
        match from_memory(options, control) {
            Ok(child) => return Ok(child),
            Err(error) => tried.push(Attempt {
                from: "memfd".into(),
                error,
            }),
        }
    }
    for directory in cache_directories(options) {
        let from = directory.join(format!("guardian-{CONTENT:016x}"));
        let outcome = match cached(&directory, &from) {
            Ok(()) => run_retrying(&from, options, control).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(child) => return Ok(child),
            Err(error) => tried.push(Attempt { from, error }),
        }
    }
    Err(LaunchError::NoProgram { tried })
}

fn from_memory(options: &GuardianOptions, control: &OwnedFd) -> io::Result<Child> {
    let memory = match rustix::fs::memfd_create(MEMORY_NAME, MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and let every memory file be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(MEMORY_NAME, MemfdFlags::CLOEXEC)?,
        other => other?,
    };
    let mut file = File::from(memory);
    file.write_all(PROGRAM)?;
    run(
        Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())),
        options,
        control,
    )
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

/// No `pre_exec`, so that std uses posix_spawn, whose cost does not grow with the host's memory.
fn run(program: &Path, options: &GuardianOptions, control: &OwnedFd) -> io::Result<Child> {
    // One /dev/null for reading and writing: the guardian makes it the standard input of every worker.
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // Its environment is the markers of runs that this host itself is a worker of: the guardian belongs to them too.
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

/// `$XDG_CACHE_HOME/ostler`, `~/.cache/ostler`, then the state directory, as far as they are known.
fn cache_directories(options: &GuardianOptions) -> Vec<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    [
        absolute("XDG_CACHE_HOME").map(|path| path.join("ostler")),
        absolute("HOME").map(|path| path.join(".cache").join("ostler")),
        options.state_dir.clone(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Makes sure that `path` holds exactly our program and that nobody else can have written it.
fn cached(directory: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let meta = fs::metadata(directory)?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "the directory is another user's, or others may write in it",
        ));
    }
    if holds_program(path, me)? {
        return Ok(());
    }
    // A name that nobody else writes to at the same time: in this process, or in another PID namespace with our pid.
    let temporary = directory.join(format!("guardian-{CONTENT:016x}.{}", Uuid::now_v7().simple()));
    let written = write_program(&temporary).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    match holds_program(path, me)? {
        true => Ok(()),
        false => Err(io::Error::other("what was written is not what is read back")),
    }
}

/// False when the file is missing or is something else; it is then replaced.
fn holds_program(path: &Path, me: u32) -> io::Result<bool> {
    let mut file = match OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != me || meta.mode() & 0o7777 != 0o700 || meta.len() != PROGRAM.len() as u64 {
        return Ok(false);
    }
    let mut content = Vec::with_capacity(PROGRAM.len());
    Read::by_ref(&mut file)
        .take(PROGRAM.len() as u64 + 1)
        .read_to_end(&mut content)?;
    Ok(content == PROGRAM)
}

fn write_program(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(path)?;
    // The umask may have taken bits away.
    file.set_permissions(PermissionsExt::from_mode(0o700))?;
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
    use super::*;

    #[test]
    fn a_cache_file_is_written_once_and_replaced_when_it_is_not_ours() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = home.path().join("cache").join("ostler");
        let path = directory.join("guardian");
        cached(&directory, &path).expect("written");
        let first = fs::metadata(&path).expect("there").ino();
        assert_eq!(fs::metadata(&directory).expect("there").mode() & 0o777, 0o700);
        cached(&directory, &path).expect("still good");
        assert_eq!(
            fs::metadata(&path).expect("there").ino(),
            first,
            "a good file is used as it is"
        );

        let mut forged = PROGRAM.to_vec();
        forged[PROGRAM.len() / 2] ^= 1;
        fs::write(&path, forged).expect("forged");
        cached(&directory, &path).expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), PROGRAM);
    }

    #[test]
    fn many_that_write_the_cache_file_at_once_all_find_it_whole() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("guardian");
        let (directory, path) = (home.path(), &path);
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).expect("closed");
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            let one = || {
                start.wait();
                cached(directory, path)
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            for one in all {
                one.join().expect("no panic").expect("written");
            }
        });
        assert_eq!(fs::read(path).expect("there"), PROGRAM);
        assert_eq!(
            fs::read_dir(directory).expect("there").count(),
            1,
            "a half-written file is left"
        );
    }

    #[test]
    fn a_cache_directory_that_others_may_write_in_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = home.path().join("open");
        DirBuilder::new().create(&directory).expect("made");
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(&directory, open).expect("opened");
        assert!(cached(&directory, &directory.join("guardian")).is_err());
    }
}
