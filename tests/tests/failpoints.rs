//! Crashes at every step: host, guardian, sitter and the forked worker kill themselves at each
//! failpoint in turn (ADR 0014). After the next start nothing of the dead run may be left, and
//! nothing may have been started twice.
//!
//! Run with `cargo xtask test`, or with this crate's feature `failpoints`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_failpoint::{FILE, POINT, Point};
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::{SOON, Up, pid_of, run_directories, send, survivors, worker};

/// The number of concurrent scenarios. A scenario mostly waits.
const AT_A_TIME: usize = 4;
/// The number of workers in a scenario.
const WORKERS: usize = 3;

/// Three workers that leave all kinds of processes. One reports its port, so that its record
/// changes.
fn pools(tag: &str) -> String {
    let keys = "stop = { grace = \"100ms\" }\nintensity = 50\n";
    let deaf = worker("sign+ignore-term+daemon+daemon-naked+child+sleep", tag);
    let web = worker("sign+notify-port", tag);
    format!(
        "[pool.deaf]\ncommand = {deaf}\nworkers = 2\n{keys}\
         [pool.web]\ncommand = {web}\nport = \"reported\"\nready = {{ notify = true }}\n{keys}"
    )
}

/// The scenario around one failpoint.
struct Scene {
    point: Point,
    directory: TestDirectory,
    tags: Vec<String>,
}

impl Scene {
    fn new(point: Point) -> Self {
        let scene = Self {
            point,
            directory: TestDirectory::new(),
            tags: Vec::new(),
        };
        // The failpoint's file, which a process that reaches it writes to, and the workers'
        // signatures.
        for file in [scene.reached(), scene.signatures()] {
            std::fs::write(file, "").unwrap();
        }
        scene
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn reached(&self) -> PathBuf {
        self.directory.path().join("reached")
    }

    fn signatures(&self) -> PathBuf {
        self.directory.path().join("signatures")
    }

    fn start(&mut self, armed: bool) -> Up {
        let (reached, signatures, point) = (self.reached(), self.signatures(), self.point);
        let up = Up::start_in(&self.state(), pools, |command| {
            command.env("SIGNATURES", signatures);
            if armed {
                command.env(POINT, point.name()).env(FILE, reached);
            }
        });
        self.tags.push(up.tag.clone());
        up
    }

    fn survivors(&self) -> Vec<(i32, String)> {
        self.tags.iter().flat_map(|tag| survivors(tag)).collect()
    }

    fn play(mut self) {
        self.start_and_kill();
        self.sweep_and_stop();
        self.sweep_and_leave_nothing();
        let reached = std::fs::read_to_string(self.reached()).unwrap();
        assert_eq!(reached.trim(), self.point.name(), "the failpoint was not reached");
        assert_nothing_twice(&self.signatures());
    }

    /// A run that starts, loses a worker and is killed, unless it ends before.
    fn start_and_kill(&mut self) {
        let mut up = self.start(true);
        if is_at_full_strength(&mut up) {
            let first = |event: &&serde_json::Value| event["event"] == "worker.ready" && event["worker"] == "deaf/0";
            let latest = up.seen.iter().rfind(first).map(pid_of).expect("a ready worker");
            send(latest, Signal::SIGKILL);
            let replaced = |up: &Up| up.seen.iter().rfind(first).map(pid_of) != Some(latest);
            await_either(&mut up, |up| replaced(up) && up.alive_workers() == WORKERS);
        }
        up.signal(Signal::SIGKILL);
        up.end(SOON);
    }

    /// The next run, which sweeps and stops, unless it ends before.
    fn sweep_and_stop(&mut self) {
        let mut up = self.start(true);
        is_at_full_strength(&mut up);
        up.signal(Signal::SIGTERM);
        up.end(SOON);
    }

    /// A third run without a failpoint: its sweep removes what the others left, and it leaves
    /// nothing itself.
    fn sweep_and_leave_nothing(&mut self) {
        let before = self.tags.clone();
        let mut up = self.start(false);
        let swept = up.wait_for_event("sweep.done");
        let left: Vec<_> = before.iter().flat_map(|tag| survivors(tag)).collect();
        assert!(left.is_empty(), "left by the sweep: {left:?}: {swept}");
        assert_eq!(
            run_directories(&self.state()).len(),
            1,
            "only its own directory: {swept}"
        );
        assert!(is_at_full_strength(&mut up), "{}", up.story());
        up.stop_cleanly();
        assert_eq!(self.survivors(), []);
        let app: Vec<_> = std::fs::read_dir(self.state().join("test")).unwrap().collect();
        assert!(app.is_empty(), "directories left: {app:?}");
    }
}

/// Waits until every worker is ready or the host has ended. Returns whether it is alive.
fn is_at_full_strength(up: &mut Up) -> bool {
    await_either(up, |up| up.alive_workers() == WORKERS)
}

/// Waits until the condition holds or the host has ended. Returns whether the condition holds.
fn await_either(up: &mut Up, so: impl Fn(&Up) -> bool) -> bool {
    let deadline = Instant::now() + SOON;
    loop {
        if so(up) {
            return true;
        }
        if up.has_ended() {
            return false;
        }
        assert!(Instant::now() < deadline, "neither condition nor end: {}", up.story());
        up.poll(Duration::from_millis(20), |_| true);
    }
}

fn assert_nothing_twice(signatures: &Path) {
    let text = std::fs::read_to_string(signatures).unwrap();
    let mut seen = HashSet::new();
    for line in text.lines() {
        assert!(seen.insert(line), "{line} was started twice: {text}");
    }
    assert!(seen.len() >= WORKERS, "{text}");
}

#[test]
fn crash_at_any_failpoint_leaves_nothing() {
    let mut points: Vec<Point> = Point::ALL.to_vec();
    if !has_cgroups() {
        println!("no cgroups on this machine: their failpoints are skipped");
        points.retain(|point| *point != Point::CgroupMade);
    }
    let todo = Mutex::new(points.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(point) = next(&todo) {
                    if let Err(panic) = std::panic::catch_unwind(|| Scene::new(point).play()) {
                        let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        failed.lock().unwrap().push(format!("{}: {what}", point.name()));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} points:\n{}", failed.len(), failed.join("\n"));
}

fn next(todo: &Mutex<std::vec::IntoIter<Point>>) -> Option<Point> {
    todo.lock().unwrap().next()
}

fn has_cgroups() -> bool {
    ostler_os::cgroup::Site::find(ostler_os::cgroup::CgroupUse::Auto).is_ok()
}
