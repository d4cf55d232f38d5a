//! Finds the file for a command before the spawn, so that a failure says what is wrong. The search
//! is that of execvp(3), with the PATH of the worker's environment and relative to the worker's
//! directory.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memchr::memchr;
use ostler_core::failure::Reason;
use rustix::fs::{Access, access};

/// Where execvp(3) searches without a PATH (glibc's `confstr(_CS_PATH)`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How much of a file the kernel reads for its `#!` line (BINPRM_BUF_SIZE since 5.1, execve(2)).
const FIRST_LINE_LIMIT: usize = 256;

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
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Empty | Self::NotFound { .. } | Self::Missing { .. } | Self::InterpreterMissing { .. } => {
                Reason::CommandNotFound
            }
            Self::DirectoryMissing { .. } | Self::NotADirectory { .. } => Reason::DirectoryMissing,
            Self::NotExecutable { .. }
            | Self::NotAFile { .. }
            | Self::Unreachable { .. }
            | Self::DirectoryClosed { .. } => Reason::PermissionDenied,
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
    check_interpreter(&found, &base)?;
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
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => ProgramError::Unreachable { path },
        Err(_) => ProgramError::Missing { path },
    }
}

/// Why no entry of the PATH matched. A file with that name that is not executable is most likely
/// the intended one; a directory with that name, or an entry that may not be read, is not.
fn why_not_found(command: &str, searched: &OsStr, base: &Path) -> ProgramError {
    let mut candidates = env::split_paths(searched).map(|entry| base.join(entry).join(command));
    match candidates.find(|path| path.is_file()) {
        Some(path) => ProgramError::NotExecutable { path },
        None => ProgramError::NotFound {
            command: command.to_owned(),
            searched: searched.to_owned(),
        },
    }
}

/// execve(2) reports ENOENT for a missing interpreter, as if the script itself were missing, so
/// this checks first.
fn check_interpreter(script: &Path, base: &Path) -> Result<(), ProgramError> {
    // A program that may be executed but not read is left to the kernel.
    let Some(interpreter) = interpreter(script) else {
        return Ok(());
    };
    match fs::metadata(base.join(&interpreter)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ProgramError::InterpreterMissing {
            script: script.to_owned(),
            interpreter,
        }),
        _ => Ok(()),
    }
}

fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = [0; FIRST_LINE_LIMIT];
    let length = File::open(script).ok()?.read(&mut start).ok()?;
    let line = start[..length].strip_prefix(b"#!")?;
    let line = memchr(b'\n', line).map_or(line, |end| &line[..end]);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let word = line.split(blank).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(word)))
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
    let cwd = cwd.to_owned();
    match fs::metadata(part) {
        Ok(metadata) if !metadata.is_dir() => Err(ProgramError::NotADirectory {
            cwd,
            found: part.to_owned(),
        }),
        Ok(_) if access(part, Access::EXEC_OK).is_err() => Err(ProgramError::DirectoryClosed {
            cwd,
            closed: part.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(ProgramError::DirectoryClosed {
            cwd,
            closed: part.to_owned(),
        }),
        Err(_) => Err(ProgramError::DirectoryMissing {
            cwd,
            missing: part.to_owned(),
        }),
    }
}
