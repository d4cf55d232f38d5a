//! The public API from outside: every item that an app needs can be named, implemented and matched
//! with paths of `ostler` alone.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ostler::supervisor::{
    ChildSpec, Exit, ExitFailure, ExitReason, KeptSpec, NotStarted, RestartChildError, StartChildError, Supervisor,
    SupervisorOptions,
};
use ostler::testing::TestBed;
use ostler::{
    AppDirError, Event, EventKind, Instance, NotRestartable, Observer, Ostler, Output, Part, PoolEnd, PoolError,
    PoolPhase, RunDirError, Snapshot, SpanLink, StartError, TableError,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// An observer of one's own.
#[derive(Debug, Default)]
struct Counting {
    kinds: Mutex<Vec<EventKind>>,
}

impl Observer for Counting {
    fn event(&self, event: &Arc<Event>, _: &SpanLink) {
        self.kinds.lock().unwrap().push(event.kind);
    }

    fn duration(&self, part: Part, _: &str, _: &str, _: Duration) {
        assert!(matches!(part, Part::Start | Part::Stop | Part::Release));
    }

    fn output(&self, output: &Output<'_>) {
        assert!(!output.text.is_empty());
    }

    fn output_dropped(&self, _: &str, _: &str, _: u64) {}

    fn output_limited(&self, _: &str, _: &str, _: u64) {}

    fn disagreement(&self, _: &str, _: &'static str) {}

    fn watch(&self, instance: Weak<dyn Instance>) {
        let snapshot: Option<Snapshot> = instance.upgrade().map(|instance| instance.snapshot(Instant::now()));
        assert_eq!(snapshot.map(|snapshot| snapshot.pools.len()), Some(0));
    }
}

#[derive(Debug)]
struct Shared(Arc<Counting>);

impl Observer for Shared {
    fn event(&self, event: &Arc<Event>, span: &SpanLink) {
        self.0.event(event, span);
    }

    fn duration(&self, part: Part, app: &str, pool: &str, took: Duration) {
        self.0.duration(part, app, pool, took);
    }

    fn output(&self, output: &Output<'_>) {
        self.0.output(output);
    }

    fn output_dropped(&self, _: &str, _: &str, _: u64) {}

    fn output_limited(&self, _: &str, _: &str, _: u64) {}

    fn disagreement(&self, _: &str, _: &'static str) {}

    fn watch(&self, instance: Weak<dyn Instance>) {
        self.0.watch(instance);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_observer_hears_everything() {
    let bed = TestBed::new();
    let observers = [Arc::<Counting>::default(), Arc::<Counting>::default()];
    let mut builder = bed.builder();
    for observer in &observers {
        builder = builder.observer(Shared(Arc::clone(observer)));
    }
    let ostler = builder.start().await.unwrap();
    let pool = ostler.add_pool(bed.fake_worker().pool("p")).await.unwrap();
    pool.wait_ready().await.unwrap();
    ostler.stop().await.unwrap();
    let [first, second] = observers.map(|observer| observer.kinds.lock().unwrap().clone());
    assert_eq!(first, second);
    assert_eq!(
        (first.first(), first.last()),
        (Some(&EventKind::RunStarted), Some(&EventKind::RunStopped))
    );
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_can_be_matched_to_the_bottom() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Ostler::builder("public").state_dir(&file).start().await.unwrap_err();
    let known = match &error {
        StartError::Directory(source) => {
            let _: &AppDirError = source;
            true
        }
        StartError::RunDirectory { source } => {
            let _: &RunDirError = source;
            true
        }
        StartError::Table { source } => {
            let _: &TableError = source;
            true
        }
        _ => false,
    };
    assert!(known, "{error}");
}

/// What is refused, down to why.
fn class(error: &PoolError) -> &'static str {
    match error {
        PoolError::NotRestartable { reason, .. } => match reason {
            NotRestartable::GaveUp | NotRestartable::PoolGaveUp => "gave up",
            NotRestartable::Refused(RestartChildError::Running) => "runs",
            NotRestartable::NotAdded(StartChildError::Stopping) => "stopping",
            _ => "other",
        },
        PoolError::NoSuchWorker { .. } => "no such worker",
        _ => "other",
    }
}

fn is_up(phase: &PoolPhase) -> bool {
    match phase {
        PoolPhase::Ready | PoolPhase::Degraded { .. } => true,
        PoolPhase::Ended(PoolEnd::Finished | PoolEnd::GaveUp(_) | PoolEnd::Stopped) => false,
        _ => false,
    }
}

struct Greeter;

impl Actor for Greeter {
    type Msg = String;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<String>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

#[tokio::test]
async fn a_supervisors_children_can_be_found_and_described() {
    let child = ChildSpec::actor("greeter", || (Greeter, ()));
    let refusing = ChildSpec::starting("refusing", |_| async {
        let reason = ExitReason::Failed(ExitFailure::new(std::io::Error::other("not today")));
        Err(NotStarted::Failed(Exit::from(reason)))
    });
    let supervisor = Supervisor::spawn(None, SupervisorOptions::new(), vec![child])
        .await
        .unwrap();
    let kept: KeptSpec = supervisor.get_child_spec("greeter").await.unwrap().unwrap();
    assert!(kept.start.is_some());
    let greeter: ActorRef<String> = supervisor.actor_ref("greeter").await.unwrap().unwrap();
    greeter.cast("hello".to_owned()).unwrap();
    assert!(supervisor.actor_ref::<u64>("greeter").await.unwrap().is_none());
    let refused = supervisor.start_child(refusing).await.unwrap_err();
    assert!(
        matches!(refused, StartChildError::Failed(ExitReason::Failed(_))),
        "{refused}"
    );
    supervisor.stop().await;

    let missing = PoolError::NoSuchWorker {
        pool: "p".into(),
        index: 1,
        workers: 1,
    };
    assert_eq!(class(&missing), "no such worker");
    assert!(is_up(&PoolPhase::Ready));
}
