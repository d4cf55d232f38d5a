//! Finds the interpreters that the Python package claims to run on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::output;

/// The minor versions of Python 3 that the package claims to run on (`python/pyproject.toml`).
pub(crate) const MINORS: std::ops::RangeInclusive<u32> = 9..=14;

/// An interpreter that runs.
#[derive(Debug)]
pub(crate) struct Interpreter {
    /// Its own program, and not a shim that starts it.
    pub(crate) path: PathBuf,
    /// What it prints as `sys.version`.
    pub(crate) version: String,
}

/// `python3`, which runs all tests.
pub(crate) fn default() -> Result<Interpreter, String> {
    ask(Path::new("python3"))
}

/// The first interpreter of this version: in the PATH, or among the versions that pyenv keeps.
pub(crate) fn find(minor: u32) -> Result<Interpreter, String> {
    let is_it = |found: &Interpreter| found.version.starts_with(&format!("3.{minor}."));
    let name = format!("python3.{minor}");
    // A shim of pyenv may be there without the version behind it.
    std::iter::once(PathBuf::from(&name))
        .chain(of_pyenv(minor))
        .filter_map(|program| ask(&program).ok())
        .find(is_it)
        .ok_or_else(|| format!("no {name} was found in the PATH or among the versions of pyenv"))
}

/// The newest first.
fn of_pyenv(minor: u32) -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv"));
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(home);
    let entries = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let mut found: Vec<(u32, PathBuf)> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let patch = patch_of(entry.file_name().to_str()?, minor)?;
            Some((patch, entry.path().join("bin/python3")))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, program)| program).collect()
}

/// The patch number in `3.MINOR.PATCH`. Free-threaded builds (`3.13.0t`) and prereleases are other
/// interpreters.
fn patch_of(name: &str, minor: u32) -> Option<u32> {
    name.strip_prefix(&format!("3.{minor}."))?.parse().ok()
}

fn ask(program: &Path) -> Result<Interpreter, String> {
    let code = "import sys; print(sys.executable); print(sys.version)";
    let printed = output(Command::new(program).args(["-I", "-c", code]))?;
    let (path, version) = printed.split_once('\n').ok_or("it printed no version")?;
    Ok(Interpreter {
        path: PathBuf::from(path),
        version: version.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_pyenv_are_known_by_their_folders() {
        assert_eq!(patch_of("3.9.18", 9), Some(18));
        for other in [
            "3.10.1",
            "3.9",
            "3.9-dev",
            "3.9.0rc1",
            "3.9.1t",
            "2.7.18",
            "miniconda3-3.9.1",
        ] {
            assert_eq!(patch_of(other, 9), None, "{other}");
        }
    }

    #[test]
    fn the_package_claims_the_versions_that_are_tested() {
        let project = std::fs::read_to_string(crate::steps::root().join("python/pyproject.toml"));
        let project = project.expect("pyproject.toml");
        let prefix = "\"Programming Language :: Python :: 3.";
        let claimed: Vec<u32> = project
            .lines()
            .filter_map(|line| line.trim().strip_prefix(prefix)?.trim_end_matches("\",").parse().ok())
            .collect();
        assert_eq!(claimed, MINORS.collect::<Vec<_>>());
        assert!(project.contains(&format!("requires-python = \">=3.{}\"", MINORS.start())));
    }
}
