//! The tests of the Python package, in a virtual environment of its own below the cache folder.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::native;
use crate::steps::{Outcome, output, root, step};

/// Type-checks and tests `python/`. `Some` says why it was skipped.
pub(crate) fn run() -> Outcome<Option<String>> {
    let package = root().join("python");
    let python = match environment(&package.join("requirements-test.txt")) {
        Ok(python) => python,
        Err(reason) => return Ok(Some(reason)),
    };
    let command = |module: &str| {
        let mut command = Command::new(&python);
        command
            .args(["-m", module])
            .current_dir(&package)
            .env("PYTHONPATH", package.join("src"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    step("Python: mypy --strict", &mut command("mypy"))?;
    step("Python: pytest", command("pytest").args(["-p", "no:cacheprovider"]))?;
    Ok(None)
}

/// The interpreter of the environment with these requirements; it is made on the first call, and
/// when they change.
fn environment(requirements: &Path) -> Outcome<PathBuf> {
    let text = fs::read_to_string(requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let version = output(Command::new("python3").args(["-c", "import sys; print(sys.version)"]))?;
    let mut hasher = DefaultHasher::new();
    (text, version).hash(&mut hasher);
    let folder = native::cache()?.join("venv").join(format!("{:016x}", hasher.finish()));
    let python = folder.join("bin/python");
    let complete = folder.join("complete");
    if complete.is_file() {
        return Ok(python);
    }
    println!(
        "── Python: the packages of requirements-test.txt are fetched from PyPI into {} (about 200 MB, once)",
        folder.display()
    );
    output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).map_err(|error| {
        format!("no virtual environment could be made (Debian: apt-get install python3-venv): {error}")
    })?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "-r",
    ]);
    output(pip.arg(requirements)).map_err(|error| format!("its packages could not be fetched from PyPI: {error}"))?;
    fs::write(&complete, "").map_err(|error| format!("{}: {error}", complete.display()))?;
    Ok(python)
}
