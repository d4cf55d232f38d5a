//! An actor that behaves as a test wants, and logs that are waited on. No test sleeps.

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

/// No wait of a test is longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A list that grows, and that can be waited on.
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

    pub(crate) async fn until(&self, wanted: impl Fn(&[T]) -> bool) {
        let mut changes = self.0.subscribe();
        let found = changes.wait_for(|lines| wanted(lines));
        if tokio::time::timeout(DEADLINE, found).await.is_err() {
            panic!("waited in vain; so far: {:#?}", self.lines());
        }
    }
}

/// Fails a test that waits too long.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.expect("it takes too long")
}

/// How the start of a [`Subject`] comes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnStart {
    Up,
    Ignore,
    Fail,
    Panic,
    /// For ever, unless it is cancelled.
    Hang,
}

/// What a [`Subject`] does when it is told to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnStop {
    Obey,
    /// For ever, unless it is killed.
    Hang,
    Fail,
}

/// What a [`Subject`] can be told.
pub(crate) enum Command {
    Fail,
    Panic,
    Exit(Exit),
    /// Never come back from this one.
    Hang,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Command {}

/// How a child of a test behaves.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) id: &'static str,
    pub(crate) log: Log<String>,
    alive: Arc<AtomicIsize>,
    pub(crate) on_start: Arc<dyn Fn(u64) -> OnStart + Send + Sync>,
    pub(crate) on_stop: OnStop,
}

pub(crate) struct Subject;

/// Says when it is dropped, which is the end of an incarnation.
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

/// What a test keeps: what its children did, and what was reported.
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

    /// OTP's suite runs most cases with these: two restarts an hour.
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
            .expect("it starts")
    }

    pub(crate) async fn dynamic(&self) -> DynamicSupervisor {
        within(DynamicSupervisor::spawn(None, self.options(Strategy::OneForOne)))
            .await
            .expect("it starts")
    }

    /// A permanent child that does as it is told.
    pub(crate) fn child(&self, id: &'static str) -> ChildSpec {
        self.child_that(id, |_| OnStart::Up, OnStop::Obey)
    }

    /// `on_start` is asked with the incarnation.
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

    /// Up when started, gone when told to stop.
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

    /// How many incarnations of children are there now.
    pub(crate) fn alive(&self) -> isize {
        self.alive.load(Ordering::SeqCst)
    }
}

/// Waits until the children are as wanted.
pub(crate) async fn settled(supervisor: &Supervisor, wanted: impl Fn(&[ChildInfo]) -> bool) -> Vec<ChildInfo> {
    within(async {
        loop {
            let children = supervisor.which_children().await.expect("the supervisor is up");
            if wanted(&children) {
                return children;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// `id:Status` of all children, in start order.
pub(crate) async fn statuses(supervisor: &Supervisor) -> Vec<String> {
    let children = supervisor.which_children().await.expect("the supervisor is up");
    children
        .iter()
        .map(|info| format!("{}:{:?}", info.child.id, info.status))
        .collect()
}

/// The actor of a child that is up.
pub(crate) async fn cell(supervisor: &Supervisor, id: &str) -> ActorCell {
    let children = settled(supervisor, |children| find(children, id).status == ChildStatus::Running).await;
    find(&children, id).cell.clone().expect("it is up")
}

pub(crate) fn find<'a>(children: &'a [ChildInfo], id: &str) -> &'a ChildInfo {
    children
        .iter()
        .find(|info| info.child.id.as_str() == id)
        .expect("there is such a child")
}

/// Tells a child something.
pub(crate) fn tell(cell: &ActorCell, command: Command) {
    let _ = ActorRef::<Command>::from(cell.clone()).cast(command);
}

/// Ends a child abnormally, and waits until its next incarnation is up.
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

/// `[specs, active, supervisors, workers]`, as OTP's suite has it.
pub(crate) async fn counts(supervisor: &Supervisor) -> [usize; 4] {
    let counts = supervisor.count_children().await.expect("the supervisor is up");
    [counts.specs, counts.active, counts.supervisors, counts.workers]
}

/// The reasons that children end with by themselves.
pub(crate) fn shutdown() -> Command {
    Command::Exit(ExitReason::SHUTDOWN.into())
}

pub(crate) fn normal() -> Command {
    Command::Exit(ExitReason::Normal.into())
}
