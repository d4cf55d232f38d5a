//! Extensions to OTP: backoff, uncounted exits, release gates, and queries at any time.

use std::sync::Arc;
use std::time::Duration;

use ostler_supervisor::{
    Backoff, ChildStatus, End, Exit, ExitReason, Report, Restart, StartChildError, Strategy, Supervisor,
};
use tokio::sync::watch;

use crate::support::{Bench, Command, OnStart, OnStop, cell, crash_and_wait, find, settled, statuses, tell, within};

fn delays(bench: &Bench) -> Vec<(u32, u128)> {
    let scheduled = |report: &Report| match report {
        Report::RestartScheduled { attempt, delay, .. } => Some((*attempt, delay.as_millis())),
        _ => None,
    };
    bench.reports.lines().iter().filter_map(scheduled).collect()
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_until_the_child_has_run_for_a_while() {
    let bench = Bench::new();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300)).reset(Duration::from_secs(60));
    let options = bench.with_intensity(Strategy::OneForOne, 100).backoff(backoff);
    let supervisor = Supervisor::spawn(None, options, vec![bench.child("child")])
        .await
        .unwrap();
    let before = tokio::time::Instant::now();
    for restarts in 1..=3 {
        tell(&cell(&supervisor, "child").await, Command::Fail);
        bench.until_reported("progress", 1 + restarts).await;
    }
    let elapsed = before.elapsed();
    assert!(
        (600..610).contains(&elapsed.as_millis()),
        "100 + 200 + 300: {elapsed:?}"
    );
    tokio::time::advance(Duration::from_secs(60)).await;
    for progress in [5, 6] {
        tell(&cell(&supervisor, "child").await, Command::Fail);
        bench.until_reported("progress", progress).await;
    }
    assert_eq!(delays(&bench), [(1, 100), (2, 200), (3, 300), (1, 0), (2, 200)]);
    within(supervisor.stop()).await;
}

/// The pause is the least time between two starts: what a child ran for is part of it.
#[tokio::test(start_paused = true)]
async fn backoff_delays_a_child_by_what_is_left_of_the_pause() {
    let bench = Bench::new();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10)).reset(Duration::from_secs(60));
    let options = bench.with_intensity(Strategy::OneForOne, 100).backoff(backoff);
    let supervisor = Supervisor::spawn(None, options, vec![bench.child("child")])
        .await
        .unwrap();
    for restarts in 1..=6 {
        tokio::time::advance(Duration::from_millis(1_000)).await;
        tell(&cell(&supervisor, "child").await, Command::Fail);
        bench.until_reported("progress", 1 + restarts).await;
    }
    let pauses_left = [(1, 0), (2, 0), (3, 0), (4, 0), (5, 600), (6, 2_200)];
    assert_eq!(delays(&bench), pauses_left);
    within(supervisor.stop()).await;
}

/// A supervisor waiting to restart a child is queried, asked to delete it, and stopped.
#[tokio::test]
async fn delayed_restart_can_be_cancelled() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll] {
        let bench = Bench::new();
        let hour = Duration::from_secs(3600);
        let options = bench.options(strategy).backoff(Backoff::new(hour, hour));
        let children = vec![bench.child("a"), bench.child("b")];
        let supervisor = within(Supervisor::spawn(None, options, children)).await.unwrap();
        tell(&cell(&supervisor, "a").await, Command::Fail);
        settled(&supervisor, |children| {
            find(children, "a").status == ChildStatus::Restarting
        })
        .await;
        within(supervisor.terminate_child("a")).await.unwrap();
        assert_eq!(statuses(&supervisor).await[0], "a:Undefined");
        within(supervisor.restart_child("a")).await.unwrap();
        tell(&cell(&supervisor, "a").await, Command::Fail);
        settled(&supervisor, |children| {
            find(children, "a").status == ChildStatus::Restarting
        })
        .await;
        within(supervisor.stop()).await;
        assert_eq!(bench.alive(), 0);
    }
}

#[tokio::test]
async fn uncounted_exit_does_not_count() {
    let bench = Bench::new();
    let options = bench.with_intensity(Strategy::OneForOne, 0);
    let children = vec![bench.child("child").restart(Restart::Transient)];
    let supervisor = within(Supervisor::spawn(None, options, children)).await.unwrap();
    for _ in 0..5 {
        let incarnation = supervisor.which_children().await.unwrap()[0].child.incarnation;
        let lost = Exit::uncounted(ExitReason::failed("guardian lost"));
        tell(&cell(&supervisor, "child").await, Command::Exit(lost));
        settled(&supervisor, |children| {
            children[0].child.incarnation > incarnation && children[0].status == ChildStatus::Running
        })
        .await;
    }
    tell(&cell(&supervisor, "child").await, Command::Fail);
    assert!(matches!(
        within(supervisor.wait()).await,
        Some(End::MaxIntensity { .. })
    ));
}

/// A gate that the test opens.
#[derive(Clone)]
struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    fn shut() -> Self {
        Gate(Arc::new(watch::channel(false).0))
    }

    fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let mut opened = self.0.subscribe();
        let _ = opened.wait_for(|open| *open).await;
    }
}

#[tokio::test]
async fn no_restart_before_the_release_gate_completes() {
    let bench = Bench::new();
    let gate = Gate::shut();
    let child = {
        let (gate, log) = (gate.clone(), bench.log.clone());
        bench.child("child").gate(move |child| {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                log.push(format!("gate {child}"));
                gate.pass().await;
                log.push(format!("released {child}"));
            }
        })
    };
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    tell(&cell(&supervisor, "child").await, Command::Panic);
    bench.until_logged("gate child/1", 1).await;
    assert_eq!(
        supervisor.which_children().await.unwrap()[0].child.incarnation,
        1,
        "the restart must wait for the gate"
    );
    gate.open();
    bench.until_logged("start child", 2).await;
    within(supervisor.stop()).await;
    let expected = [
        "start child",
        "gone child",
        "gate child/1",
        "released child/1",
        "start child",
        "stop child",
        "gone child",
        "gate child/2",
        "released child/2",
    ];
    assert_eq!(bench.log.lines(), expected);
}

/// Even after a failed start, and when the supervisor itself is killed.
#[tokio::test]
async fn gates_run_after_failed_starts_and_kills() {
    let bench = Bench::new();
    let gated = |id: &'static str, on_start: OnStart| {
        let log = bench.log.clone();
        bench
            .child_that(id, move |_| on_start, OnStop::Obey)
            .gate(move |child| {
                let log = log.clone();
                async move { log.push(format!("released {child}")) }
            })
    };
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![gated("up", OnStart::Up)])
        .await;
    supervisor
        .start_child(gated("failing", OnStart::Fail))
        .await
        .unwrap_err();
    assert!(
        bench.log.lines().contains(&"released failing/1".to_owned()),
        "the gate must complete before the reply"
    );
    let starting = tokio::spawn({
        let (supervisor, child) = (supervisor.clone(), gated("hanging", OnStart::Hang));
        async move { supervisor.start_child(child).await }
    });
    bench.until_logged("start hanging", 1).await;
    supervisor.cell().kill();
    assert_eq!(within(supervisor.wait()).await, None);
    assert_eq!(within(starting).await.unwrap().unwrap_err(), StartChildError::Stopping);
    bench.until_logged("released up/1", 1).await;
    bench.until_logged("released hanging/1", 1).await;
    bench.until_logged("gone up", 1).await;
}

/// A gate that panics counts as completed.
#[tokio::test]
async fn panicking_gate_counts_as_completed() {
    let bench = Bench::new();
    let child = bench.child("child").gate(|_| async { panic!("a broken gate") });
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    crash_and_wait(&supervisor, "child").await;
    within(supervisor.stop()).await;
}

/// While one child hangs in its start and another one in its stop, other children are started,
/// restarted and stopped.
#[tokio::test]
async fn supervisor_answers_at_any_time() {
    let bench = Bench::new();
    let stopping = bench
        .child_that("stopping", |_| OnStart::Up, OnStop::Hang)
        .shutdown(ostler_supervisor::Shutdown::Timeout(Duration::from_secs(3600)));
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("a"), stopping])
        .await;
    let hanging = bench.child_that("starting", |_| OnStart::Hang, OnStop::Obey);
    let start = tokio::spawn({
        let supervisor = supervisor.clone();
        async move { supervisor.start_child(hanging).await }
    });
    bench.until_logged("start starting", 1).await;
    let stop = tokio::spawn({
        let supervisor = supervisor.clone();
        async move { supervisor.terminate_child("stopping").await }
    });
    bench.until_logged("stop stopping", 1).await;

    crash_and_wait(&supervisor, "a").await;
    within(supervisor.start_child(bench.child("b"))).await.unwrap();
    within(supervisor.terminate_child("b")).await.unwrap();
    assert_eq!(
        statuses(&supervisor).await,
        ["a:Running", "stopping:Stopping", "starting:Starting", "b:Undefined"]
    );
    assert!(!start.is_finished() && !stop.is_finished());

    within(supervisor.terminate_child("starting")).await.unwrap();
    assert_eq!(within(start).await.unwrap().unwrap_err(), StartChildError::Cancelled);
    cell_of(&supervisor, "stopping").await.kill();
    within(stop).await.unwrap().unwrap();
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
}

async fn cell_of(supervisor: &Supervisor, id: &str) -> ractor::ActorCell {
    find(&supervisor.which_children().await.unwrap(), id)
        .cell
        .clone()
        .unwrap()
}

/// A panic in a start function or in `pre_start` is a failed start.
#[tokio::test]
async fn panicking_start_is_a_failed_start() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let child = bench.child_that("child", |_| panic!("in pre_start"), OnStop::Obey);
    assert!(matches!(
        supervisor.start_child(child).await,
        Err(StartChildError::Failed(ExitReason::Failed(_)))
    ));
    within(supervisor.stop()).await;
}
