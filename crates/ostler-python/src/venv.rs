//! Virtual environments: one that the user has made, or one made here from a requirements file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command;
use crate::error::PythonError;
use crate::interpreter::{self, Interpreter};

/// How long making a virtual environment and installing its packages may take: 30 minutes.
pub const INSTALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Written last, with what the environment was made of: without it, the environment is half made.
const STAMP: &str = "ostler-complete";

/// Receives what is being done, a line at a time.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(&str);

/// What is in an environment that is made here.
#[derive(Clone, Copy)]
pub(crate) struct Requested<'a> {
    /// A requirements file of pip.
    pub(crate) requirements: &'a Path,
    /// It lists every package: no dependencies are installed beside them.
    pub(crate) locked: bool,
}

/// The interpreter of an environment that another program has made.
pub(crate) fn existing(venv: &Path) -> Result<Interpreter, PythonError> {
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
        None => interpreter::examine(python),
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
    progress: Progress<'_>,
) -> Result<Interpreter, PythonError> {
    let text = fs::read_to_string(requested.requirements).map_err(PythonError::io(requested.requirements))?;
    let made_of = contents(base, requested, &text);
    let venv = match venv {
        Some(venv) => std::path::absolute(venv).map_err(PythonError::io(venv))?,
        None => shared(&made_of)?,
    };
    if let Some(parent) = venv.parent() {
        fs::create_dir_all(parent).map_err(PythonError::io(parent))?;
    }
    let lock = lock(&venv, progress)?;
    if is_made_of(&venv, &made_of) {
        return interpreter::examine(venv.join("bin/python"));
    }
    if venv.exists() && !venv.join("pyvenv.cfg").exists() && !venv.join(STAMP).exists() && !is_empty(&venv) {
        return Err(PythonError::NotAVenv(venv));
    }
    make(base, &venv, requested, &lock, progress)?;
    fs::write(venv.join(STAMP), &made_of).map_err(PythonError::io(venv.join(STAMP)))?;
    interpreter::examine(venv.join("bin/python"))
}

/// All that decides what is in the environment. Files that the requirements name by `-r` are read
/// by pip alone: touch the requirements when one of them changes.
fn contents(base: &Interpreter, requested: Requested<'_>, text: &str) -> String {
    format!(
        "{} {}\n{}{}\n{text}",
        base.path.display(),
        base.version,
        requested.requirements.display(),
        if requested.locked { " --no-deps" } else { "" }
    )
}

fn is_made_of(venv: &Path, made_of: &str) -> bool {
    venv.join("bin/python").is_file() && fs::read_to_string(venv.join(STAMP)).is_ok_and(|stamp| stamp == made_of)
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// `$XDG_CACHE_HOME/ostler/venvs/HASH`, or the same below `~/.cache`.
fn shared(made_of: &str) -> Result<PathBuf, PythonError> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home)
        .unwrap_or_else(std::env::temp_dir);
    // A collision costs a rebuild and never a wrong environment: the stamp holds the whole text.
    Ok(cache
        .join("ostler/venvs")
        .join(format!("{:08x}", crc32fast::hash(made_of.as_bytes()))))
}

/// Held while the environment is looked at and made; the kernel frees it, however this process
/// ends.
fn lock(venv: &Path, progress: Progress<'_>) -> Result<File, PythonError> {
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
    if file.try_lock().is_err() {
        progress(&format!("{}: another process is making it; waiting", venv.display()));
        file.lock().map_err(PythonError::io(&path))?;
    }
    Ok(file)
}

/// The commands have the lock as their stdin, which is an empty file: when this process is killed,
/// they go on for a while, and no other process may begin before they have ended.
fn make(
    base: &Interpreter,
    venv: &Path,
    requested: Requested<'_>,
    lock: &File,
    progress: Progress<'_>,
) -> Result<(), PythonError> {
    let held = || lock.try_clone().map_err(PythonError::io(venv));
    let uv = which::which("uv").ok();
    progress(&format!(
        "{}: making a virtual environment with Python {}",
        venv.display(),
        base.version
    ));
    let mut create = Command::new(&base.path);
    // Copies: the environment stays whole when a package manager removes the interpreter's link.
    create.args(["-m", "venv", "--copies", "--clear"]);
    if uv.is_some() {
        create.arg("--without-pip");
    }
    command::run("python -m venv", create.arg(venv).stdin(held()?), INSTALL_TIMEOUT)?;
    let python = venv.join("bin/python");
    let (step, mut install) = match uv {
        Some(uv) => {
            let mut install = Command::new(uv);
            install.args(["pip", "install", "--quiet", "--python"]).arg(&python);
            ("uv pip install", install)
        }
        None => {
            let mut install = Command::new(&python);
            install.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-input",
            ]);
            ("pip install", install)
        }
    };
    if requested.locked {
        install.arg("--no-deps");
    }
    progress(&format!(
        "{}: {step} -r {}",
        venv.display(),
        requested.requirements.display()
    ));
    // Paths in the file are relative to it, as people expect, and not to the working directory.
    let requirements = fs::canonicalize(requested.requirements).map_err(PythonError::io(requested.requirements))?;
    if let Some(folder) = requirements.parent() {
        install.current_dir(folder);
    }
    command::run(
        step,
        install.arg("-r").arg(&requirements).stdin(held()?),
        INSTALL_TIMEOUT,
    )?;
    progress(&format!("{}: complete", venv.display()));
    Ok(())
}
