//! The surroundings of one test.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostler_telemetry::{Event, EventKind};

use super::fake_worker::FakeWorker;
use super::history::{self, History, Recorder};
use super::real_time;
use crate::remains;
use crate::{Ostler, OstlerBuilder};

/// How long a wait may take before it fails the test: 20 s, enough for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How long a test that has failed waits for the processes of its instances to end.
const FAREWELL: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The surroundings of one test: a temporary state directory, an app name of its own, and the
/// history of every instance that is started in it.
///
/// Call [`TestBed::finish`] at the end of the test: it checks that nothing is left and that
/// nothing unexpected happened. A test that fails for another reason prints the history, too.
///
/// Every wait panics with the history when [`TestBed::deadline`] passes first.
#[derive(Debug)]
pub struct TestBed {
    directory: tempfile::TempDir,
    app: String,
    history: Arc<History>,
    deadline: Duration,
    allowed: BTreeSet<String>,
    /// Events before this one are past.
    start: usize,
    /// The places of later events that were returned.
    taken: BTreeSet<usize>,
    finished: bool,
    /// The history was printed, with the panic of a wait.
    printed: AtomicBool,
}

impl Default for TestBed {
    fn default() -> Self {
        Self::new()
    }
}

impl TestBed {
    /// Makes the surroundings; starts nothing.
    ///
    /// # Panics
    /// When there is no place for a temporary directory.
    pub fn new() -> Self {
        let made = tempfile::Builder::new().prefix("ostler-test-").tempdir();
        let directory = made.unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        let name = directory.path().file_name().unwrap_or_default();
        Self {
            app: name.to_string_lossy().into_owned(),
            directory,
            history: Arc::new(History::new()),
            deadline: DEADLINE,
            allowed: BTreeSet::new(),
            start: 0,
            taken: BTreeSet::new(),
            finished: false,
            printed: AtomicBool::new(false),
        }
    }

    /// Begins an instance in these surroundings, which is started like any other: by itself, linked
    /// under an actor, or as a supervised child. It compares processes and table (the audit) ten
    /// times a second, so that a test sees what disagrees.
    pub fn builder(&self) -> OstlerBuilder {
        self.maker()()
    }

    /// A function that begins such an instance, as often as it is called: for
    /// [`Ostler::child_spec`].
    pub fn maker(&self) -> impl Fn() -> OstlerBuilder + Send + Sync + 'static {
        let (app, state) = (self.app.clone(), self.directory.path().join("state"));
        let history = Arc::clone(&self.history);
        move || {
            Ostler::builder(app.clone())
                .state_dir(&state)
                .audit(Duration::from_millis(100))
                .observer(Recorder(Arc::clone(&history)))
                .under_paused_clock()
        }
    }

    /// The test's temporary directory, which is removed with the test bed.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A worker whose behaviour the test chooses. Its program is in the test's directory.
    ///
    /// # Panics
    /// When the program can't be written or executed there.
    pub fn fake_worker(&self) -> FakeWorker {
        let made = tempfile::Builder::new()
            .prefix("worker-")
            .disable_cleanup(true)
            .tempdir_in(self.directory.path());
        made.and_then(|directory| FakeWorker::install(directory.path()))
            .unwrap_or_else(|error| panic!("the fake worker in {}: {error}", self.directory.path().display()))
    }

    /// How long a wait may take: [`DEADLINE`], or what was set.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Sets how long a wait may take, in real time.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Failures of this subject are expected: a worker, such as `web/0`; a pool with its workers,
    /// such as `web`; or `run` for the instance itself (its guardian, its root).
    pub fn allow_failures(&mut self, subject: impl Into<String>) {
        self.allowed.insert(subject.into());
    }

    /// The next event of this subject and kind: the first since the beginning, or since
    /// [`TestBed::from_now`], that no wait has returned yet. The subject is a worker, such as
    /// `web/0`, a pool, such as `web`, or `run` for the instance itself. Cancel safe.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub async fn event(&mut self, subject: &str, kind: EventKind) -> Arc<Event> {
        let what = format!("{} of {subject}", kind.name());
        self.event_where(&what, |event| event.kind == kind && history::subject(event) == subject)
            .await
    }

    /// The next event that fits, as [`TestBed::event`]; `what` names it for the failure. Cancel
    /// safe.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub async fn event_where(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Arc<Event> {
        let found = real_time::within(self.deadline, self.next(fits)).await;
        let Some((place, event)) = found else {
            self.fail(&format!("no {what} within {:?}", self.deadline));
        };
        self.taken.insert(place);
        event
    }

    async fn next(&self, fits: impl Fn(&Event) -> bool) -> (usize, Arc<Event>) {
        let mut events = self.history.events.subscribe();
        loop {
            events.mark_unchanged();
            let is_new = |place, event: &Event| !self.taken.contains(&place) && fits(event);
            if let Some(found) = self.history.find(self.start, is_new) {
                return found;
            }
            // The sender is in the history.
            let _ = events.changed().await;
        }
    }

    /// Waits return events from now on only.
    pub fn from_now(&mut self) {
        self.start = *self.history.events.borrow();
    }

    /// What `work` comes to; `what` names it for the failure. Cancel safe if `work` is.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub async fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        match real_time::within(self.deadline, work).await {
            Some(result) => result,
            None => self.fail(&format!("{what} took longer than {:?}", self.deadline)),
        }
    }

    /// Everything that has happened so far, one line an event or line of output.
    pub fn history(&self) -> String {
        self.history.story()
    }

    /// Ends the test: waits until every instance has stopped, and checks that each incarnation was
    /// released, that no process and no run's directory is left, and that nothing failed but what
    /// [`TestBed::allow_failures`] names. Dropped, it checks nothing more.
    ///
    /// # Panics
    /// When one of these is not so, with the history.
    pub async fn finish(mut self) {
        let stopped = real_time::within(self.deadline, self.all_stopped()).await;
        let mut complaints = self.history.complaints(&self.allowed);
        if stopped.is_none() {
            let advice = "stop it, or drop its handles, before finish()";
            complaints.insert(0, format!("an instance still runs after {:?}: {advice}", self.deadline));
        }
        complaints.extend(self.left_processes());
        complaints.extend(self.left_directories());
        if !complaints.is_empty() {
            self.fail(&complaints.join("\n"));
        }
        self.finished = true;
    }

    async fn all_stopped(&self) {
        let mut events = self.history.events.subscribe();
        while !self.history.living().is_empty() {
            // The sender is in the history.
            let _ = events.changed().await;
        }
    }

    fn left_processes(&self) -> Vec<String> {
        let host = remains::own_host();
        let runs = self.history.runs();
        let left = runs.into_iter().flat_map(|run| {
            let (found, unseen) = remains::marked(run, host.as_ref());
            let processes = found.into_iter().map(|process| {
                let markers: Vec<&str> = process.markers.iter().map(|(_, worker)| worker.as_str()).collect();
                format!(
                    "a process of {} is left: pid {} ({})",
                    markers.join(", "),
                    process.identity.pid,
                    process.command
                )
            });
            processes.chain(unseen).collect::<Vec<_>>()
        });
        left.collect()
    }

    fn left_directories(&self) -> Vec<String> {
        let app = self.directory.path().join("state").join(&self.app);
        let entries = std::fs::read_dir(app).into_iter().flatten().flatten();
        let runs = entries.filter(|entry| entry.path().join("run.lock").exists());
        runs.map(|run| format!("the directory of a run is left: {}", run.path().display()))
            .collect()
    }

    fn fail(&self, message: &str) -> ! {
        self.printed.store(true, Ordering::Relaxed);
        panic!("{message}\n{}", self.titled_history())
    }

    fn titled_history(&self) -> String {
        format!("history of {}:\n{}", self.app, self.history.story())
    }
}

impl Drop for TestBed {
    /// Waits until the processes are gone, which end with the last handle of their instance, so
    /// that a test that fails leaves none behind.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let until = Instant::now() + FAREWELL;
        while !self.left_processes().is_empty() && Instant::now() < until {
            thread::sleep(LOOK_AGAIN);
        }
        let printed = self.printed.load(Ordering::Relaxed);
        if thread::panicking() && !printed {
            eprintln!("{}", self.titled_history());
        }
        if !thread::panicking() {
            panic!("a TestBed was dropped without finish(): nothing was checked");
        }
    }
}
