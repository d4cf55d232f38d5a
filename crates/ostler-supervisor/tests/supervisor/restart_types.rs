//! OTP's groups `normal_termination`, `shutdown_termination` and `abnormal_termination`: which
//! exits restart which children.

use ostler_supervisor::{ChildSpec, ChildStatus, Exit, ExitReason, NotStarted, Report, Restart, Strategy};

use crate::support::{
    Bench, Command, cell, counts, crash_and_wait, find, normal, settled, shutdown, statuses, tell, within,
};

/// What happens to a child after such an exit.
#[derive(Debug, PartialEq)]
enum Fate {
    Restarted,
    Undefined,
    Forgotten,
}

async fn fate(restart: Restart, command: Command) -> (Fate, Vec<String>) {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("child").restart(restart)])
        .await;
    tell(&cell(&supervisor, "child").await, command);
    let settled = settled(&supervisor, |children| match children {
        [] => true,
        [info] => info.status == ChildStatus::Undefined || (info.child.incarnation == 2 && info.cell.is_some()),
        _ => false,
    })
    .await;
    let fate = match settled.first().map(|info| info.status) {
        None => Fate::Forgotten,
        Some(ChildStatus::Undefined) => Fate::Undefined,
        Some(_) => Fate::Restarted,
    };
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
    (fate, bench.reported("child_terminated"))
}

#[tokio::test]
async fn permanent_normal() {
    assert_eq!(
        fate(Restart::Permanent, normal()).await,
        (Fate::Restarted, vec!["child/1 normal".into()])
    );
}

#[tokio::test]
async fn transient_normal() {
    assert_eq!(fate(Restart::Transient, normal()).await, (Fate::Undefined, vec![]));
}

#[tokio::test]
async fn temporary_normal() {
    assert_eq!(fate(Restart::Temporary, normal()).await, (Fate::Forgotten, vec![]));
}

#[tokio::test]
async fn permanent_shutdown() {
    assert_eq!(
        fate(Restart::Permanent, shutdown()).await,
        (Fate::Restarted, vec!["child/1 shutdown".into()])
    );
    let because = Command::Exit(ExitReason::Shutdown(Some("done".into())).into());
    assert_eq!(
        fate(Restart::Permanent, because).await,
        (Fate::Restarted, vec!["child/1 shutdown: done".into()])
    );
}

#[tokio::test]
async fn transient_shutdown() {
    assert_eq!(fate(Restart::Transient, shutdown()).await, (Fate::Undefined, vec![]));
    let because = Command::Exit(ExitReason::Shutdown(Some("done".into())).into());
    assert_eq!(fate(Restart::Transient, because).await, (Fate::Undefined, vec![]));
}

#[tokio::test]
async fn temporary_shutdown() {
    assert_eq!(fate(Restart::Temporary, shutdown()).await, (Fate::Forgotten, vec![]));
}

#[tokio::test]
async fn permanent_abnormal() {
    let reported = vec!["child/1 failed: boom".into()];
    assert_eq!(
        fate(Restart::Permanent, Command::Fail).await,
        (Fate::Restarted, reported)
    );
}

#[tokio::test]
async fn transient_abnormal() {
    for command in [Command::Fail, Command::Panic, Command::Exit(ExitReason::Killed.into())] {
        let (fate, reported) = fate(Restart::Transient, command).await;
        assert_eq!((fate, reported.len()), (Fate::Restarted, 1), "{reported:?}");
    }
}

#[tokio::test]
async fn temporary_abnormal() {
    let reported = vec!["child/1 failed: boom".into()];
    assert_eq!(
        fate(Restart::Temporary, Command::Fail).await,
        (Fate::Forgotten, reported)
    );
}

/// A requested start that fails reports no progress.
#[tokio::test]
async fn external_start_no_progress_log() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let ignored = ChildSpec::starting("ignored", |_| async { Err(NotStarted::Ignored) });
    supervisor.start_child(ignored).await.unwrap();
    let failed = ChildSpec::starting("failed", |_| async {
        Err(NotStarted::Failed(Exit::from(ExitReason::failed("no"))))
    });
    supervisor.start_child(failed).await.unwrap_err();
    assert_eq!(bench.reports.lines(), [], "neither progress nor an error");
    supervisor.start_child(bench.child("child")).await.unwrap();
    assert!(matches!(bench.reports.lines()[..], [Report::Progress { .. }]));
    within(supervisor.stop()).await;
}

/// A transient supervisor that gave up ends with `shutdown`, so its own supervisor does not restart
/// it (OTP's application cases).
#[tokio::test]
async fn faulty_application_shutdown() {
    let bench = Bench::new();
    let inner = {
        let bench = bench.clone();
        ChildSpec::supervisor("inner", bench.with_intensity(Strategy::OneForOne, 0), move || {
            vec![bench.child("child")]
        })
        .restart(Restart::Transient)
    };
    let outer = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let started = outer.start_child(inner).await.unwrap().started().unwrap();
    let inner = started
        .info
        .unwrap()
        .downcast_ref::<ostler_supervisor::Supervisor>()
        .unwrap()
        .clone();
    tell(&cell(&inner, "child").await, Command::Fail);
    within(inner.wait()).await.unwrap();
    settled(&outer, |children| {
        find(children, "inner").status == ChildStatus::Undefined
    })
    .await;
    assert_eq!(
        bench.reported("reached_max_restart_intensity"),
        ["child/1 failed: boom"]
    );
    assert_eq!(
        bench.reported("child_terminated"),
        ["child/1 failed: boom"],
        "the exit of inner must not be abnormal"
    );
    within(outer.stop()).await;
}

/// A temporary child stopped by a group restart is not started again.
#[tokio::test]
async fn temporary_bystander() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let bench = Bench::new();
        let children = vec![bench.child("child1"), bench.child("child2").restart(Restart::Temporary)];
        let supervisor = bench.supervisor(strategy, children).await;
        crash_and_wait(&supervisor, "child1").await;
        assert_eq!(statuses(&supervisor).await, ["child1:Running"], "{strategy:?}");
        assert_eq!(counts(&supervisor).await, [1, 1, 0, 1]);
        within(supervisor.stop()).await;
    }
}
