//! The tests of the Python package, in virtual environments of its own below the cache folder: all
//! of them with `python3`, and those that need no package but pytest with every other version.

mod interpreters;

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::native;
use crate::skips::Skips;
use crate::steps::{Outcome, output, root, step};
use interpreters::Interpreter;

/// What the other versions are tested with: stdio needs no package but pytest.
const REQUIREMENTS_OF_OTHERS: &str = "pytest>=7\n";

/// Files of tests that need more, or that no version changes.
const ONLY_WITH_DEFAULT: [&str; 3] = ["tests/test_grpc.py", "tests/test_values.py", "tests/test_package.py"];

/// Type-checks and tests `python/`, and notes what is skipped.
pub(crate) fn run(skips: &mut Skips) -> Outcome {
    let default = interpreters::default()?;
    let requirements = root().join("python/requirements-test.txt");
    let text = fs::read_to_string(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    match environment(&default, &text) {
        Ok(python) => {
            step("Python: mypy --strict", &mut module(&python, "mypy"))?;
            step("Python: pytest", &mut pytest(&python))?;
        }
        Err(reason) => skips.step("tests of the Python package", &reason),
    }
    for minor in interpreters::MINORS {
        if default.version.starts_with(&format!("3.{minor}.")) {
            continue;
        }
        let python = interpreters::find(minor).and_then(|found| environment(&found, REQUIREMENTS_OF_OTHERS));
        match python {
            Ok(python) => {
                let mut tests = pytest(&python);
                tests.args(ONLY_WITH_DEFAULT.map(|file| format!("--ignore={file}")));
                step(&format!("Python 3.{minor}: pytest"), &mut tests)?;
            }
            Err(reason) => skips.step(&format!("tests of the Python package with Python 3.{minor}"), &reason),
        }
    }
    Ok(())
}

fn pytest(python: &Path) -> Command {
    let mut command = module(python, "pytest");
    command.args(["-p", "no:cacheprovider"]);
    command
}

/// A module of the environment, with the package's sources, in its folder.
fn module(python: &Path, module: &str) -> Command {
    let package = root().join("python");
    let mut command = Command::new(python);
    command
        .args(["-m", module])
        .env("PYTHONPATH", package.join("src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(package);
    command
}

/// The interpreter of the environment with these requirements; it is made on the first call, and
/// when they or the interpreter change.
fn environment(interpreter: &Interpreter, requirements: &str) -> Outcome<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (requirements, &interpreter.version).hash(&mut hasher);
    let folder = native::cache()?.join("venv").join(format!("{:016x}", hasher.finish()));
    let python = folder.join("bin/python");
    let complete = folder.join("complete");
    if complete.is_file() {
        return Ok(python);
    }
    let packages: Vec<&str> = requirements.split_whitespace().collect();
    println!(
        "── Python: {} are fetched from PyPI into {}, once",
        packages.join(", "),
        folder.display()
    );
    output(
        Command::new(&interpreter.path)
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )
    .map_err(|error| format!("no virtual environment could be made (Debian: apt-get install python3-venv): {error}"))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg("--only-binary=:all:")
        .args(packages);
    output(&mut pip).map_err(|error| format!("its packages could not be fetched from PyPI: {error}"))?;
    fs::write(&complete, "").map_err(|error| format!("{}: {error}", complete.display()))?;
    Ok(python)
}
