//! What the folder of a Python virtual environment shows.

use std::fs;
use std::path::Path;

use ostler_core::traceback::Installer;

/// What installs packages for the interpreter at this path: uv in a virtual environment without
/// pip, else the interpreter's own pip. An interpreter that is named without a folder counts as one
/// with pip.
pub fn installer(python: &Path) -> Installer {
    let venv = python.parent().and_then(Path::parent);
    let settings = venv.and_then(|venv| fs::read_to_string(venv.join("pyvenv.cfg")).ok());
    match (venv, settings) {
        (Some(venv), Some(settings)) if !shows_the_systems_packages(&settings) && !has_pip(venv) => Installer::Uv,
        _ => Installer::Pip,
    }
}

fn shows_the_systems_packages(settings: &str) -> bool {
    settings
        .lines()
        .filter_map(|line| line.split_once('='))
        .any(|(key, value)| key.trim() == "include-system-site-packages" && value.trim() == "true")
}

/// `lib/python3.N/site-packages/pip`.
fn has_pip(venv: &Path) -> bool {
    let versions = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("site-packages/pip"))
        .any(|pip| pip.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uv_installs_where_there_is_no_pip() {
        let folder = tempfile::tempdir().expect("a folder");
        let python = folder.path().join("bin/python");
        let settings = folder.path().join("pyvenv.cfg");
        assert_eq!(installer(&python), Installer::Pip, "no virtual environment");
        fs::write(&settings, "home = /usr/bin\ninclude-system-site-packages = false\n").expect("it is written");
        assert_eq!(installer(&python), Installer::Uv);
        let packages = folder.path().join("lib/python3.11/site-packages");
        fs::create_dir_all(packages.join("numpy")).expect("a folder");
        assert_eq!(installer(&python), Installer::Uv);
        fs::create_dir_all(packages.join("pip")).expect("a folder");
        assert_eq!(installer(&python), Installer::Pip);
        fs::remove_dir_all(packages).expect("it is there");
        fs::write(&settings, "include-system-site-packages = true\n").expect("it is written");
        assert_eq!(installer(&python), Installer::Pip, "the system's");
        assert_eq!(installer(Path::new("python3")), Installer::Pip);
    }
}
