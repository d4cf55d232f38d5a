//! A slot's cgroup: workers start in it, and it is killed with the tree.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use ostler_os::guardian::{GuardianEvent, SpawnRequest};

use crate::support::{Bench, alive, line, pids, shell, with_output};

/// A cgroup for the test, or `None` if this machine does not allow one.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there");
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))?
            .split(' ')
            .nth(4)?;
        let own = fs::read_to_string("/proc/self/cgroup").expect("there");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let path = PathBuf::from(mount)
            .join(own)
            .join(format!("ostler-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        path.join("cgroup.kill").exists().then_some(Self(path))
    }

    fn open(&self) -> Option<OwnedFd> {
        Some(File::open(&self.0).expect("there").into())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).expect("removing the empty cgroup");
    }
}

const SKIPPED: &str = "skipped: no cgroup v2 that this user may write";

/// Starts an incarnation in the cgroup and waits for its output. Returns whether it is inside, and
/// the output.
async fn start_in(
    bench: &mut Bench,
    cgroup: &Cgroup,
    incarnation: u64,
    mut spawn_request: SpawnRequest,
) -> (bool, String) {
    spawn_request.cgroup = cgroup.open();
    let output = with_output(&mut spawn_request);
    bench
        .guardian
        .spawn(0, incarnation, spawn_request)
        .expect("queuing the request");
    let (inside, worker) = match bench.next().await {
        GuardianEvent::Spawned { in_cgroup, worker, .. } => (in_cgroup, worker.pid),
        other => panic!("{other:?}"),
    };
    let (text, _output) = line(output).await;
    let groups = fs::read_to_string(format!("/proc/{worker}/cgroup")).expect("worker is running");
    assert_eq!(groups.contains("ostler-test-"), inside, "{groups}");
    (inside, text)
}

#[tokio::test]
async fn worker_starts_in_its_cgroup_and_its_tree_dies_with_it() {
    let Some(mut cgroup) = Cgroup::new("born-0") else {
        return eprintln!("{SKIPPED}");
    };
    let mut bench = Bench::launch().await;
    for incarnation in 1..=10 {
        let spawn_request = shell("setsid sh -c 'sleep 1000 & echo $$ $!; wait' & wait");
        let (inside, text) = start_in(&mut bench, &cgroup, incarnation, spawn_request).await;
        assert!(inside);
        bench.kill(0, incarnation);
        let (_, killed, how) = bench.gone(0, incarnation).await;
        assert!(killed >= 2, "{how:?} {killed}");
        assert!(pids(&text).iter().all(|pid| !alive(*pid)));
        assert!(
            fs::read_to_string(cgroup.0.join("cgroup.events"))
                .expect("there")
                .contains("populated 0")
        );
        if how.cgroup {
            cgroup = Cgroup::new(&format!("born-{incarnation}")).expect("another");
        }
    }
    bench.quit().await;
}

/// Each generation forks the next one, leaves its session and exits, so only the cgroup can kill
/// them all at once.
const RUNNERS: &str = "import os, signal
for _ in range(4):
    if os.fork() == 0:
        while True:
            if os.fork(): os._exit(0)
            os.setsid()
print('ready', flush=True)
signal.pause()";

#[tokio::test]
async fn cgroup_that_was_killed_is_not_reused() {
    if Cgroup::new("probe").is_none() {
        return eprintln!("{SKIPPED}");
    }
    let mut bench = Bench::launch().await;
    let mut incarnation = 0;
    let spent = loop {
        incarnation += 1;
        assert!(incarnation <= 50, "the cgroup's kill was never needed");
        let cgroup = Cgroup::new(&format!("spent-{incarnation}")).expect("another");
        assert!(
            start_in(&mut bench, &cgroup, incarnation, crate::support::python(RUNNERS))
                .await
                .0
        );
        bench.kill(0, incarnation);
        if bench.gone(0, incarnation).await.2.cgroup {
            break cgroup;
        }
    };
    let fresh = Cgroup::new("fresh").expect("another");
    for (cgroup, enters) in [(&spent, false), (&fresh, true)] {
        incarnation += 1;
        let (inside, _) = start_in(&mut bench, cgroup, incarnation, shell("echo; sleep 1000")).await;
        assert_eq!(inside, enters, "processes cloned into a killed cgroup must not survive");
        bench.kill(0, incarnation);
        bench.gone(0, incarnation).await;
    }
    bench.quit().await;
}

#[tokio::test]
async fn members_of_the_cgroup_that_are_not_descendants_are_killed_too() {
    let Some(cgroup) = Cgroup::new("moved") else {
        return eprintln!("{SKIPPED}");
    };
    let mut bench = Bench::launch().await;
    let mut member = Command::new("sleep").arg("1000").spawn().expect("starting a process");
    fs::write(cgroup.0.join("cgroup.procs"), member.id().to_string()).expect("moving it into the cgroup");
    let mut spawn_request = shell("exit 0");
    spawn_request.cgroup = cgroup.open();
    bench.start(0, 1, spawn_request).await;
    let (status, _, how) = bench.gone(0, 1).await;
    assert!(status.success() && how.cgroup && how.cgroup_populated, "{how:?}");
    assert!(!member.wait().expect("reaping it").success());
    bench.quit().await;
}

#[tokio::test]
async fn cgroup_that_cannot_be_entered_is_reported_and_stops_nothing() {
    let mut bench = Bench::launch().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut spawn_request = shell("exit 2");
    spawn_request.cgroup = Some(File::open(directory.path()).expect("opening the directory").into());
    bench.guardian.spawn(0, 1, spawn_request).expect("queuing the request");
    assert!(matches!(
        bench.next().await,
        GuardianEvent::Spawned { in_cgroup: false, .. }
    ));
    assert_eq!(bench.gone(0, 1).await.0.code(), Some(2));
    bench.quit().await;
}
