//! Pools with `python`, and their preflight, with the python3 of the machine.

use std::path::Path;

use crate::harness::{Up, folder, run, run_with, utf8};

/// A worker of the standard library alone: it does what the SDK does for the supervisor.
const WORKER: &str = "\
import os, signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
assert os.environ['OSTLER_TRANSPORT'] == 'grpc' and os.environ['OSTLER_GRACE_MS'] == '6000'
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ['OSTLER_SOCKET'])
listener.listen()
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ['NOTIFY_SOCKET']
notify.sendto(b'READY=1', address.replace('@', '\\0', 1))
signal.sigwait([signal.SIGTERM])
";

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

#[test]
fn a_python_pool_runs_and_serves_on_its_own_socket() {
    let (dir, file) = folder("[pool.p]\npython = \"worker.py\"\nworkers = 2\n");
    write(dir.path(), "worker.py", WORKER);
    let mut up = Up::of(&file);
    let ready = up.event("worker.ready");
    let socket = ready["socket"].as_str().expect("a socket");
    std::os::unix::net::UnixStream::connect(socket).unwrap();
    up.running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(up.running.ended(), Some(0));
}

#[test]
fn a_python_pool_without_its_environment_ends_before_anything_starts() {
    let (dir, file) = folder("[pool.p]\npython = \"worker.py\"\nvenv = \"env\"\n");
    write(dir.path(), "worker.py", WORKER);
    std::fs::create_dir(dir.path().join("env")).unwrap();
    let (status, _, stderr) = run(&["up", utf8(&file)]);
    assert_eq!(status, Some(3), "{stderr}");
    assert!(stderr.contains("pool p: "), "{stderr}");
    assert!(
        stderr.contains("is no complete virtual environment, pyvenv.cfg is missing"),
        "{stderr}"
    );
}

/// Two checkouts with the same requirements share an environment, and a folder in which pip fails
/// has its output, line by line.
#[test]
fn the_same_requirements_are_one_environment_wherever_they_are() {
    let cache = tempfile::tempdir().unwrap();
    let checkout = |requirements: &str| {
        let (dir, file) = folder("[pool.p]\npython = \"worker.py\"\nrequirements = \"requirements.txt\"\n");
        write(dir.path(), "worker.py", "import json\n");
        write(dir.path(), "requirements.txt", requirements);
        (dir, file)
    };
    let env = [("XDG_CACHE_HOME", utf8(cache.path()))];
    for requirements in ["# nothing\n", "# nothing\n"] {
        let (_dir, file) = checkout(requirements);
        let (status, stdout, stderr) = run_with(&["check", "--preflight", utf8(&file)], &env);
        assert_eq!(status, Some(0), "{stdout}{stderr}");
    }
    let made = || {
        let entries = std::fs::read_dir(cache.path().join("ostler/venvs")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    assert_eq!(made(), 1);

    let (_dir, file) = checkout("--no-index\nno-such-package-of-ours\n");
    let (status, _, stderr) = run_with(&["up", utf8(&file)], &env);
    assert_eq!(status, Some(3), "{stderr}");
    assert!(stderr.contains("pip install failed: exit status: 1\n    "), "{stderr}");
    let (_, stdout, _) = run_with(&["doctor", utf8(&file)], &env);
    assert!(stdout.contains("pip install failed: exit status: 1\n "), "{stdout}");
    assert_eq!(made(), 2, "the other one is half made");
}

/// The folder's name would clear the terminal, and its bell would ring.
#[test]
fn what_is_being_made_is_said_without_the_control_characters_of_its_path() {
    let parent = tempfile::tempdir().unwrap();
    let cache = parent.path().join("\x1b[2Jca\x07che");
    let (dir, file) = folder("[pool.p]\npython = \"worker.py\"\nrequirements = \"requirements.txt\"\n");
    write(dir.path(), "worker.py", "import json\n");
    write(dir.path(), "requirements.txt", "# nothing\n");
    let (_, stdout, stderr) = run_with(&["doctor", utf8(&file)], &[("XDG_CACHE_HOME", utf8(&cache))]);
    assert!(stderr.contains("\\x1b[2Jca\\x07che/ostler/venvs/"), "{stderr:?}");
    for text in [stdout, stderr] {
        assert!(!text.contains(['\x1b', '\x07']), "{text:?}");
    }
}

#[test]
fn preflight_says_what_is_missing_and_how_to_install_it() {
    let (dir, file) = folder(
        "[pool.preset]\npython = \"worker.py\"\n[pool.command]\ncommand = [\"python3\", \"-u\", \"sound.py\"]\n\
         [pool.other]\ncommand = [\"sleep\", \"1\"]\n",
    );
    write(
        dir.path(),
        "worker.py",
        "import json\nimport yaml_of_ours.x\nopen('served', 'w')\n",
    );
    write(dir.path(), "sound.py", "import json\n");
    let (status, stdout, stderr) = run(&["check", "--preflight", utf8(&file)]);
    assert_eq!(status, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("# pool command: Python 3."), "{stdout}");
    assert!(
        stdout.contains("#   line 2: import yaml_of_ours.x: ModuleNotFoundError: "),
        "{stdout}"
    );
    assert!(stdout.contains("-m pip install yaml_of_ours\n"), "{stdout}");
    assert!(!stdout.contains("# pool other"), "{stdout}");
    assert!(!dir.path().join("served").exists(), "the worker itself did not run");

    let (_, stdout, _) = run(&["doctor", "--json", utf8(&file)]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let levels: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["check"] == "python")
        .map(|finding| finding["level"].as_str().unwrap())
        .collect();
    assert_eq!(levels, ["holds", "broken"], "{stdout}");

    write(dir.path(), "worker.py", "import json\n");
    let (status, stdout, stderr) = run(&["check", "--preflight", utf8(&file)]);
    assert_eq!(status, Some(0), "{stdout}{stderr}");
}
