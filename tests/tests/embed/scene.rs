//! An instance in its own directory, its events, and checks that nothing of it is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler::{Event, EventItem, EventKind, EventStream, Ostler, OstlerBuilder, PoolSpec, StopReport};
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::{SOON, program, run_directories, survivors, tagged_directory};

/// The worst kind of worker: three processes that ignore TERM, two of them in sessions of their
/// own, and one of those with an empty environment.
pub(crate) const WORST: &str = "ignore-term+daemon+daemon-naked+sleep";

/// The state directory of an instance, and the tag of its processes.
pub(crate) struct Place {
    directory: TestDirectory,
    pub(crate) tag: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (directory, tag) = tagged_directory();
        Self { directory, tag }
    }

    /// The app is named after the directory, so that its guardians can be distinguished from those
    /// of other tests.
    pub(crate) fn builder(&self) -> OstlerBuilder {
        Ostler::builder(self.app()).state_dir(self.state())
    }

    pub(crate) fn app(&self) -> String {
        format!("test{}", self.tag.trim_start_matches('.'))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A pool of test workers with these modes and a short grace.
    pub(crate) fn pool(&self, name: &str, modes: &str) -> PoolSpec {
        let worker = program("ostler-test-worker").display().to_string();
        let mut spec = PoolSpec::new(name, [worker.as_str(), modes, "{port}", &self.tag]);
        spec.worker.output.log = false;
        spec.worker.stop.grace = Duration::from_millis(50);
        spec
    }

    /// All processes of the instance: workers and their descendants, guardians and sitters.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mut found = survivors(&self.tag);
        found.extend(survivors(&self.app()));
        found
    }

    /// Waits until every process has ended. Needs no runtime.
    pub(crate) fn assert_gone(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left after {within:?}: {left:?}");
            std::thread::yield_now();
        }
    }

    /// Waits until there are this many worker processes.
    pub(crate) fn await_processes(&self, count: usize) {
        let deadline = Instant::now() + SOON;
        let mut before = Vec::new();
        loop {
            let found = survivors(&self.tag);
            // Twice the same: one of the first look may be on its way to become a daemon.
            if found.len() == count && found == before {
                return;
            }
            assert!(Instant::now() < deadline, "found {found:?}");
            before = found;
            std::thread::yield_now();
        }
    }

    /// Asserts that no process and no run directory is left.
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_gone(Duration::ZERO);
        assert_no_runs(&self.state());
    }
}

pub(crate) fn assert_no_runs(state: &Path) {
    let runs = run_directories(state);
    assert!(runs.is_empty(), "run directories left: {runs:?}");
}

/// The events of an instance read so far.
pub(crate) struct Seen {
    stream: EventStream,
    pub(crate) events: Vec<Arc<Event>>,
}

impl Seen {
    pub(crate) fn new(stream: EventStream) -> Self {
        Self {
            stream,
            events: Vec::new(),
        }
    }

    /// Reads events until one matches.
    pub(crate) async fn wait_for(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Arc<Event> {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let next = tokio::time::timeout_at(deadline, self.stream.recv()).await;
            let Ok(Some(EventItem::Event(event))) = next else {
                panic!("no {what}: {next:?}; seen: {}", self.story());
            };
            self.events.push(Arc::clone(&event));
            if fits(&event) {
                return event;
            }
        }
    }

    pub(crate) async fn kind(&mut self, kind: EventKind) -> Arc<Event> {
        self.wait_for(kind.name(), |event| event.kind == kind).await
    }

    pub(crate) async fn until_run_stopped(&mut self) {
        self.kind(EventKind::RunStopped).await;
    }

    pub(crate) fn count(&self, kind: EventKind) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }

    pub(crate) fn story(&self) -> String {
        let line = |event: &Arc<Event>| {
            let worker = event.worker.as_ref().map(ToString::to_string).unwrap_or_default();
            let incarnation = event.incarnation.map(|i| i.0).unwrap_or_default();
            let (kind, facts) = (event.kind.name(), &event.facts);
            format!(
                "\n  {kind} {worker}#{incarnation} {:?} {:?}",
                facts.cause, facts.message
            )
        };
        self.events.iter().map(line).collect()
    }

    /// Asserts that every reserved incarnation was released exactly once.
    pub(crate) fn assert_balanced(&self) {
        let of = |kind| {
            let events = self.events.iter().filter(move |event| event.kind == kind);
            let mut names: Vec<String> = events
                .map(|event| format!("{:?} {:?}", event.worker, event.incarnation))
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            of(EventKind::WorkerReserved),
            of(EventKind::WorkerReleased),
            "{}",
            self.story()
        );
    }
}

/// Starts an instance and collects its events from the first on.
pub(crate) async fn start(place: &Place) -> (Ostler, Seen) {
    let builder = place.builder();
    let seen = Seen::new(builder.subscribe());
    (in_time(builder.start()).await.unwrap(), seen)
}

/// Stops the instance and asserts that nothing is left.
pub(crate) async fn stop(place: &Place, ostler: Ostler, seen: &mut Seen) -> StopReport {
    let report = in_time(ostler.stop()).await.expect("clean stop");
    seen.until_run_stopped().await;
    seen.assert_balanced();
    assert_eq!(seen.count(EventKind::CleanupSuccess), 1, "{}", seen.story());
    place.assert_nothing_left();
    report
}

/// Fails if the future hangs.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("timeout")
}
