//! Virtual environments whose making is cut short: pip and all that it has started end, and the
//! next start makes the environment again. With real Python, pip and uv, and no network.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler::testing::TestBed;
use ostler_os::identity::ProcessHandle;
use ostler_python::Python;
use ostler_tests::{SOON, TestDirectory, Up};

use crate::scene::{everything, of_this_checkout, with_packages};

/// How long an environment may take on a machine that is busy with other tests.
const MADE: Duration = Duration::from_secs(120);

/// Builds the package `slow_of_ours` when the file `go` is there, and never returns without it. It
/// ignores INT and has a child in a session of its own. It needs no other package.
const BACKEND: &str = r#"
import os, signal, subprocess, sys, time, zipfile
PROJECT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
INFO = "slow_of_ours-1.0.dist-info/"
def build_wheel(folder, config_settings=None, metadata_directory=None):
    if not os.path.exists(os.path.join(PROJECT, "go")):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", PROJECT], start_new_session=True)
        pids = os.path.join(PROJECT, "pids")
        with open(pids + ".new", "w") as file:
            file.write(f"{os.getppid()} {os.getpid()} {child.pid}")
        os.rename(pids + ".new", pids)
        time.sleep(600)
    name = "slow_of_ours-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("slow_of_ours.py", "VALUE = 1\n")
        wheel.writestr(INFO + "METADATA", "Metadata-Version: 2.1\nName: slow-of-ours\nVersion: 1.0\n")
        wheel.writestr(INFO + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(INFO + "RECORD", "")
    return name
"#;

const PYPROJECT: &str = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\
    [project]\nname = \"slow-of-ours\"\nversion = \"1.0\"\n";

/// Serves nothing; it is ready when it has imported the package.
const WORKER: &str = "\
import os, signal, socket
import slow_of_ours
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ['OSTLER_SOCKET'])
listener.listen()
notify.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'].replace('@', '\\0', 1))
signal.sigwait([signal.SIGTERM])
";

/// A worker, its requirements, and the package that they name. Ends what is left in it on drop.
struct Project(TestDirectory);

impl Project {
    fn new(worker: &str) -> Self {
        let project = Self(TestDirectory::new());
        std::fs::create_dir(project.path("package")).expect("a folder");
        for (name, text) in [
            ("worker.py", worker),
            ("requirements.txt", "./package\n"),
            ("package/backend.py", BACKEND),
            ("package/pyproject.toml", PYPROJECT),
        ] {
            std::fs::write(project.path(name), text).expect("it is written");
        }
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn toml(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "[pool.p]\npython = {:?}\nrequirements = {:?}\nvenv = {:?}\n",
            path("worker.py"),
            path("requirements.txt"),
            path("env")
        )
    }

    /// The processes of a build, if one is under way: the installer, the build and its child.
    fn building(&self) -> Option<Vec<ProcessHandle>> {
        let pids = std::fs::read_to_string(self.path("pids")).ok()?;
        std::fs::remove_file(self.path("pids")).expect("it is there");
        let open = |pid: &str| ProcessHandle::open(pid.parse().expect("a pid")).expect("/proc can be read");
        Some(pids.split(' ').map(|pid| open(pid).expect("it runs")).collect())
    }

    /// Lets builds succeed from now on.
    fn go(&self) {
        std::fs::write(self.path("go"), "").expect("it is written");
    }
}

fn all_end(processes: &[ProcessHandle]) {
    let deadline = Instant::now() + SOON;
    for (process, what) in processes
        .iter()
        .zip(["the installer", "the build", "the build's child"])
    {
        let ended = process.wait_until(deadline).expect("it can be waited for");
        assert!(ended, "{what} has outlived the program");
    }
}

/// Ends `ostler up` by each signal in the middle of a build; then a start succeeds. Returns what
/// that one printed.
fn interrupted_and_made(project: &Project, signals: &[Signal], env: &[(&str, &str)]) -> String {
    let start = || Up::start_with(|_| project.toml(), |command| _ = command.envs(env.iter().copied()));
    for signal in signals {
        let mut up = start();
        let deadline = Instant::now() + MADE;
        let processes = loop {
            if let Some(processes) = project.building() {
                break processes;
            }
            assert!(!up.has_ended(), "{:?}", up.end(SOON));
            assert!(Instant::now() < deadline, "no build has begun");
            std::thread::sleep(Duration::from_millis(10));
        };
        up.signal(*signal);
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.signal(), Some(*signal as i32), "{stderr}");
        all_end(&processes);
    }
    project.go();
    let mut up = start();
    up.wait_for("a ready worker", MADE, |event| event["event"] == "worker.ready");
    up.stop_cleanly()
}

#[test]
fn an_interrupted_or_killed_start_leaves_no_pip_and_no_half_made_environment() {
    let project = Project::new(WORKER);
    let said = interrupted_and_made(&project, &[Signal::SIGINT, Signal::SIGKILL], &[]);
    assert!(said.contains(": complete"), "it was made again: {said}");
    // Only now it is taken for a complete one.
    let mut up = Up::start(|_| project.toml());
    up.wait_for("a ready worker", MADE, |event| event["event"] == "worker.ready");
    let said = up.stop_cleanly();
    assert!(!said.contains("making a virtual environment"), "{said}");
}

#[test]
fn uv_makes_environments_where_it_is_in_the_path() {
    let Some(python) = with_packages(everything()) else {
        return;
    };
    let interpreter = python.prepare(&mut |_| {}).expect("it is there");
    let project = Project::new(WORKER);
    let bin = project.path("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::os::unix::fs::symlink(interpreter.with_file_name("uv"), bin.join("uv")).expect("a link");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    let cache = project.path("cache").display().to_string();
    let env = [("PATH", path.as_str()), ("UV_CACHE_DIR", &cache), ("UV_OFFLINE", "1")];
    let said = interrupted_and_made(&project, &[Signal::SIGINT], &env);
    assert!(said.contains(": uv pip install -r "), "{said}");
    let python = project.path("env/bin/python");
    assert!(!is_link(&python), "a copy, and no link");
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).expect("it is there").is_symlink()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_dropped_ends_pip_and_the_next_one_makes_the_environment() {
    let mut bed = TestBed::new();
    bed.set_deadline(MADE);
    let worker = "from ostler_worker import serve\nimport slow_of_ours\n\
                  @serve.method\ndef value(): return slow_of_ours.VALUE\nserve.run()\n";
    let project = Project::new(worker);
    let python = of_this_checkout(Python::new(project.path("worker.py")))
        .requirements(project.path("requirements.txt"))
        .venv(project.path("env"));
    let ostler = bed.builder().start().await.expect("it starts");
    let building = async {
        loop {
            match project.building() {
                Some(processes) => break processes,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let processes = tokio::select! {
        started = python.clone().start(&ostler, "p") => panic!("the build never ends: {started:?}"),
        processes = bed.within("a build", building) => processes,
    };
    tokio::task::spawn_blocking(move || all_end(&processes))
        .await
        .expect("all end");
    project.go();
    let pool = bed.within("the start", python.start(&ostler, "p")).await;
    let pool = pool.expect("it is made again");
    let value: u8 = pool.call("value", &()).await.expect("an answer");
    assert_eq!(value, 1);
    ostler.stop().await.expect("it stops");
    drop(pool);
    bed.finish().await;
}
