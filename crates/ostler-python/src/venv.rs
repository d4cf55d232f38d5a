//! Virtual environments: one that the user has made, or one made here from a requirements file.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ostler_os::machine::trusted_variable;
use ostler_os::private::is_own_directory;

use crate::command::{self, Step};
use crate::error::PythonError;
use crate::interpreter::{self, Interpreter};
use crate::job::{Cancel, Job};
use crate::requirements;

/// How long making a virtual environment and installing its packages may take: 30 minutes.
pub const INSTALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Holds what the environment was made of, and is empty until it is complete. It is there first, so
/// that an environment that is half made is taken neither for a complete one nor for an unrelated
/// folder.
const STAMP: &str = "ostler-complete";

/// How often a process that waits for another one's environment looks whether it is there.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What is in an environment that is made here.
#[derive(Clone, Copy)]
pub(crate) struct Requested<'a> {
    /// A requirements file of pip.
    pub(crate) requirements: &'a Path,
    /// It lists every package: no dependencies are installed beside them.
    pub(crate) locked: bool,
}

/// The interpreter of an environment that another program has made.
pub(crate) fn existing(venv: &Path, cancel: &Cancel) -> Result<Interpreter, PythonError> {
    let python = venv.join("bin/python");
    let missing = if !venv.is_dir() {
        Some("the folder")
    } else if !venv.join("pyvenv.cfg").is_file() {
        Some("pyvenv.cfg")
    } else if !python.is_file() {
        // Also when it is a link to an interpreter that was removed.
        Some("bin/python")
    } else {
        None
    };
    match missing {
        Some(missing) => Err(PythonError::IncompleteVenv {
            venv: venv.to_owned(),
            missing,
        }),
        None => interpreter::examine(python, cancel),
    }
}

/// The interpreter of an environment with these requirements; makes it where it is not there, not
/// complete, or made of something else. One process at a time does so, and the others wait for it.
///
/// Without `venv`, it is below the user's cache folder, with a name made of what is in it, and
/// pools with the same requirements share it.
pub(crate) fn required(
    base: &Interpreter,
    venv: Option<&Path>,
    requested: Requested<'_>,
    job: &mut Job<'_>,
) -> Result<Interpreter, PythonError> {
    let made_of = contents(base, requested)?;
    let is_shared = venv.is_none();
    let venv = match venv {
        Some(venv) => std::path::absolute(venv).map_err(PythonError::io(venv))?,
        None => shared(&made_of)?,
    };
    if let Some(parent) = venv.parent() {
        let mut builder = fs::DirBuilder::new();
        if is_shared {
            builder.mode(0o700);
        }
        builder
            .recursive(true)
            .create(parent)
            .map_err(PythonError::io(parent))?;
        if is_shared {
            only_ours(parent)?;
        }
    }
    let lock = lock(&venv, job)?;
    if is_made_of(&venv, &made_of) {
        return interpreter::examine(venv.join("bin/python"), &job.cancel);
    }
    if venv.exists() && !venv.join("pyvenv.cfg").exists() && !venv.join(STAMP).exists() && !is_empty(&venv) {
        return Err(PythonError::NotAVenv(venv));
    }
    make(base, &venv, requested, &lock, job)?;
    fs::write(venv.join(STAMP), &made_of).map_err(PythonError::io(venv.join(STAMP)))?;
    interpreter::examine(venv.join("bin/python"), &job.cancel)
}

/// All that decides what is in the environment: the interpreter, and the texts of the requirements
/// and of the files that they name. Their folder is part of it only if a path in them is relative
/// to it, so that the same requirements in another checkout lead to the same environment.
fn contents(base: &Interpreter, requested: Requested<'_>) -> Result<String, PythonError> {
    let read = requirements::read(requested.requirements).map_err(PythonError::io(requested.requirements))?;
    Ok(format!(
        "{} {}\n{}{}\n{}",
        base.path.display(),
        base.version,
        read.relative_to
            .map_or_else(String::new, |folder| folder.display().to_string()),
        if requested.locked { " --no-deps" } else { "" },
        read.text
    ))
}

fn is_made_of(venv: &Path, made_of: &str) -> bool {
    venv.join("bin/python").is_file() && fs::read_to_string(venv.join(STAMP)).is_ok_and(|stamp| stamp == made_of)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// `$XDG_CACHE_HOME/ostler/venvs/HASH`, or the same below `~/.cache`.
fn shared(made_of: &str) -> Result<PathBuf, PythonError> {
    let home = || trusted_variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = trusted_variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home)
        .ok_or(PythonError::NoCache)?;
    // A collision costs a rebuild and never a wrong environment: the stamp holds the whole text.
    Ok(cache
        .join("ostler/venvs")
        .join(format!("{:08x}", crc32fast::hash(made_of.as_bytes()))))
}

/// What is in an environment is executed: no other user may have made it (SECURITY.md).
fn only_ours(folder: &Path) -> Result<(), PythonError> {
    let found = fs::symlink_metadata(folder).map_err(PythonError::io(folder))?;
    match is_own_directory(&found, 0o022) {
        true => Ok(()),
        false => Err(PythonError::NotPrivate(folder.to_owned())),
    }
}

/// Held while the environment is looked at and made; the kernel frees it, however this process
/// ends.
fn lock(venv: &Path, job: &mut Job<'_>) -> Result<File, PythonError> {
    let path = venv.with_file_name(format!(
        ".{}.lock",
        venv.file_name().unwrap_or_default().to_string_lossy()
    ));
    let open = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = open.map_err(PythonError::io(&path))?;
    let mut announced = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(PythonError::io(&path)(error)),
            Err(TryLockError::WouldBlock) if job.cancel.is_cancelled() => {
                return Err(PythonError::io(&path)(ErrorKind::Interrupted.into()));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !announced {
            job.say(&format!("{}: another process is making it; waiting", venv.display()));
            announced = true;
        }
        // Polling: a wait for the lock could not be cancelled.
        std::thread::sleep(LOCK_POLL);
    }
}

/// The lock stays locked until every process of a command has ended: when this program is killed,
/// no other one begins before that.
fn make(
    base: &Interpreter,
    venv: &Path,
    requested: Requested<'_>,
    lock: &File,
    job: &mut Job<'_>,
) -> Result<(), PythonError> {
    clear(venv)?;
    let uv = which::which("uv").ok();
    job.say(&format!(
        "{}: making a virtual environment with Python {}",
        venv.display(),
        base.version
    ));
    let run = |name: &str, command: &Command, job: &Job<'_>| {
        command::run(&Step {
            name,
            command,
            timeout: INSTALL_TIMEOUT,
            lock: Some(lock),
            cancel: &job.cancel,
        })
    };
    let mut create = Command::new(&base.path);
    // Isolated: neither the working directory nor PYTHONPATH has a say in what is installed.
    // Copies: the environment stays whole when a package manager removes the interpreter's link.
    create.args(["-I", "-m", "venv", "--copies"]);
    if uv.is_some() {
        create.arg("--without-pip");
    }
    run("python -m venv", create.arg(venv), job)?;
    let (name, mut install) = installer(uv, &venv.join("bin/python"));
    if requested.locked {
        install.arg("--no-deps");
    }
    job.say(&format!(
        "{}: {name} -r {}",
        venv.display(),
        requested.requirements.display()
    ));
    // Paths in the file are relative to it, as people expect, and not to the working directory.
    let requirements = fs::canonicalize(requested.requirements).map_err(PythonError::io(requested.requirements))?;
    if let Some(folder) = requirements.parent() {
        install.current_dir(folder);
    }
    run(name, install.arg("-r").arg(&requirements), job)?;
    job.say(&format!("{}: complete", venv.display()));
    Ok(())
}

/// Leaves a folder with nothing but an empty stamp. `venv --clear` would remove the stamp, too, and
/// if it is killed then, what it leaves looks like an unrelated folder.
fn clear(venv: &Path) -> Result<(), PythonError> {
    fs::create_dir_all(venv).map_err(PythonError::io(venv))?;
    fs::write(venv.join(STAMP), "").map_err(PythonError::io(venv.join(STAMP)))?;
    for entry in fs::read_dir(venv).map_err(PythonError::io(venv))? {
        let entry = entry.map_err(PythonError::io(venv))?;
        let path = entry.path();
        let removed = match entry.file_type() {
            _ if entry.file_name() == STAMP => Ok(()),
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.map_err(PythonError::io(path))?;
    }
    Ok(())
}

/// What installs packages for this interpreter, up to the options that both have in common.
fn installer(uv: Option<PathBuf>, python: &Path) -> (&'static str, Command) {
    match uv {
        Some(uv) => {
            let mut install = Command::new(uv);
            install.args(["pip", "install", "--quiet", "--python"]).arg(python);
            ("uv pip install", install)
        }
        None => {
            let mut install = Command::new(python);
            install.args(["-I", "-m", "pip", "install", "--quiet", "--no-input"]);
            install.arg("--disable-pip-version-check");
            ("pip install", install)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_others_may_have_filled_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("venvs");
        fs::create_dir(&folder).unwrap();
        for (mode, ours) in [(0o700, true), (0o755, true), (0o775, false), (0o707, false)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(only_ours(&folder).is_ok(), ours, "{mode:o}");
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let link = home.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(matches!(only_ours(&link), Err(PythonError::NotPrivate(_))));
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
            assert!(matches!(only_ours(&folder), Err(PythonError::NotPrivate(_))));
        }
    }
}
