//! OTP's groups `restart_one_for_one` … `restart_rest_for_one`: which children are restarted, in
//! which order, and when a supervisor gives up.

use std::time::Duration;

use ostler_supervisor::{
    ChildSpec, ChildStatus, DynamicSupervisor, End, Shutdown, Strategy, Supervisor, SupervisorOptions,
};

use crate::support::{
    Bench, Command, OnStart, OnStop, cell, counts, crash_and_wait, find, settled, statuses, tell, within,
};

/// A child that starts once and then never again.
fn only_once(bench: &Bench, id: &'static str) -> ChildSpec {
    bench.child_that(id, |n| if n == 1 { OnStart::Up } else { OnStart::Fail }, OnStop::Obey)
}

/// A child whose second start fails.
fn fails_second_time(bench: &Bench, id: &'static str) -> ChildSpec {
    bench.child_that(id, |n| if n == 2 { OnStart::Fail } else { OnStart::Up }, OnStop::Obey)
}

async fn gave_up(supervisor: &Supervisor, bench: &Bench) {
    let end = within(supervisor.wait()).await;
    assert!(matches!(end, Some(End::MaxIntensity { .. })), "{end:?}");
    assert_eq!(bench.alive(), 0);
    assert_eq!(bench.reported("reached_max_restart_intensity").len(), 1);
}

/// Below the limit the supervisor continues; once the period has passed, more restarts are allowed.
#[tokio::test(start_paused = true)]
async fn multiple_restarts() {
    let bench = Bench::new();
    let options = bench.options(Strategy::OneForOne).intensity(1, Duration::from_secs(1));
    let supervisor = Supervisor::spawn(None, options, vec![bench.child("child1")])
        .await
        .unwrap();
    for _ in 0..5 {
        crash_and_wait(&supervisor, "child1").await;
        // The window is inclusive.
        tokio::time::advance(Duration::from_millis(1001)).await;
    }
    crash_and_wait(&supervisor, "child1").await;
    tell(&cell(&supervisor, "child1").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
}

#[tokio::test]
async fn one_for_one() {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("child1"), bench.child("child2")])
        .await;
    let untouched = cell(&supervisor, "child2").await;
    crash_and_wait(&supervisor, "child1").await;
    assert_eq!(counts(&supervisor).await, [2, 2, 0, 2]);
    assert_eq!(cell(&supervisor, "child2").await, untouched);
    // Two restarts are allowed in total, of any child.
    crash_and_wait(&supervisor, "child2").await;
    tell(&cell(&supervisor, "child1").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
}

#[tokio::test]
async fn one_for_one_escalation() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), only_once(&bench, "child2")];
    let supervisor = bench.supervisor(Strategy::OneForOne, children).await;
    tell(&cell(&supervisor, "child2").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
    assert_eq!(
        bench.reported("start_error"),
        ["child2/2 failed: no start", "child2/3 failed: no start"]
    );
}

#[tokio::test]
async fn one_for_all() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), bench.child("child2"), bench.child("child3")];
    let supervisor = bench.supervisor(Strategy::OneForAll, children).await;
    bench.log.clear();
    crash_and_wait(&supervisor, "child2").await;
    settled(&supervisor, |children| {
        children.iter().all(|info| info.status == ChildStatus::Running)
    })
    .await;
    let down = [
        "gone child2",
        "stop child3",
        "gone child3",
        "stop child1",
        "gone child1",
    ];
    assert_eq!(bench.log.lines()[..5], down);
    assert_eq!(bench.log.lines()[5..], ["start child1", "start child2", "start child3"]);
    assert_eq!(counts(&supervisor).await, [3, 3, 0, 3]);
    // The group restart counted once.
    crash_and_wait(&supervisor, "child1").await;
    tell(&cell(&supervisor, "child3").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
}

#[tokio::test]
async fn one_for_all_escalation() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), only_once(&bench, "child2")];
    let supervisor = bench.supervisor(Strategy::OneForAll, children).await;
    tell(&cell(&supervisor, "child1").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
}

/// If a sibling fails during a restart, the children already started are stopped again.
#[tokio::test]
async fn one_for_all_other_child_fails_restart() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), fails_second_time(&bench, "child2")];
    let supervisor = bench.supervisor(Strategy::OneForAll, children).await;
    bench.log.clear();
    tell(&cell(&supervisor, "child1").await, Command::Fail);
    settled(&supervisor, |children| {
        find(children, "child2").child.incarnation == 3 && find(children, "child2").status == ChildStatus::Running
    })
    .await;
    let log = bench.log.lines();
    assert_eq!(log[..3], ["gone child1", "stop child2", "gone child2"]);
    assert_eq!(
        log[3..7],
        ["start child1", "start child2", "stop child1", "gone child1"]
    );
    assert_eq!(log[7..], ["start child1", "start child2"]);
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn rest_for_one() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), bench.child("child2"), bench.child("child3")];
    let supervisor = bench.supervisor(Strategy::RestForOne, children).await;
    let untouched = cell(&supervisor, "child1").await;
    bench.log.clear();
    crash_and_wait(&supervisor, "child2").await;
    settled(&supervisor, |children| {
        find(children, "child3").status == ChildStatus::Running
    })
    .await;
    let log = bench.log.lines();
    assert_eq!(
        log,
        [
            "gone child2",
            "stop child3",
            "gone child3",
            "start child2",
            "start child3"
        ]
    );
    assert_eq!(cell(&supervisor, "child1").await, untouched);
    assert_eq!(counts(&supervisor).await, [3, 3, 0, 3]);
    crash_and_wait(&supervisor, "child3").await;
    tell(&cell(&supervisor, "child2").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
}

#[tokio::test]
async fn rest_for_one_escalation() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), only_once(&bench, "child2")];
    let supervisor = bench.supervisor(Strategy::RestForOne, children).await;
    tell(&cell(&supervisor, "child1").await, Command::Fail);
    gave_up(&supervisor, &bench).await;
}

/// The restart continues from the child that failed; those started before it stay.
#[tokio::test]
async fn rest_for_one_other_child_fails_restart() {
    let bench = Bench::new();
    let children = vec![bench.child("child1"), fails_second_time(&bench, "child2")];
    let supervisor = bench.supervisor(Strategy::RestForOne, children).await;
    bench.log.clear();
    tell(&cell(&supervisor, "child1").await, Command::Fail);
    settled(&supervisor, |children| {
        find(children, "child2").child.incarnation == 3 && find(children, "child2").status == ChildStatus::Running
    })
    .await;
    let log = bench.log.lines();
    assert_eq!(log[..3], ["gone child1", "stop child2", "gone child2"]);
    assert_eq!(log[3..], ["start child1", "start child2", "start child2"]);
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn simple_one_for_one() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let first = supervisor
        .start_child(bench.child("child"))
        .await
        .unwrap()
        .started()
        .unwrap();
    let second = supervisor
        .start_child(bench.child("child"))
        .await
        .unwrap()
        .started()
        .unwrap();
    tell(&first.cell, Command::Fail);
    bench.until_reported("progress", 3).await;
    let children = supervisor.which_children().await.unwrap();
    assert_eq!(children.len(), 2);
    assert!(children.iter().any(|info| info.cell.as_ref() == Some(&second.cell)));
    tell(&second.cell, Command::Fail);
    bench.until_reported("progress", 4).await;
    let children = supervisor.which_children().await.unwrap();
    tell(children[0].cell.as_ref().unwrap(), Command::Fail);
    assert!(matches!(
        within(supervisor.wait()).await,
        Some(End::MaxIntensity { .. })
    ));
    assert_eq!(bench.alive(), 0);
}

/// Children have their timeouts in parallel: those that stop are waited for, the others are killed
/// afterwards.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_shutdown() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let grace = Shutdown::Timeout(Duration::from_secs(10));
    let obeying = bench.child("obeying").shutdown(grace);
    let hanging = bench
        .child_that("hanging", |_| OnStart::Up, OnStop::Hang)
        .shutdown(grace);
    for child in [&obeying, &obeying, &hanging] {
        supervisor.start_child(child.clone()).await.unwrap();
    }
    let before = tokio::time::Instant::now();
    supervisor.stop().await;
    assert!((10..11).contains(&before.elapsed().as_secs()));
    let log = bench.log.lines();
    assert_eq!(log.iter().filter(|line| line.starts_with("stop")).count(), 3);
    assert_eq!(log.last().unwrap(), "gone hanging");
    assert_eq!(bench.reported("shutdown_error"), ["hanging/1 killed"]);
}

/// A start function with additional information is restarted like any other.
#[tokio::test]
async fn simple_one_for_one_extra() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let inner = ChildSpec::supervisor("inner", SupervisorOptions::new(), Vec::new);
    let first = supervisor.start_child(inner).await.unwrap().started().unwrap();
    let handle = first.supervisor().unwrap();
    handle.cell().kill();
    bench.until_reported("progress", 2).await;
    let counts = supervisor.count_children().await.unwrap();
    assert_eq!((counts.specs, counts.active, counts.supervisors), (1, 1, 1));
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn simple_one_for_one_escalation() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    supervisor.start_child(bench.child("child2")).await.unwrap();
    let child = supervisor
        .start_child(only_once(&bench, "child1"))
        .await
        .unwrap()
        .started()
        .unwrap();
    tell(&child.cell, Command::Fail);
    assert!(matches!(
        within(supervisor.wait()).await,
        Some(End::MaxIntensity { .. })
    ));
    assert_eq!(bench.alive(), 0);
}

/// Each child keeps its own start arguments, even if others are added, removed and fail in between.
#[tokio::test]
async fn simple_one_for_one_corruption() {
    let bench = Bench::new();
    let options = bench.with_intensity(Strategy::OneForOne, 100);
    let supervisor = DynamicSupervisor::spawn(None, options).await.unwrap();
    let a = supervisor
        .start_child(bench.child("a"))
        .await
        .unwrap()
        .started()
        .unwrap();
    supervisor
        .start_child(bench.child_that("x", |_| OnStart::Fail, OnStop::Obey))
        .await
        .unwrap_err();
    let b = supervisor
        .start_child(fails_second_time(&bench, "b"))
        .await
        .unwrap()
        .started()
        .unwrap();
    bench.log.clear();
    tell(&b.cell, Command::Fail);
    bench.until_logged("start b", 2).await;
    tell(&a.cell, Command::Fail);
    bench.until_logged("start a", 1).await;
    bench.until_reported("progress", 4).await;
    let children = supervisor.which_children().await.unwrap();
    assert_eq!(
        children.iter().map(|info| info.child.id.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(!bench.log.lines().contains(&"start x".to_owned()));
    within(supervisor.stop()).await;
}

/// A dynamic child that declines its restart is removed.
#[tokio::test]
async fn simple_one_for_one_restart_ignore() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let declining = bench.child_that(
        "child",
        |n| if n == 1 { OnStart::Up } else { OnStart::Ignore },
        OnStop::Obey,
    );
    let child = supervisor.start_child(declining).await.unwrap().started().unwrap();
    supervisor.start_child(bench.child("other")).await.unwrap();
    tell(&child.cell, Command::Fail);
    within(async {
        while supervisor.count_children().await.unwrap().workers != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    supervisor.terminate_child(child.child.key).await.unwrap();
    within(supervisor.stop()).await;
}

/// The same under one_for_one: its specification is kept.
#[tokio::test]
async fn one_for_one_restart_ignore() {
    let bench = Bench::new();
    let declining = bench.child_that(
        "child",
        |n| if n == 1 { OnStart::Up } else { OnStart::Ignore },
        OnStop::Obey,
    );
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![declining]).await;
    tell(&cell(&supervisor, "child").await, Command::Fail);
    settled(&supervisor, |children| children[0].status == ChildStatus::Undefined).await;
    assert_eq!(statuses(&supervisor).await, ["child:Undefined"]);
    within(supervisor.stop()).await;
}
