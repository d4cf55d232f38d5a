//! `python`, `interpreter`, `venv`, `requirements`, `devices` and `cpus`: the preset of a Python
//! worker, instead of a command.

use std::path::Path;

use ostler_core::config::values::{path, string, strings};
use ostler_core::config::{Section, Walk, join, keys};
use ostler_python::{Python, Transport};

use super::values;

/// The preset of the pool, if it has one. Relative paths are against `base`.
pub(super) fn read(walk: &mut Walk, section: &Section<'_>, base: &Path) -> Option<Python> {
    let file = section.read(walk, "python", path).ok();
    let interpreter = section.read(walk, "interpreter", string).ok();
    let venv = section.read(walk, "venv", path).ok();
    let requirements = section.read(walk, "requirements", path).ok();
    let devices = section.read(walk, "devices", strings).ok();
    let pinned = section.read(walk, "cpus", values::cpus).ok();
    if !section.has("python") {
        for key in keys::PYTHON {
            if section.has(key) {
                let message = "is for a pool with `python`; set python = \"worker.py\" instead of a command";
                walk.wrong(section.locate(key), &section.path_of(key), message);
            }
        }
        return None;
    }
    if section.has("command") {
        let message = "use only one of `command` and `python`";
        walk.wrong(section.locate("python"), &section.path_of("python"), message);
    }
    // Nothing in this program writes to a worker's stdin: other programs call its socket, or the
    // port that is set instead.
    let mut python = Python::new(join(base, &file?)).transport(Transport::Grpc);
    if let Some(name) = interpreter {
        // As in a command: with a slash it is a path, else a name that is looked up in the PATH.
        let path = name
            .contains('/')
            .then(|| join(base, Path::new(&name)).display().to_string());
        python = python.interpreter(path.unwrap_or(name));
    }
    if let Some(venv) = venv {
        python = python.venv(join(base, &venv));
    }
    if let Some(requirements) = requirements {
        python = python.requirements(join(base, &requirements));
    }
    if let Some(devices) = devices {
        python = python.devices(devices);
    }
    if pinned.is_some() {
        python = python.pin_to_cores();
    }
    Some(python)
}
