//! An instance with a pool that is called, and the proof that nothing of it is left.

use std::path::PathBuf;
use std::time::Duration;

use ostler::{Backoff, Ostler, Pool, PoolSpec, Restart};
use ostler_serve::{ServeSpec, ServingPool};
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::{SOON, program, survivors, tagged_directory};
use serde_json::{Value, json};

/// An instance in a directory of its own, with one pool.
pub(crate) struct Scene {
    directory: TestDirectory,
    tag: String,
    ostler: Ostler,
    pub(crate) pool: Pool,
    pub(crate) serving: ServingPool,
}

impl Scene {
    /// A pool of so many workers that speak this protocol; `change` has the last word.
    pub(crate) async fn start(
        protocol: &str,
        workers: u32,
        serve: ServeSpec,
        change: impl FnOnce(&mut PoolSpec),
    ) -> Self {
        let (directory, name) = tagged_directory();
        let tag = name.trim_start_matches('.').to_owned();
        let record = directory.path().join("record");
        let worker = program("ostler-serve-worker").display().to_string();
        let mut spec = PoolSpec::new("serve", [&worker, protocol, &record.display().to_string(), &tag]);
        spec.workers = workers;
        spec.restart = Restart::Permanent;
        spec.intensity = 10_000;
        spec.backoff = None::<Backoff>;
        spec.worker.stop.grace = Duration::from_millis(200);
        change(&mut spec);
        let ostler = Ostler::builder(format!("test{tag}"))
            .state_dir(directory.path().join("state"))
            .start()
            .await
            .expect("it starts");
        let pool = ostler.add_pool(spec).await.expect("the pool starts");
        pool.wait_ready().await.expect("it becomes ready");
        let serving = ServingPool::new(pool.clone(), serve);
        Self {
            directory,
            tag,
            ostler,
            pool,
            serving,
        }
    }

    /// A pool of one worker that never becomes ready. Returns what it failed of, and the report of
    /// the stop.
    pub(crate) async fn never_ready(
        protocol: &str,
        change: impl FnOnce(&mut PoolSpec),
    ) -> (ostler::Failure, ostler::StopReport) {
        let directory = tempfile::tempdir().expect("a directory");
        let record = directory.path().join("record").display().to_string();
        let worker = program("ostler-serve-worker").display().to_string();
        let mut spec = PoolSpec::new("serve", [&worker, protocol, &record, "never"]);
        change(&mut spec);
        let builder = Ostler::builder("never").state_dir(directory.path().join("state"));
        let ostler = builder.start().await.expect("it starts");
        let pool = ostler.add_pool(spec).await.expect("the pool starts");
        pool.wait_ready().await.expect_err("it never becomes ready");
        let failure = pool.workers()[0].last_failure.clone().expect("a failure");
        let report = ostler.stop().await.expect("it stops");
        (failure, report)
    }

    /// Another pool of the instance, which needs not become ready: one worker of this command, or
    /// of the usual one with this protocol.
    pub(crate) async fn beside(&self, name: &str, serve: ServeSpec, command: &[&str]) -> ServingPool {
        let mut spec = PoolSpec::new(name, command.iter().copied().chain([self.tag.as_str()]));
        spec.worker.stdin = ostler::Stdin::Pipe;
        spec.restart = Restart::Permanent;
        spec.intensity = 10_000;
        let pool = self.ostler.add_pool(spec).await.expect("the pool is added");
        ServingPool::new(pool, serve)
    }

    /// The same with the usual worker.
    pub(crate) async fn beside_worker(&self, name: &str, protocol: &str, serve: ServeSpec) -> ServingPool {
        let (worker, record) = (program("ostler-serve-worker"), self.record());
        let command = [worker.to_str(), Some(protocol), record.to_str()].map(|part| part.expect("text"));
        self.beside(name, serve, &command).await
    }

    /// The keys that the workers have written down, in the order of their execution.
    pub(crate) fn executed(&self) -> Vec<u64> {
        let record = std::fs::read_to_string(self.record()).unwrap_or_default();
        record.lines().map(|line| line.parse().expect("a key")).collect()
    }

    /// The events of the instance from now on.
    pub(crate) fn events(&self) -> ostler::EventStream {
        self.ostler.subscribe()
    }

    fn record(&self) -> PathBuf {
        self.directory.path().join("record")
    }

    /// The processes of the workers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.pool.workers().iter().filter_map(|worker| worker.pid).collect()
    }

    /// Kills the guardian: another one is started, and its workers with it. False: there is none at
    /// this moment.
    pub(crate) fn kill_guardian(&self) -> bool {
        let guardian = self.ostler.guardian_pid();
        if let Some(pid) = guardian {
            ostler_tests::send(pid, nix::sys::signal::Signal::SIGKILL);
        }
        guardian.is_some()
    }

    /// Waits until every worker is ready for calls and none is under way.
    pub(crate) async fn at_full_strength(&self) {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            // Its size changes while a worker has a stand-in.
            let (state, size) = (self.serving.state(), self.pool.size());
            if state.usable == size && state.in_flight == 0 && state.queued == 0 {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not at full strength of {size}: {state:?}, {:?}",
                self.pool.workers()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops in order: nothing is left, and the emergency cleaner has found nothing.
    pub(crate) async fn end(self) {
        let report = self.ostler.stop().await.expect("it stops");
        assert!(report.is_success(), "{report}");
        assert_eq!(survivors(&self.tag), [], "processes are left");
    }
}

/// Waits for a state, with a deadline.
pub(crate) async fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !reached() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A request that asks for this, and is written down by its key.
pub(crate) fn request(key: u64, what: &str) -> Value {
    json!({"key": key, "do": what})
}
