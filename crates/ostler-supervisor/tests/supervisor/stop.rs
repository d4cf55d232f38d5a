//! OTP's group `sup_stop`: how children are stopped.

use std::time::Duration;

use ostler_supervisor::{ChildKind, ChildSpec, End, Restart, Shutdown, Strategy};

use crate::support::{Bench, Command, OnStart, OnStop, cell, tell, within};

const SHORT: Shutdown = Shutdown::Timeout(Duration::from_millis(50));

fn stubborn(bench: &Bench, id: &'static str) -> ChildSpec {
    bench.child_that(id, |_| OnStart::Up, OnStop::Hang).shutdown(SHORT)
}

#[tokio::test]
async fn sup_stop_infinity() {
    let bench = Bench::new();
    let children = vec![
        bench
            .child("child1")
            .kind(ChildKind::Supervisor)
            .shutdown(Shutdown::Infinity),
        bench.child("child2").shutdown(Shutdown::Infinity),
    ];
    let supervisor = bench.supervisor(Strategy::OneForOne, children).await;
    assert_eq!(within(supervisor.stop()).await, Some(End::Stopped));
    let log = bench.log.lines();
    assert_eq!(log[2..], ["stop child2", "gone child2", "stop child1", "gone child1"]);
    assert_eq!(bench.reported("shutdown_error"), [""; 0]);
}

#[tokio::test]
async fn sup_stop_timeout() {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(
            Strategy::OneForOne,
            vec![bench.child("child1"), stubborn(&bench, "child2")],
        )
        .await;
    within(supervisor.stop()).await;
    assert_eq!(
        bench.log.lines()[2..],
        ["stop child2", "gone child2", "stop child1", "gone child1"]
    );
    assert_eq!(bench.reported("shutdown_error"), ["child2/1 killed"], "killed late");
}

/// A child stuck in a message is killed as well.
#[tokio::test]
async fn sup_stop_timeout_in_a_message() {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("child").shutdown(SHORT)])
        .await;
    tell(&cell(&supervisor, "child").await, Command::Hang);
    bench.until_logged("hang child", 1).await;
    within(supervisor.stop()).await;
    assert_eq!(bench.log.lines(), ["start child", "hang child", "gone child"]);
    assert_eq!(bench.reported("shutdown_error"), ["child/1 killed"]);
}

/// In parallel with one timeout: all children that ignore the stop are killed at the same time.
#[tokio::test(start_paused = true)]
async fn sup_stop_timeout_dynamic() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let minute = Shutdown::Timeout(Duration::from_secs(60));
    for _ in 0..5 {
        supervisor
            .start_child(stubborn(&bench, "stubborn").shutdown(minute))
            .await
            .unwrap();
        supervisor
            .start_child(bench.child("child").shutdown(minute))
            .await
            .unwrap();
    }
    let before = tokio::time::Instant::now();
    supervisor.stop().await;
    let took = before.elapsed();
    assert!(
        took >= Duration::from_secs(60) && took < Duration::from_secs(61),
        "{took:?}"
    );
    assert_eq!(bench.reported("shutdown_error").len(), 5);
    assert_eq!(bench.alive(), 0);
}

/// Limits that no clock can reach are no limits.
#[tokio::test]
async fn a_timeout_beyond_the_clock_is_as_long_as_it_takes() {
    let bench = Bench::new();
    let patient = bench.child("patient").shutdown(Shutdown::Timeout(Duration::MAX));
    let stubborn = stubborn(&bench, "stubborn").shutdown(SHORT);
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![patient, stubborn]).await;
    within(supervisor.terminate_child("patient")).await.unwrap();
    within(supervisor.restart_child("patient")).await.unwrap();
    within(supervisor.stop()).await;
    assert_eq!(bench.reported("shutdown_error"), ["stubborn/1 killed"]);
    assert_eq!(bench.alive(), 0);
}

#[tokio::test]
async fn sup_stop_brutal_kill() {
    let bench = Bench::new();
    let children = vec![
        bench.child("child1"),
        bench.child("child2").shutdown(Shutdown::BrutalKill),
    ];
    let supervisor = bench.supervisor(Strategy::OneForOne, children).await;
    within(supervisor.stop()).await;
    assert_eq!(
        bench.log.lines()[2..],
        ["gone child2", "stop child1", "gone child1"],
        "child2 must not reach post_stop"
    );
    assert_eq!(bench.reported("shutdown_error"), [""; 0]);
}

#[tokio::test]
async fn sup_stop_brutal_kill_dynamic() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    for _ in 0..5 {
        supervisor
            .start_child(bench.child("child").shutdown(Shutdown::BrutalKill))
            .await
            .unwrap();
    }
    within(supervisor.stop()).await;
    assert_eq!(bench.log.lines()[5..], ["gone child"; 5]);
    assert_eq!(bench.reported("shutdown_error"), [""; 0]);
}

/// Children that exit on their own while the supervisor stops.
#[tokio::test]
async fn sup_stop_race() {
    for round in 0..20 {
        let bench = Bench::new();
        let children = vec![
            bench.child("a"),
            bench.child("b"),
            bench.child("c").shutdown(Shutdown::BrutalKill),
        ];
        let supervisor = bench.supervisor(Strategy::OneForAll, children).await;
        let cells = [
            cell(&supervisor, "a").await,
            cell(&supervisor, "b").await,
            cell(&supervisor, "c").await,
        ];
        supervisor.request_stop();
        for cell in &cells[round % 3..] {
            tell(cell, Command::Fail);
        }
        assert_eq!(within(supervisor.wait()).await, Some(End::Stopped));
        assert_eq!(bench.alive(), 0);
        let starts = bench
            .log
            .lines()
            .iter()
            .filter(|line| line.starts_with("start"))
            .count();
        assert_eq!(starts, 3, "nothing may be restarted");
    }
}

/// A child that ends in another way than requested is reported.
#[tokio::test]
async fn sup_stop_non_shutdown_exit_dynamic() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let failing = bench.child_that("child", |_| OnStart::Up, OnStop::Fail);
    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        supervisor.start_child(failing.clone().restart(restart)).await.unwrap();
    }
    within(supervisor.stop()).await;
    assert_eq!(bench.reported("shutdown_error"), ["child/1 failed: no stop"; 3]);
}

/// A stop cancels a start that hangs, and drops what it had.
#[tokio::test]
async fn stop_cancels_a_hanging_start() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::RestForOne, vec![bench.child("a")]).await;
    let hanging = bench.child_that("b", |_| OnStart::Hang, OnStop::Obey);
    let starting = tokio::spawn({
        let supervisor = supervisor.clone();
        async move { supervisor.start_child(hanging).await }
    });
    bench.until_logged("start b", 1).await;
    within(supervisor.stop()).await;
    assert!(within(starting).await.unwrap().is_err());
    assert_eq!(bench.log.lines(), ["start a", "start b", "gone b", "stop a", "gone a"]);
}

/// The same for an initial child, even while a caller waits for the supervisor to start.
#[tokio::test]
async fn supervisor_killed_during_its_start_leaves_nothing() {
    let bench = Bench::new();
    let hanging = bench.child_that("b", |_| OnStart::Hang, OnStop::Obey);
    let inner = {
        let bench = bench.clone();
        ChildSpec::supervisor("inner", bench.options(Strategy::OneForOne), move || {
            vec![bench.child("a"), hanging.clone()]
        })
    };
    let outer = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let starting = tokio::spawn({
        let outer = outer.clone();
        async move { outer.start_child(inner).await }
    });
    bench.until_logged("start b", 1).await;
    outer.terminate_child("inner").await.unwrap();
    assert!(within(starting).await.unwrap().is_err());
    assert_eq!(bench.log.lines(), ["start a", "start b", "gone b", "stop a", "gone a"]);
    within(outer.stop()).await;
}
