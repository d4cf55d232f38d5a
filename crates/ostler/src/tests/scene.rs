//! An instance in a directory of its own, its events, and the proof that nothing of it is left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_os::identity;
use ostler_os::marker;
use ractor::{ActorCell, ActorRef};

use crate::pool::WorkerMessage;
use crate::{Event, EventItem, EventKind, EventStream, Ostler, Pool, PoolSpec};

/// How long a test waits for what should happen at once, on a machine that is busy with other
/// tests.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// An instance under test, and every event of it.
pub(super) struct Scene {
    pub(super) ostler: Ostler,
    events: EventStream,
    pub(super) seen: Vec<Arc<Event>>,
    directory: tempfile::TempDir,
}

impl Scene {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let builder = Ostler::builder("test").state_dir(directory.path());
        let events = builder.subscribe();
        let ostler = builder.start().await.unwrap();
        Self {
            ostler,
            events,
            seen: Vec::new(),
            directory,
        }
    }

    /// A pool `p` of a shell script.
    pub(super) fn spec(script: &str) -> PoolSpec {
        let mut spec = PoolSpec::new("p", ["sh", "-c", script]);
        spec.worker.output.log = false;
        spec.worker.stop.grace = Duration::from_millis(50);
        spec
    }

    /// Reads on to the first event that fits.
    pub(super) async fn wait_for(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Arc<Event> {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let next = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let Ok(Some(EventItem::Event(event))) = next else {
                panic!("no {what}; {next:?}; seen: {}", self.story());
            };
            self.seen.push(Arc::clone(&event));
            if fits(&event) {
                return event;
            }
        }
    }

    pub(super) async fn wait_for_kind(&mut self, kind: EventKind) -> Arc<Event> {
        self.wait_for(kind.name(), |event| event.kind == kind).await
    }

    pub(super) fn count(&self, kind: EventKind) -> usize {
        self.seen.iter().filter(|event| event.kind == kind).count()
    }

    pub(super) fn story(&self) -> String {
        let line = |event: &Arc<Event>| {
            let worker = event.worker.as_ref().map(ToString::to_string).unwrap_or_default();
            let incarnation = event.incarnation.map(|i| i.0).unwrap_or_default();
            let facts = &event.facts;
            format!(
                "\n  {} {worker}#{incarnation} {:?} {:?}",
                event.kind.name(),
                facts.cause,
                facts.message
            )
        };
        self.seen.iter().map(line).collect()
    }

    /// Stops the instance; each incarnation that was reserved was released exactly once, and
    /// nothing is left.
    pub(super) async fn stop_and_check(mut self) {
        let (run, guardian) = (self.ostler.run_id(), self.ostler.guardian_pid());
        let pools = self.ostler.pools();
        let stopping = tokio::time::timeout(SOON, self.ostler.stop());
        let report = stopping.await.expect("the stop ends").expect("nothing is left");
        assert_eq!(report.orphans, Vec::<String>::new());
        while let Some(EventItem::Event(event)) = self.events.recv().await {
            self.seen.push(Arc::clone(&event));
            if event.kind == EventKind::RunStopped {
                break;
            }
        }
        let mut balance = BTreeMap::<_, (u32, u32)>::new();
        for event in &self.seen {
            let key = || (event.worker.clone(), event.incarnation);
            match event.kind {
                EventKind::WorkerReserved => balance.entry(key()).or_default().0 += 1,
                EventKind::WorkerReleased => balance.entry(key()).or_default().1 += 1,
                _ => {}
            }
        }
        assert!(!balance.is_empty());
        assert!(
            balance.values().all(|counts| *counts == (1, 1)),
            "{balance:?}; {}",
            line_of(&self.seen)
        );
        for pool in pools {
            assert_eq!(pool.shared.services.table.len(), 0, "records are left");
            assert_eq!(*pool.shared.services.unreleased.borrow(), 0);
        }
        assert_nothing_left(run, guardian, self.directory.path());
    }
}

fn line_of(events: &[Arc<Event>]) -> String {
    let line = |event: &Arc<Event>| format!("\n  {} {:?} {:?}", event.kind.name(), event.worker, event.incarnation);
    events.iter().map(line).collect()
}

fn assert_nothing_left(run: crate::RunId, guardian: Option<u32>, directory: &Path) {
    let left = marker::scan(&[run], Instant::now() + SOON).unwrap().found;
    assert!(left.is_empty(), "processes are left: {left:?}");
    let guardian = guardian.and_then(|pid| identity::of(i32::try_from(pid).unwrap()).unwrap());
    assert_eq!(guardian, None, "the guardian lives");
    let runs = ostler_registry::runs(&directory.join("test")).unwrap();
    assert!(runs.is_empty(), "run directories are left: {runs:?}");
}

/// An actor of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Actor {
    Worker,
    Starter,
    Pool,
}

/// How it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    Kill,
    Panic,
}

/// Ends the actor of slot 0 (or the pool's) in this way.
pub(super) async fn end(pool: &Pool, actor: Actor, death: Death) {
    let starter = pool.shared.starter(0).unwrap();
    let supervisor = pool.shared.supervisor().unwrap();
    match (actor, death) {
        (Actor::Worker, death) => {
            let children = starter.which_children().await.unwrap();
            let cell = children[0].cell.clone().expect("the worker's actor lives");
            match death {
                Death::Kill => cell.kill(),
                Death::Panic => drop(ActorRef::<WorkerMessage>::from(cell).cast(WorkerMessage::Panic)),
            }
        }
        (Actor::Starter, Death::Kill) => starter.cell().kill(),
        (Actor::Pool, Death::Kill) => supervisor.cell().kill(),
        (Actor::Starter, Death::Panic) => {
            drop(starter.start_child(explosive()).await);
            drop(starter.terminate_child("explosive").await);
        }
        (Actor::Pool, Death::Panic) => {
            let started = supervisor.start_child(explosive()).await.unwrap().started().unwrap();
            drop(supervisor.terminate_child(started.child.key).await);
        }
    }
}

/// A child whose supervisor panics when it stops it: the panic is in the supervisor's own handler.
fn explosive() -> crate::supervisor::ChildSpec {
    crate::supervisor::ChildSpec::actor("explosive", || (Idle, ()))
        .restart(crate::Restart::Temporary)
        .stop_with(|_: &ActorCell| panic!("requested by a test"))
}

struct Idle;

impl ractor::Actor for Idle {
    type Msg = WorkerMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<WorkerMessage>, (): ()) -> Result<(), ractor::ActorProcessingErr> {
        Ok(())
    }
}
