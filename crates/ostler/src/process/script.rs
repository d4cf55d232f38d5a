//! A host whose guardian, table and machine are scripted: what an incarnation asks of them is noted
//! in order, and the test answers. For unit tests with paused time.

use std::collections::VecDeque;
use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::lifecycle::Rest;
use ostler_core::spec::{PoolSpec, StopSpec};
use ostler_os::cgroup::Group;
use ostler_os::guardian::{GuardianEvent, SignalCause, SpawnRequest, SpawnStep, TreeKill, TreeProcess};
use ostler_os::oom::OomWatch;
use ostler_registry::{Activation, Key, Owner, Record, RecordedPort, Scratch, TableError};
use ostler_telemetry::EventKind;
use tokio::sync::{mpsc, watch};

use super::driver::begin;
use super::exec::ProbePlace;
use super::host::{Guard, Host, Machine, Records, Setup, SpawnRefused};
use super::protocol::Notice;
use super::remnants::Remnants;
use super::slot::{Process, Slot};
use crate::guard::{News, Route};
use crate::hub::{EventStream, Hub};
use crate::instance::services::StopLevel;

/// Pids that this machine does not have: `/proc` has nothing to say of them.
const WORKER_PID: u32 = 0x7fff_fff0;
const SITTER_PID: u32 = 0x7fff_fff1;

/// The slot of its probes at the guardian.
const PROBE_SLOT: u32 = 4;

/// What the incarnation asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Reserve(u64),
    Activate,
    Remove(u64),
    Spawn(u64),
    End(StopSpec),
    /// The start of a probe, which is the worker's so many-eth.
    Probe(u64),
    EndProbe(u64),
    KillPastSitter,
    EndWithoutSitter,
    CheckPorts,
    NameTree,
}

/// Answers to come, in order. Where none is left, the call succeeds.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) reserve: VecDeque<TableError>,
    pub(super) remove: VecDeque<TableError>,
    pub(super) rest: VecDeque<Rest>,
    pub(super) held: VecDeque<String>,
}

struct Script {
    /// A directory in place of a memory cgroup.
    cgroup: PathBuf,
    asked: mpsc::UnboundedSender<Asked>,
    answers: Arc<Mutex<Answers>>,
    route: Arc<Mutex<Option<Route>>>,
    prepared: Arc<AtomicU32>,
    probe: Arc<Mutex<Option<Route>>>,
}

impl Script {
    fn note(&self, asked: Asked) {
        // A test that has ended hears no more.
        let _ = self.asked.send(asked);
    }

    fn next<T>(&self, queue: impl FnOnce(&mut Answers) -> &mut VecDeque<T>) -> Option<T> {
        queue(&mut self.answers.lock().unwrap()).pop_front()
    }
}

impl Guard for Script {
    fn spawn(&self, slot: u32, route: Route, _: SpawnRequest) -> BoxFuture<'_, Result<(), SpawnRefused>> {
        let incarnation = route.incarnation.0;
        let (asked, current) = match slot {
            PROBE_SLOT => (Asked::Probe(incarnation), &self.probe),
            _ => (Asked::Spawn(incarnation), &self.route),
        };
        *current.lock().unwrap() = Some(route);
        self.note(asked);
        Box::pin(async { Ok(()) })
    }

    fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) {
        self.note(match slot {
            PROBE_SLOT => Asked::EndProbe(incarnation.0),
            _ => Asked::End(stop),
        });
    }

    fn forget(&self, _: u32, _: Incarnation) {}
}

impl Records for Script {
    fn reserve(&self, record: Record) -> BoxFuture<'_, Result<(), TableError>> {
        self.note(Asked::Reserve(record.incarnation.0));
        let answer = self.next(|answers| &mut answers.reserve);
        Box::pin(async { answer.map_or(Ok(()), Err) })
    }

    fn activate(&self, _: Key, _: Activation) -> BoxFuture<'_, Result<(), TableError>> {
        self.note(Asked::Activate);
        Box::pin(async { Ok(()) })
    }

    fn set_ports(&self, _: Key, _: Vec<RecordedPort>) -> BoxFuture<'_, Result<(), TableError>> {
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, key: Key) -> BoxFuture<'_, Result<bool, TableError>> {
        self.note(Asked::Remove(key.incarnation.0));
        let answer = self.next(|answers| &mut answers.remove);
        Box::pin(async { answer.map_or(Ok(true), Err) })
    }
}

impl Machine for Script {
    fn cgroup(&self, _: &WorkerId, _: Option<Incarnation>) -> Option<io::Result<Group>> {
        None
    }

    fn watch_oom(&self, _: Option<&Group>) -> Option<OomWatch> {
        self.prepared.fetch_add(1, Ordering::Relaxed);
        OomWatch::begin(Some(&self.cgroup))
    }

    fn held(&self, _: &[SocketAddr], _: &[PathBuf]) -> Option<String> {
        self.note(Asked::CheckPorts);
        self.next(|answers| &mut answers.held)
    }

    fn name_tree(&self, _: i32) -> Vec<String> {
        self.note(Asked::NameTree);
        vec!["pid 7 (stuck)".to_owned()]
    }

    fn kill_past_sitter(&self, _: &Remnants) {
        self.note(Asked::KillPastSitter);
    }

    fn end_without_sitter(&self, _: Remnants) -> BoxFuture<'static, Option<Rest>> {
        self.note(Asked::EndWithoutSitter);
        let answer = self.next(|answers| &mut answers.rest).unwrap_or(Rest::Gone);
        Box::pin(async { Some(answer) })
    }
}

/// One slot of a scripted host.
pub(super) struct Stage {
    setup: Arc<Setup>,
    pub(super) slot: Arc<Slot>,
    asked: mpsc::UnboundedReceiver<Asked>,
    pub(super) answers: Arc<Mutex<Answers>>,
    route: Arc<Mutex<Option<Route>>>,
    probe: Arc<Mutex<Option<Route>>>,
    events: EventStream,
    pub(super) stop_level: watch::Sender<StopLevel>,
    pub(super) unreleased: watch::Sender<usize>,
    pub(super) unseen: Arc<Mutex<Vec<String>>>,
    /// How often a spawn was prepared.
    pub(super) prepared: Arc<AtomicU32>,
    scratch: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new(adjust: impl FnOnce(&mut PoolSpec)) -> Self {
        let mut pool = PoolSpec::new("p", ["sh"]);
        pool.worker.output.log = false;
        adjust(&mut pool);
        let (asked, seen) = mpsc::unbounded_channel();
        let answers = Arc::<Mutex<Answers>>::default();
        let (route, probe) = (Arc::<Mutex<Option<Route>>>::default(), Arc::default());
        let private = Permissions::from_mode(0o700);
        let scratch = tempfile::Builder::new().permissions(private).tempdir().unwrap();
        let prepared = Arc::<AtomicU32>::default();
        let script = Arc::new(Script {
            cgroup: scratch.path().to_owned(),
            asked,
            answers: Arc::clone(&answers),
            route: Arc::clone(&route),
            prepared: Arc::clone(&prepared),
            probe: Arc::clone(&probe),
        });
        let run = RunId::from_u128(7);
        let hub = Arc::new(Hub::new("test".to_owned(), run));
        let events = hub.subscribe();
        let stop_level = watch::Sender::new(StopLevel::None);
        let (unreleased, unseen) = (watch::Sender::new(0), Arc::default());
        let host = Host {
            owner: Owner {
                app: "test".to_owned(),
                instance: "test".to_owned(),
                run,
            },
            hub,
            followers: Arc::default(),
            guard: Arc::<Script>::clone(&script),
            table: Arc::<Script>::clone(&script),
            machine: script,
            scratch: Arc::new(Scratch::of(scratch.path())),
            stop_level: stop_level.subscribe(),
            unreleased: unreleased.clone(),
            unseen: Arc::clone(&unseen),
        };
        let stage = Self {
            setup: Setup::new(host, Arc::new(pool)),
            slot: Slot::new(
                WorkerId::new("p", 0),
                3,
                Some(ProbePlace::new(PROBE_SLOT)),
                Incarnation(1),
            ),
            asked: seen,
            answers,
            route,
            probe,
            events,
            stop_level,
            unreleased,
            unseen,
            prepared,
            scratch,
        };
        stage.set_oom_kills(0);
        stage
    }

    /// The kernel's count of out-of-memory kills in the worker's cgroup.
    pub(super) fn set_oom_kills(&self, count: u64) {
        std::fs::write(self.scratch.path().join("memory.events"), format!("oom_kill {count}\n")).unwrap();
    }

    /// Begins the next incarnation.
    pub(super) fn begin(&self) -> Play {
        let (owner, notices) = mpsc::unbounded_channel();
        let process = begin(
            &self.setup,
            &self.slot,
            Box::new(move |notice| {
                let _ = owner.send(notice);
            }),
        );
        Play {
            process: process.expect("the slot is there"),
            notices,
        }
    }

    /// The next thing that is asked for. Time passes while nothing happens.
    pub(super) async fn next(&mut self) -> Asked {
        let asked = tokio::time::timeout(Duration::from_secs(3600), self.asked.recv()).await;
        asked.expect("something is asked for").expect("the script lives")
    }

    /// Nothing more was asked for.
    pub(super) fn assert_idle(&mut self) {
        let asked: Vec<Asked> = std::iter::from_fn(|| self.asked.try_recv().ok()).collect();
        assert_eq!(asked, []);
    }

    pub(super) async fn expect(&mut self, expected: &[Asked]) {
        for asked in expected {
            assert_eq!(self.next().await, *asked);
        }
    }

    /// Up to the order to spawn.
    pub(super) async fn ordered(&mut self) -> Play {
        let play = self.begin();
        let number = self.slot.state().incarnation.map_or(1, |before| before.0 + 1);
        self.expect(&[Asked::Reserve(number), Asked::Spawn(number)]).await;
        play
    }

    /// Up to ready.
    pub(super) async fn ready(&mut self) -> Play {
        let mut play = self.ordered().await;
        self.spawned();
        self.expect(&[Asked::Activate]).await;
        assert!(matches!(play.notice().await, Notice::Ready));
        play
    }

    /// Where its notify sockets and ready files are.
    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The news' way to the incarnation that was spawned last.
    pub(super) fn route(&self) -> Route {
        self.route.lock().unwrap().clone().expect("a spawn was ordered")
    }

    pub(super) fn tell(&self, news: News) {
        // Late news of an incarnation that has ended.
        let _ = self.route().sender.unbounded_send(news);
    }

    /// News of the probe that was started last.
    pub(super) fn tell_probe(&self, news: News) {
        let probe = self.probe.lock().unwrap().clone().expect("a probe was started");
        let _ = probe.sender.unbounded_send(news);
    }

    /// The probe has ended with this status, and its tree is gone.
    pub(super) fn probe_ended(&self, status: i32) {
        use std::os::unix::process::ExitStatusExt as _;
        let (slot, incarnation) = (PROBE_SLOT, 0);
        let status = std::process::ExitStatus::from_raw(status);
        let pid = WORKER_PID;
        self.tell_probe(News::Event(Box::new(GuardianEvent::Exited {
            slot,
            incarnation,
            pid,
            status,
        })));
        self.tell_probe(News::Event(Box::new(GuardianEvent::TreeGone {
            slot,
            incarnation,
            killed: 0,
            how: TreeKill::default(),
        })));
    }

    fn event(&self, event: impl FnOnce(u32, u64) -> GuardianEvent) {
        let incarnation = self.route().incarnation.0;
        self.tell(News::Event(Box::new(event(self.slot.number, incarnation))));
    }

    pub(super) fn spawned(&self) {
        let worker = TreeProcess {
            pid: WORKER_PID,
            start_time: 1,
            pidfd_inode: 1,
        };
        self.event(|slot, incarnation| GuardianEvent::Spawned {
            slot,
            incarnation,
            worker,
            sitter: TreeProcess {
                pid: SITTER_PID,
                start_time: 0,
                pidfd_inode: 0,
            },
            in_cgroup: false,
        });
    }

    pub(super) fn spawn_failed(&self, step: SpawnStep, errno: i32) {
        self.event(|slot, incarnation| GuardianEvent::SpawnFailed {
            slot,
            incarnation,
            step,
            errno,
        });
    }

    /// `status` as wait(2) has it.
    pub(super) fn exited(&self, status: i32) {
        use std::os::unix::process::ExitStatusExt as _;
        let status = std::process::ExitStatus::from_raw(status);
        self.event(|slot, incarnation| GuardianEvent::Exited {
            slot,
            incarnation,
            pid: WORKER_PID,
            status,
        });
    }

    pub(super) fn tree_gone(&self) {
        let how = TreeKill::default();
        self.event(|slot, incarnation| GuardianEvent::TreeGone {
            slot,
            incarnation,
            killed: 0,
            how,
        });
    }

    pub(super) fn sitter_lost(&self) {
        use std::os::unix::process::ExitStatusExt as _;
        let status = std::process::ExitStatus::from_raw(9);
        self.event(|slot, incarnation| GuardianEvent::SitterLost {
            slot,
            incarnation,
            status,
            killed: 1,
        });
    }

    /// The sitter has seen its guardian die, and ends the tree.
    pub(super) fn ended_by_guardian_death(&self) {
        self.event(|slot, incarnation| GuardianEvent::Signalled {
            slot,
            incarnation,
            signal: ostler_core::signal::Signal::KILL,
            cause: SignalCause::GuardianDeath,
        });
    }

    /// The kinds of the events so far, with the cause where there is one.
    pub(super) fn story(&mut self) -> Vec<String> {
        let mut story = Vec::new();
        while let Some(Some(event)) = futures_util::FutureExt::now_or_never(self.events.recv()) {
            let event = event.event().expect("no lag");
            let kind: EventKind = event.kind;
            let name = kind.name().trim_start_matches("worker.");
            let reason = event
                .facts
                .reason
                .map(|reason| format!(" {reason}"))
                .unwrap_or_default();
            let cause = event
                .facts
                .cause
                .as_ref()
                .map(|cause| format!(" ({cause})"))
                .unwrap_or_default();
            story.push(format!("{name}{reason}{cause}"));
        }
        story
    }
}

/// An incarnation and its owner.
pub(super) struct Play {
    pub(super) process: Process,
    notices: mpsc::UnboundedReceiver<Notice>,
}

impl Play {
    pub(super) async fn notice(&mut self) -> Notice {
        let notice = tokio::time::timeout(Duration::from_secs(3600), self.notices.recv()).await;
        notice.expect("the owner hears something").expect("the driver lives")
    }

    /// How it ended; that it can no longer be used comes before.
    pub(super) async fn outcome(&mut self) -> ostler_core::lifecycle::Outcome {
        loop {
            match self.notice().await {
                Notice::Ended(outcome) => return outcome,
                Notice::NotReady | Notice::Ready => {}
                Notice::Overdue(failure) => panic!("overdue: {failure}"),
            }
        }
    }
}
