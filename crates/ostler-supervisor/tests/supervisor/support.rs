//! An actor with configurable behaviour, and logs that tests can wait on. No test sleeps.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use ostler_supervisor::{
    ChildInfo, ChildSpec, ChildStatus, DynamicSupervisor, Exit, ExitReason, Ignore, Report, Strategy, Supervisor,
    SupervisorOptions,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

/// The limit of every wait.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A growing list that can be waited on.
pub(crate) struct Log<T>(Arc<watch::Sender<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T: Clone + Debug> Log<T> {
    pub(crate) fn new() -> Self {
        Log(Arc::new(watch::channel(Vec::new()).0))
    }

    pub(crate) fn push(&self, line: T) {
        self.0.send_modify(|lines| lines.push(line));
    }

    pub(crate) fn lines(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    pub(crate) fn clear(&self) {
        self.0.send_modify(Vec::clear);
    }

    pub(crate) async fn until(&self, matches: impl Fn(&[T]) -> bool) {
        let mut changes = self.0.subscribe();
        let found = changes.wait_for(|lines| matches(lines));
        if tokio::time::timeout(DEADLINE, found).await.is_err() {
            panic!("timeout; so far: {:#?}", self.lines());
        }
    }
}

/// Fails a test that waits too long.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.expect("timeout")
}

/// The outcome of the start of a [`Subject`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnStart {
    Up,
    Ignore,
    Fail,
    Panic,
    /// Hang until cancelled.
    Hang,
}

/// The reaction of a [`Subject`] to a stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnStop {
    Obey,
    /// Hang until killed.
    Hang,
    Fail,
}

/// A command to a [`Subject`].
pub(crate) enum Command {
    Fail,
    Panic,
    Exit(Exit),
    /// Hang in the handler.
    Hang,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Command {}

/// The behaviour of a child.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) id: &'static str,
    pub(crate) log: Log<String>,
    alive: Arc<AtomicIsize>,
    pub(crate) on_start: Arc<dyn Fn(u64) -> OnStart + Send + Sync>,
    pub(crate) on_stop: OnStop,
}

pub(crate) struct Subject;

/// Logs when it is dropped, which is the end of an incarnation.
pub(crate) struct SubjectState(Behaviour);

impl SubjectState {
    fn new(behaviour: Behaviour) -> Self {
        behaviour.alive.fetch_add(1, Ordering::SeqCst);
        SubjectState(behaviour)
    }
}

impl Drop for SubjectState {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
        self.0.log.push(format!("gone {}", self.0.id));
    }
}

impl Actor for Subject {
    type Msg = Command;
    type State = SubjectState;
    type Arguments = (Behaviour, u64);

    async fn pre_start(
        &self,
        _: ActorRef<Command>,
        (behaviour, incarnation): (Behaviour, u64),
    ) -> Result<SubjectState, ActorProcessingErr> {
        behaviour.log.push(format!("start {}", behaviour.id));
        match (behaviour.on_start)(incarnation) {
            OnStart::Up => Ok(SubjectState::new(behaviour)),
            OnStart::Ignore => Err(Ignore.into()),
            OnStart::Fail => Err("no start".into()),
            OnStart::Panic => panic!("panic in pre_start"),
            OnStart::Hang => {
                let _state = SubjectState::new(behaviour);
                std::future::pending().await
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<Command>, state: &mut SubjectState) -> Result<(), ActorProcessingErr> {
        state.0.log.push(format!("stop {}", state.0.id));
        match state.0.on_stop {
            OnStop::Obey => Ok(()),
            OnStop::Hang => std::future::pending().await,
            OnStop::Fail => Err("no stop".into()),
        }
    }

    async fn handle(
        &self,
        _: ActorRef<Command>,
        command: Command,
        state: &mut SubjectState,
    ) -> Result<(), ActorProcessingErr> {
        match command {
            Command::Fail => Err("boom".into()),
            Command::Panic => panic!("boom"),
            Command::Exit(exit) => Err(exit.into()),
            Command::Hang => {
                state.0.log.push(format!("hang {}", state.0.id));
                std::future::pending().await
            }
        }
    }
}

/// The logs of a test: what its children did, and what was reported.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) log: Log<String>,
    pub(crate) reports: Log<Report>,
    alive: Arc<AtomicIsize>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Bench {
            log: Log::new(),
            reports: Log::new(),
            alive: Arc::default(),
        }
    }

    /// OTP's suite runs most cases with these: two restarts per hour.
    pub(crate) fn options(&self, strategy: Strategy) -> SupervisorOptions {
        self.with_intensity(strategy, 2)
    }

    pub(crate) fn with_intensity(&self, strategy: Strategy, restarts: u32) -> SupervisorOptions {
        let reports = self.reports.clone();
        SupervisorOptions::new()
            .strategy(strategy)
            .intensity(restarts, Duration::from_secs(3600))
            .reporter(move |report| reports.push(report))
    }

    pub(crate) async fn supervisor(&self, strategy: Strategy, children: Vec<ChildSpec>) -> Supervisor {
        within(Supervisor::spawn(None, self.options(strategy), children))
            .await
            .expect("starting the supervisor")
    }

    pub(crate) async fn dynamic(&self) -> DynamicSupervisor {
        within(DynamicSupervisor::spawn(None, self.options(Strategy::OneForOne)))
            .await
            .expect("starting the supervisor")
    }

    /// A permanent child that carries out its commands.
    pub(crate) fn child(&self, id: &'static str) -> ChildSpec {
        self.child_that(id, |_| OnStart::Up, OnStop::Obey)
    }

    /// `on_start` is called with the incarnation.
    pub(crate) fn child_that(
        &self,
        id: &'static str,
        on_start: impl Fn(u64) -> OnStart + Send + Sync + 'static,
        on_stop: OnStop,
    ) -> ChildSpec {
        let behaviour = Behaviour {
            on_start: Arc::new(on_start),
            on_stop,
            ..self.obedient(id)
        };
        ChildSpec::actor_with(id, None, move |child| (Subject, (behaviour.clone(), child.incarnation)))
    }

    /// Starts and stops without failure.
    pub(crate) fn obedient(&self, id: &'static str) -> Behaviour {
        let (log, alive) = (self.log.clone(), self.alive.clone());
        Behaviour {
            id,
            log,
            alive,
            on_start: Arc::new(|_| OnStart::Up),
            on_stop: OnStop::Obey,
        }
    }

    /// The reports of one kind, as `id/incarnation reason`.
    pub(crate) fn reported(&self, name: &str) -> Vec<String> {
        let of_kind = |report: &Report| {
            let reason = report.reason().map(|reason| format!(" {reason}")).unwrap_or_default();
            (report.name() == name).then(|| format!("{}{reason}", report.child()))
        };
        self.reports.lines().iter().filter_map(of_kind).collect()
    }

    pub(crate) async fn until_reported(&self, name: &str, count: usize) {
        self.reports
            .until(|reports| reports.iter().filter(|report| report.name() == name).count() >= count)
            .await;
    }

    pub(crate) async fn until_logged(&self, line: &str, count: usize) {
        self.log
            .until(|lines| lines.iter().filter(|logged| *logged == line).count() >= count)
            .await;
    }

    /// The number of live incarnations of children.
    pub(crate) fn alive(&self) -> isize {
        self.alive.load(Ordering::SeqCst)
    }
}

/// Waits until the children match.
pub(crate) async fn settled(supervisor: &Supervisor, matches: impl Fn(&[ChildInfo]) -> bool) -> Vec<ChildInfo> {
    within(async {
        loop {
            let children = supervisor.which_children().await.expect("supervisor is running");
            if matches(&children) {
                return children;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// `id:Status` of all children, in start order.
pub(crate) async fn statuses(supervisor: &Supervisor) -> Vec<String> {
    let children = supervisor.which_children().await.expect("supervisor is running");
    children
        .iter()
        .map(|info| format!("{}:{:?}", info.child.id, info.status))
        .collect()
}

/// The actor of a running child.
pub(crate) async fn cell(supervisor: &Supervisor, id: &str) -> ActorCell {
    let children = settled(supervisor, |children| find(children, id).status == ChildStatus::Running).await;
    find(&children, id).cell.clone().expect("child is running")
}

pub(crate) fn find<'a>(children: &'a [ChildInfo], id: &str) -> &'a ChildInfo {
    children
        .iter()
        .find(|info| info.child.id.as_str() == id)
        .expect("child exists")
}

/// Sends a command to a child.
pub(crate) fn tell(cell: &ActorCell, command: Command) {
    let _ = ActorRef::<Command>::from(cell.clone()).cast(command);
}

/// Makes a child fail, and waits until its next incarnation is running.
pub(crate) async fn crash_and_wait(supervisor: &Supervisor, id: &str) {
    let before = settled(supervisor, |children| find(children, id).status == ChildStatus::Running).await;
    let incarnation = find(&before, id).child.incarnation;
    tell(&cell(supervisor, id).await, Command::Fail);
    settled(supervisor, |children| {
        let info = find(children, id);
        info.child.incarnation > incarnation && info.status == ChildStatus::Running
    })
    .await;
}

/// `[specs, active, supervisors, workers]`, as in OTP's suite.
pub(crate) async fn counts(supervisor: &Supervisor) -> [usize; 4] {
    let counts = supervisor.count_children().await.expect("supervisor is running");
    [counts.specs, counts.active, counts.supervisors, counts.workers]
}

/// The exit reasons with which children exit on their own.
pub(crate) fn shutdown() -> Command {
    Command::Exit(ExitReason::SHUTDOWN.into())
}

pub(crate) fn normal() -> Command {
    Command::Exit(ExitReason::Normal.into())
}
