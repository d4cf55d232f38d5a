//! Interpreters and virtual environments, with real ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use ostler_core::chain::chain;
use ostler_core::spec::{Port, Ports, Ready, Stdin};
use ostler_python::{Python, PythonError, Report, Transport, preflight};

struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        let project = Self(tempfile::tempdir().expect("a temporary folder"));
        project.write("worker.py", "import json\n");
        project
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("its folder");
        fs::write(&path, text).expect("the file is written");
        path
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn worker(&self) -> Python {
        Python::new("worker.py").base(self.path())
    }

    /// A requirement that pip installs without any network: a package in a folder.
    fn package(&self, name: &str) -> PathBuf {
        let wheel = format!(
            "import zipfile\n\
             with zipfile.ZipFile('{name}-1.0-py3-none-any.whl', 'w') as z:\n\
             \x20   z.writestr('{name}.py', 'VALUE = 1')\n\
             \x20   z.writestr('{name}-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')\n\
             \x20   z.writestr('{name}-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
             \x20   z.writestr('{name}-1.0.dist-info/RECORD', '')\n"
        );
        let done = Command::new("python3")
            .args(["-c", &wheel])
            .current_dir(self.path())
            .status();
        assert!(done.expect("python3 runs").success());
        self.path().join(format!("{name}-1.0-py3-none-any.whl"))
    }
}

fn silent() -> impl FnMut(&str) {
    |_: &str| {}
}

fn report(worker: &Python) -> Report {
    worker.preflight(&mut silent()).expect("a report")
}

fn text(error: PythonError) -> String {
    chain(&error)
}

#[test]
fn python3_of_the_path_runs_a_worker_without_settings() {
    let project = Project::new();
    let python = project.worker().prepare(&mut silent()).expect("python3 is there");
    let spec = project.worker().arguments(["--fast"]).worker(&python);
    assert_eq!(spec.command[1], "-u");
    assert!(spec.command[2].ends_with("worker.py"), "{:?}", spec.command);
    assert_eq!(spec.command[3], "--fast");
    assert_eq!(spec.ready, Some(Ready::Notify));
    assert_eq!((spec.stop.grace.as_secs(), spec.host_death.grace.as_secs()), (6, 2));
    assert_eq!((spec.stdin, &spec.ports), (Stdin::Pipe, &Ports::None));
    assert_eq!(spec.env["OSTLER_TRANSPORT"], "stdio");
    let pool = project.worker().pool("p", &mut silent()).expect("python3 is there");
    assert_eq!(pool.worker.env["OSTLER_GRACE_MS"], "6000");
    assert_eq!(pool.worker.env["OSTLER_CONCURRENCY"], "1");
    let grpc = project.worker().transport(Transport::Grpc).worker(&python);
    assert_eq!((grpc.stdin, &grpc.ports), (Stdin::Null, &Ports::One(Port::Unix)));
    assert_eq!(grpc.env["OSTLER_TRANSPORT"], "grpc");
}

/// A worker that is a host itself keeps the variables of that page from its own workers.
#[test]
fn every_variable_of_the_preset_has_its_row_in_the_worker_protocol() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/worker-protocol.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let project = Project::new();
    for transport in [Transport::Stdio, Transport::Grpc] {
        let worker = project.worker().transport(transport).pin_to_cores();
        let pool = worker.pool("p", &mut silent()).expect("python3 is there");
        let ours = pool.worker.env.keys().filter(|name| name.starts_with("OSTLER_"));
        let ours: Vec<&String> = ours.collect();
        assert_eq!(ours.len(), 4, "{ours:?}");
        for name in ours {
            assert!(page.contains(&format!("\n| `{name}` |")), "{name} has no row");
        }
    }
}

#[test]
fn a_missing_file_and_a_missing_interpreter_are_named() {
    let project = Project::new();
    let missing = Python::new("nothing.py").base(project.path()).prepare(&mut silent());
    assert!(text(missing.expect_err("there is no such file")).contains("nothing.py does not exist"));
    let none = project.worker().interpreter("python9.9").prepare(&mut silent());
    assert!(text(none.expect_err("there is no such Python")).contains("no Python interpreter \"python9.9\" was found"));
}

#[test]
fn an_interpreter_that_does_not_run_or_is_too_old_is_refused() {
    let project = Project::new();
    for (script, message) in [
        (
            "#!/bin/sh\necho no libpython >&2; exit 1\n",
            "does not run: exit status: 1\nno libpython",
        ),
        (
            "#!/bin/sh\necho 3.8.10\n",
            "is Python 3.8.10, and ostler-worker needs 3.9 or later",
        ),
        ("#!/bin/sh\necho hello\n", "its version is \"hello\""),
    ] {
        // install(1) writes it, so that it is not busy while another test forks (ETXTBSY).
        let (draft, path) = (project.write("draft", script), project.path().join("fake"));
        let mut install = std::process::Command::new("install");
        let installed = install.args(["-m", "755"]).args([&draft, &path]).status();
        assert!(installed.expect("install(1) is run").success());
        let refused = project
            .worker()
            .interpreter(path.display().to_string())
            .prepare(&mut silent());
        let said = text(refused.expect_err("it is no Python"));
        assert!(said.contains(message), "{said}");
    }
}

/// An interpreter of this machine that is too old, if it has one.
fn too_old() -> Option<PathBuf> {
    let names = ["python3.8", "python3.7", "python3.6"].map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let pyenv = home.and_then(|home| fs::read_dir(home.join(".pyenv/versions")).ok());
    let pyenv = pyenv.into_iter().flatten().flatten();
    let candidates = names
        .into_iter()
        .chain(pyenv.map(|version| version.path().join("bin/python3")));
    let is_old = |python: &PathBuf| {
        let code = "import sys, venv; sys.exit(sys.version_info >= (3, 9))";
        // A name in the PATH may be a shim of pyenv for a version that is not selected.
        Command::new(python)
            .args(["-c", code])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let mut old = candidates.filter(is_old);
    old.next()
}

/// As the interpreter itself, and as that of an environment.
#[test]
fn a_real_python_that_is_too_old_is_refused() {
    let Some(old) = too_old() else {
        return println!("skipped: no Python older than 3.9 is installed");
    };
    let project = Project::new();
    let venv = ["-m", "venv", "--without-pip", "env"];
    let made = Command::new(&old).args(venv).current_dir(project.path()).status();
    assert!(made.expect("it runs").success());
    let by_name = project.worker().interpreter(old.display().to_string());
    for worker in [by_name, project.worker().venv("env")] {
        let refused = worker.prepare(&mut silent()).expect_err("it is too old");
        assert!(matches!(refused, PythonError::OldInterpreter { .. }), "{refused:?}");
        let said = text(refused);
        assert!(
            said.contains(" is Python 3.") && said.contains(", and ostler-worker needs 3.9 or later"),
            "{said}"
        );
    }
}

#[test]
fn half_made_environments_are_named() {
    let project = Project::new();
    let worker = project.worker().venv("env");
    let missing = |part: &str| {
        let said = text(worker.prepare(&mut silent()).expect_err("it is incomplete"));
        assert!(
            said.contains(&format!("is no complete virtual environment, {part} is missing")),
            "{said}"
        );
    };
    missing("the folder");
    fs::create_dir(project.path().join("env")).expect("the folder");
    missing("pyvenv.cfg");
    project.write("env/pyvenv.cfg", "");
    missing("bin/python");
    fs::create_dir(project.path().join("env/bin")).expect("the folder");
    std::os::unix::fs::symlink("/nowhere/python", project.path().join("env/bin/python")).expect("a dangling link");
    missing("bin/python");
}

#[test]
fn a_venv_is_made_once_and_again_when_it_is_half_made_or_its_requirements_change() {
    let project = Project::new();
    let wheel = project.package("ostler_test_one");
    let requirements = project.write("requirements.txt", &format!("{}\n", wheel.display()));
    let worker = project.worker().venv(".venv").requirements("requirements.txt");
    assert_eq!(prepared_by_four(&worker), 1, "one makes it, and the others wait for it");
    let python = worker.prepare(&mut silent()).expect("it is there");
    assert!(
        !fs::symlink_metadata(&python).expect("it is there").is_symlink(),
        "a copy, and no link"
    );
    project.write("worker.py", "import ostler_test_one, ostler_test_two\n");
    let modules = report(&worker).modules;
    assert_eq!(modules[0].version.as_deref(), Some("1.0"));
    assert_eq!(modules[1].missing.as_deref(), Some("ostler_test_two"));

    let with = |line: &str| format!("--no-index\n{}\n{line}\n", wheel.display());
    fs::write(&requirements, with("no-such-package-of-ours")).expect("it is written");
    let said = text(worker.prepare(&mut silent()).expect_err("there is no such package"));
    assert!(
        said.contains("pip install failed") && said.contains("no-such-package-of-ours"),
        "{said}"
    );
    assert!(python.is_file(), "half made: without its packages");

    let second = project.package("ostler_test_two");
    fs::write(&requirements, with(&second.display().to_string())).expect("it is written");
    worker.prepare(&mut silent()).expect("it is made again");
    assert_eq!(report(&worker).problems(), [], "both are there now");
}

/// How many of four threads that need the environment at once have made it.
fn prepared_by_four(worker: &Python) -> usize {
    let made = AtomicUsize::new(0);
    let prepare = || {
        let mut count = |line: &str| {
            if line.ends_with(": complete") {
                made.fetch_add(1, Ordering::Relaxed);
            }
        };
        worker.prepare(&mut count).expect("it is made");
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(prepare);
        }
    });
    made.into_inner()
}

#[test]
fn a_folder_that_is_no_venv_is_left_alone() {
    let project = Project::new();
    project.write("requirements.txt", "");
    let precious = project.write("data/precious", "keep");
    let refused = project
        .worker()
        .venv("data")
        .requirements("requirements.txt")
        .prepare(&mut silent());
    assert!(matches!(refused, Err(PythonError::NotAVenv(_))), "{refused:?}");
    assert!(precious.is_file());
}

#[test]
fn preflight_reports_every_problem_at_once_and_runs_no_worker() {
    let project = Project::new();
    project.write("helper.py", "import yaml_that_is_missing\n");
    project.write("broken.py", "raise RuntimeError('no driver')\n");
    project.write(
        "worker.py",
        "from __future__ import annotations\nimport json\nimport PIL_missing.Image\nimport helper, broken\n\
         from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import only_for_types\n\
         try:\n    import optional_one\nexcept ImportError:\n    optional_one = None\n\
         def handler():\n    import later_one\n\
         open('served', 'w')\nprint('noise')\n",
    );
    let requirements = project.write(
        "requirements.txt",
        "# a comment\npip>=1000\nno-such-dist-of-ours==1.0\n-r absent.txt\n-r more/other.txt\n-r https://example.org/a.txt\n",
    );
    project.write(
        "more/other.txt",
        "--requirement=../requirements.txt\nnot-installed-either # for more\n",
    );
    let python = project.worker().prepare(&mut silent()).expect("python3 is there");
    let worker = project.worker().worker(&python);
    let report = preflight(&worker, &project.worker().file(), Some(&requirements)).expect("a report");
    let found: Vec<String> = report.problems().iter().map(ToString::to_string).collect();
    let install = |package: &str| format!("{} -m pip install {package}", python.display());
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(
        found[0].starts_with("line 3: import PIL_missing.Image: ModuleNotFoundError"),
        "{}",
        found[0]
    );
    let add = format!("add PIL_missing to {}, or ", requirements.display());
    assert!(found[0].contains(&add), "{}", found[0]);
    assert!(found[0].ends_with(&install("PIL_missing")), "{}", found[0]);
    assert!(found[1].ends_with(&install("yaml_that_is_missing")), "{}", found[1]);
    assert!(
        found[2].starts_with("line 4: import broken: RuntimeError: no driver"),
        "{}",
        found[2]
    );
    assert!(found[3].starts_with("pip>=1000 is required, and "), "{}", found[3]);
    assert!(
        found[4].starts_with("no-such-dist-of-ours==1.0 is required, and not installed"),
        "{}",
        found[4]
    );
    let behind = "not-installed-either is required, and not installed";
    assert!(found[5].starts_with(behind), "{}", found[5]);
    assert!(
        !project.path().join("served").exists(),
        "the worker's own code did not run"
    );
}

#[test]
fn preflight_of_what_is_no_python_says_where() {
    let project = Project::new();
    project.write("worker.py", "import json\ndef\n");
    let problems = report(&project.worker()).problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("line 2"), "{}", problems[0]);
}

/// What a worker finds by its own variables and in its own folder is not missing.
#[test]
fn preflight_has_the_workers_environment_and_folder() {
    let project = Project::new();
    project.write("elsewhere/found_by_path.py", "");
    let read = project.write("data/0/read_at_import", "");
    project.write(
        "worker.py",
        "import found_by_path\nimport reads_a_file\nimport not_inherited\n",
    );
    project.write(
        "reads_a_file.py",
        &format!(
            "import os\nassert os.getcwd() == {:?}\n",
            read.parent().expect("a folder")
        ),
    );
    project.write(
        "not_inherited.py",
        "import os\nassert 'CARGO_MANIFEST_DIR' not in os.environ\n",
    );
    let python = project.worker().prepare(&mut silent()).expect("python3 is there");
    let mut worker = project.worker().worker(&python);
    let elsewhere = project.path().join("elsewhere").display().to_string();
    worker.env.insert("PYTHONPATH".to_owned(), elsewhere);
    worker.cwd = Some(project.path().join("data/{index}"));
    worker.inherit_env = false;
    let report = preflight(&worker, &project.worker().file(), None).expect("a report");
    assert_eq!(report.problems(), []);
}

/// A worker that the SDK serves over gRPC imports grpcio when it serves, and not in its file.
#[test]
fn preflight_knows_what_the_transport_needs() {
    let project = Project::new();
    project.write("modules/ostler_worker.py", "");
    project.write(
        "modules/grpc.py",
        "raise ModuleNotFoundError('No module named cygrpc', name='grpc')\n",
    );
    project.write("worker.py", "import ostler_worker\n");
    let worker = |transport| {
        let modules = project.path().join("modules").display().to_string();
        project.worker().transport(transport).env("PYTHONPATH", modules)
    };
    assert_eq!(report(&worker(Transport::Stdio)).problems(), []);
    let problems = report(&worker(Transport::Grpc)).problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let said = problems[0].to_string();
    assert!(
        said.starts_with("the pool's transport needs grpc: ModuleNotFoundError"),
        "{said}"
    );
    assert!(said.ends_with("-m pip install grpcio"), "{said}");
    project.write("worker.py", "import json\n");
    assert_eq!(
        report(&worker(Transport::Grpc)).problems(),
        [],
        "it has a server of its own"
    );
}

/// An environment that uv has made has no pip.
#[test]
fn what_is_missing_in_an_environment_without_pip_is_installed_by_uv() {
    let project = Project::new();
    let made = Command::new("python3")
        .args(["-m", "venv", "--without-pip", "env"])
        .current_dir(project.path())
        .status();
    assert!(made.expect("python3 runs").success());
    project.write("worker.py", "import no_such_module_of_ours\n");
    let problems = report(&project.worker().venv("env")).problems();
    let python = project.path().join("env/bin/python");
    let install = format!("uv pip install --python {} no_such_module_of_ours", python.display());
    assert!(problems[0].suggestion.ends_with(&install), "{}", problems[0]);
}

/// `-r` and `-c` in a requirements file are part of it.
#[test]
fn a_venv_is_made_again_when_a_file_that_its_requirements_name_changes() {
    let project = Project::new();
    let wheel = project.package("ostler_test_named");
    project.write("requirements.txt", "--no-index\n-r more.txt\n");
    project.write("more.txt", "# none\n");
    project.write("worker.py", "import ostler_test_named\n");
    let worker = project.worker().venv("env").requirements("requirements.txt");
    assert_eq!(report(&worker).problems().len(), 1, "it is not listed");
    project.write("more.txt", &format!("{}\n", wheel.display()));
    assert_eq!(report(&worker).problems(), []);
}
