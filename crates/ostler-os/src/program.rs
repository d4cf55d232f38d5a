//! Finds the file for a command before the spawn, so that a failure says what is wrong. The search
//! is that of execvp(3), with the PATH of the worker's environment and relative to the worker's
//! directory.

mod needed;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use nix::libc::{EACCES, ENOENT, ENOTDIR};
use ostler_core::failure::Reason;
use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::start_error::{Action, errno_of, verdict};
use needed::{Needed, needed_by};

/// Where execvp(3) searches without a PATH (glibc's `confstr(_CS_PATH)`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How deep the kernel follows scripts that are run by scripts (execve(2)).
const NESTED_LIMIT: usize = 5;

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The command is the empty string.
    #[error("the command is empty")]
    Empty,
    /// No directory in the PATH contains the program.
    #[error("there is no program {command:?} in the PATH of the worker's environment: {}", searched.display())]
    NotFound {
        /// The command.
        command: String,
        /// The PATH that was searched.
        searched: OsString,
    },
    /// The command is a path that does not exist.
    #[error("there is no program {}", path.display())]
    Missing {
        /// The absolute path.
        path: PathBuf,
    },
    /// The command is a script whose interpreter, from its first line, is missing.
    #[error("the first line of {} names the interpreter {interpreter:?}, which is missing", script.display())]
    InterpreterMissing {
        /// The script.
        script: PathBuf,
        /// The interpreter in the first line. A trailing carriage return is visible here.
        interpreter: PathBuf,
    },
    /// The command is an ELF program whose dynamic loader is missing.
    #[error("{} needs the loader {}, which is missing", program.display(), loader.display())]
    LoaderMissing {
        /// The program.
        program: PathBuf,
        /// The loader that it names.
        loader: PathBuf,
    },
    /// The interpreter or loader of the command exists, but can't be run.
    #[error("{} is run by {needed:?}: {}", program.display(), verdict(Action::Execute, *errno).meaning)]
    NeededRefused {
        /// The script or program.
        program: PathBuf,
        /// Its interpreter or loader.
        needed: PathBuf,
        /// The system's error.
        errno: i32,
    },
    /// The system refused a look at the program or at the working directory, for none of the other
    /// reasons.
    #[error("{}{}: {}", if *action == Action::Execute { "" } else { "the working directory " }, path.display(), verdict(*action, *errno).meaning)]
    Refused {
        /// Which of the two.
        action: Action,
        /// The program, or the first part of the directory's path for which it was refused.
        path: PathBuf,
        /// The system's error.
        errno: i32,
    },
    /// The file exists, but this user may not execute it, because of its mode or a file system
    /// mounted `noexec`.
    #[error("{} may not be executed by this user", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// The command names a directory or another file that is not regular.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The command is a path through a directory that this user may not enter.
    #[error("{} is not accessible to this user", path.display())]
    Unreachable {
        /// The absolute path.
        path: PathBuf,
    },
    /// The working directory does not exist.
    #[error("the working directory {} does not exist: there is no {}", cwd.display(), missing.display())]
    DirectoryMissing {
        /// The working directory.
        cwd: PathBuf,
        /// Its first missing component.
        missing: PathBuf,
    },
    /// The working directory, or a component of its path, is not a directory.
    #[error("invalid working directory {}: {} is not a directory", cwd.display(), found.display())]
    NotADirectory {
        /// The working directory.
        cwd: PathBuf,
        /// The component that is not a directory.
        found: PathBuf,
    },
    /// This user may not enter the working directory or one of its ancestors.
    #[error("this user may not enter the working directory {}: {} is closed to it", cwd.display(), closed.display())]
    DirectoryClosed {
        /// The working directory.
        cwd: PathBuf,
        /// The component that may not be entered.
        closed: PathBuf,
    },
}

impl ProgramError {
    /// The failure reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Empty | Self::NotFound { .. } | Self::Missing { .. } => Reason::CommandNotFound,
            Self::InterpreterMissing { .. } | Self::LoaderMissing { .. } => Reason::CommandNotFound,
            Self::DirectoryMissing { .. } | Self::NotADirectory { .. } => Reason::DirectoryMissing,
            Self::NotExecutable { .. } | Self::NotAFile { .. } => Reason::PermissionDenied,
            Self::Unreachable { .. } | Self::DirectoryClosed { .. } => Reason::PermissionDenied,
            Self::NeededRefused { errno, .. } => verdict(Action::Execute, *errno).reason,
            Self::Refused { action, errno, .. } => verdict(*action, *errno).reason,
        }
    }

    /// What to do about it.
    pub fn suggestion(&self) -> &'static str {
        match self {
            Self::LoaderMissing { .. } => "build the program for this system, or install its loader and C library",
            Self::NeededRefused { errno, .. } => verdict(Action::Execute, *errno).suggestion,
            Self::Refused { action, errno, .. } => verdict(*action, *errno).suggestion,
            other => other.reason().suggestion(),
        }
    }
}

/// Finds the file that `command` means for a worker with this environment and working directory
/// (`None`: the host's own). The path is absolute, but symbolic links are not resolved, because
/// programs may look at the name they are called by.
///
/// A command with a slash is a path relative to the working directory. Any other command is
/// searched in the `PATH` of `env`, or in `/bin:/usr/bin` without one. An empty entry means the
/// working directory; files that are not executable are skipped (execvp(3)). Makes a few system
/// calls per directory, none of which waits.
///
/// The result may be outdated by the time of the exec, whose own error counts then.
///
/// # Errors
///
/// Why the command cannot be run. The working directory is checked first.
pub fn resolve(command: &str, env: &[(OsString, OsString)], cwd: Option<&Path>) -> Result<PathBuf, ProgramError> {
    if let Some(cwd) = cwd {
        check_directory(cwd)?;
    }
    if command.is_empty() {
        return Err(ProgramError::Empty);
    }
    let base = absolute(cwd.unwrap_or(Path::new(".")));
    let found = if command.contains('/') {
        let path = base.join(command);
        which::which_in(&path, None::<&OsStr>, &base).map_err(|_| why_not_this(path))?
    } else {
        let searched = search_path(env);
        which::which_in(command, Some(searched), &base).map_err(|_| why_not_found(command, searched, &base))?
    };
    check_needed(&found, &base)?;
    Ok(found)
}

/// Resolves against the host's directory. If that has been deleted, the path is left unchanged, and
/// only paths that need it fail.
fn absolute(path: &Path) -> PathBuf {
    let relative = path.strip_prefix(".").unwrap_or(path);
    env::current_dir().map_or_else(|_| path.to_owned(), |current| current.join(relative))
}

fn search_path(env: &[(OsString, OsString)]) -> &OsStr {
    let path = env.iter().find(|(name, _)| name == "PATH");
    path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value)
}

/// Why the command, which is this path, was refused.
fn why_not_this(path: PathBuf) -> ProgramError {
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => ProgramError::NotExecutable { path },
        Ok(_) => ProgramError::NotAFile { path },
        Err(error) => match errno_of(&error) {
            // 0 is a path with a NUL byte.
            0 | ENOENT | ENOTDIR => ProgramError::Missing { path },
            EACCES => ProgramError::Unreachable { path },
            errno => ProgramError::Refused {
                action: Action::Execute,
                path,
                errno,
            },
        },
    }
}

/// Why no entry of the PATH matched. A file with that name that is not executable is most likely
/// the intended one, or one that the system can't look at for a reason that may pass; a directory
/// with that name, or an entry that may not be read, is not.
fn why_not_found(command: &str, searched: &OsStr, base: &Path) -> ProgramError {
    let candidates = env::split_paths(searched).map(|entry| base.join(entry).join(command));
    let mut why = candidates.filter_map(|path| match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Some(ProgramError::NotExecutable { path }),
        Ok(_) => None,
        Err(error) => match errno_of(&error) {
            0 | ENOENT | ENOTDIR | EACCES => None,
            errno => Some(ProgramError::Refused {
                action: Action::Execute,
                path,
                errno,
            }),
        },
    });
    why.next().unwrap_or_else(|| ProgramError::NotFound {
        command: command.to_owned(),
        searched: searched.to_owned(),
    })
}

/// Checks the interpreter or loader of a program, and that of an interpreter that is a script
/// itself.
fn check_needed(program: &Path, base: &Path) -> Result<(), ProgramError> {
    let mut program = program.to_owned();
    for _ in 0..NESTED_LIMIT {
        match needed_by(&program) {
            None => return Ok(()),
            Some(Needed::Interpreter(interpreter)) => {
                let path = base.join(&interpreter);
                match may_run(&path) {
                    Ok(()) => program = path,
                    Err(ENOENT | ENOTDIR) => {
                        return Err(ProgramError::InterpreterMissing {
                            script: program,
                            interpreter,
                        });
                    }
                    Err(errno) => return Err(needed_refused(program, interpreter, errno)),
                }
            }
            // The kernel does not look further.
            Some(Needed::Loader(loader)) => {
                return match may_run(&base.join(&loader)) {
                    Ok(()) => Ok(()),
                    Err(ENOENT | ENOTDIR) => Err(ProgramError::LoaderMissing { program, loader }),
                    Err(errno) => Err(needed_refused(program, loader, errno)),
                };
            }
        }
    }
    // The kernel reports ELOOP.
    Ok(())
}

fn needed_refused(program: PathBuf, needed: PathBuf, errno: i32) -> ProgramError {
    ProgramError::NeededRefused { program, needed, errno }
}

/// An error is why the kernel would not run the file.
fn may_run(path: &Path) -> Result<(), i32> {
    let metadata = fs::metadata(path).map_err(|error| errno_of(&error))?;
    // Any other answer, such as a seccomp filter's, says nothing about execve(2).
    let closed = access(path, Access::EXEC_OK) == Err(Errno::ACCESS);
    if metadata.is_file() && !closed {
        Ok(())
    } else {
        Err(EACCES)
    }
}

fn check_directory(cwd: &Path) -> Result<(), ProgramError> {
    if cwd.is_dir() && access(cwd, Access::EXEC_OK).is_ok() {
        return Ok(());
    }
    let mut parts: Vec<&Path> = cwd.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parts.reverse();
    parts.into_iter().try_for_each(|part| check_part(cwd, part))
}

fn check_part(cwd: &Path, part: &Path) -> Result<(), ProgramError> {
    let looked = fs::metadata(part)
        .map_err(|error| errno_of(&error))
        .and_then(|metadata| {
            let entered = if metadata.is_dir() {
                access(part, Access::EXEC_OK)
            } else {
                Err(Errno::NOTDIR)
            };
            entered.map_err(Errno::raw_os_error)
        });
    let (cwd, part) = (cwd.to_owned(), part.to_owned());
    Err(match looked {
        Ok(()) => return Ok(()),
        // 0 is a path with a NUL byte.
        Err(0 | ENOENT) => ProgramError::DirectoryMissing { cwd, missing: part },
        Err(ENOTDIR) => ProgramError::NotADirectory { cwd, found: part },
        Err(EACCES) => ProgramError::DirectoryClosed { cwd, closed: part },
        Err(errno) => ProgramError::Refused {
            action: Action::EnterDirectory,
            path: part,
            errno,
        },
    })
}
