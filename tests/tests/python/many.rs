//! Many workers: each answers, and nothing of any is left.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use ostler::{PoolSpec, Stdin};
use ostler_python::Python;
use ostler_serve::Lease;

use crate::scene::{Scene, everything, of_this_checkout, over_grpc, repository};

const WORKER: &str = "import os\nfrom ostler_worker import serve\nserve.method(os.getpid, name='pid')\nserve.run()\n";
/// Set in the process that is the host of the workers.
const HOST: &str = "OSTLER_TEST_HOST_OF_MANY";
/// For the start of all, with other tests at the same time.
const LONG: Duration = Duration::from_secs(240);

/// Whether this process is the host. Else the test is run once more as one: alone in its process,
/// where it can have no more descriptors than this.
fn is_host(test: &str, descriptors: &str) -> bool {
    if std::env::var_os(HOST).is_some() {
        return true;
    }
    let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--test-threads=1"])
        .env(HOST, "1")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// So many workers start, answer while all the others are held, and stop.
fn all_answer(workers: u32, transport: impl FnOnce(Python) -> Option<Python>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("worker.py");
    std::fs::write(&file, WORKER).expect("it is written");
    let python = of_this_checkout(Python::new(file).workers(workers).start_timeout(LONG));
    let Some(python) = transport(python) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let scene = Scene::start_within(LONG, python, |spec| spec.max_starting = 8).await;
        let leases = all_leased(&scene, workers).await;
        let calls = leases.iter().map(|lease| lease.call::<_, u32>("pid", &()));
        let answers = futures_util::future::join_all(calls).await;
        let answers: BTreeSet<u32> = answers.into_iter().map(|pid| pid.expect("an answer")).collect();
        drop(leases);
        assert_eq!(answers, BTreeSet::from_iter(scene.pids()));
        assert_eq!(answers.len(), workers as usize, "each has answered");
        scene.end().await;
    });
}

async fn all_leased(scene: &Scene, workers: u32) -> Vec<Lease> {
    let leases = (0..workers).map(|_| scene.pool.checkout());
    futures_util::future::try_join_all(leases).await.expect("a worker each")
}

#[test]
fn a_hundred_workers_over_stdio_fit_under_a_limit_of_1024_descriptors() {
    if is_host(
        "many::a_hundred_workers_over_stdio_fit_under_a_limit_of_1024_descriptors",
        "1024",
    ) {
        all_answer(100, Some);
    }
}

#[test]
fn a_hundred_workers_over_grpc_fit_under_a_limit_of_1024_descriptors() {
    // What is skipped is said here, where the output of the test is read.
    if over_grpc(everything()).is_some()
        && is_host(
            "many::a_hundred_workers_over_grpc_fit_under_a_limit_of_1024_descriptors",
            "1024",
        )
    {
        all_answer(100, over_grpc);
    }
}

/// Without the SDK. In the long form only, for its time and memory.
#[test]
fn a_thousand_workers_of_five_lines_start_answer_and_stop() {
    let name = "many::a_thousand_workers_of_five_lines_start_answer_and_stop";
    if !ostler_tests::world::long_form() || !is_host(name, "$(ulimit -Hn)") {
        return;
    }
    let file = repository().join("tests/benches/python/five_lines.py");
    let of_five_lines = |spec: &mut PoolSpec| {
        *spec = PoolSpec::new("py", ["python3", "-SE"].map(str::to_owned));
        spec.worker.command.push(file.display().to_string());
        spec.worker.stdin = Stdin::Pipe;
        spec.workers = 1000;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let scene = Scene::start_within(LONG, Python::new(&file), of_five_lines).await;
        let leases = all_leased(&scene, 1000).await;
        let calls = leases.iter().zip(0..).map(|(lease, number)| async move {
            let answer = lease.json_lines::<u32, u32>().call(&number).await;
            assert_eq!(answer.expect("an answer"), number);
        });
        futures_util::future::join_all(calls).await;
        drop(leases);
        scene.end().await;
    });
}
