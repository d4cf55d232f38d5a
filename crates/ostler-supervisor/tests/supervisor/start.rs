//! OTP's group `sup_start`: how supervisors and their initial children start.

use ostler_supervisor::{
    AutoShutdown, ChildKind, ChildSpec, ChildStart, ExitReason, NotStarted, Restart, RestartChildError, Shutdown,
    SpecError, StartChildError, Strategy, Supervisor, SupervisorError, SupervisorOptions,
};
use std::time::Duration;

use crate::support::{Bench, OnStart, OnStop, counts, statuses, within};

#[tokio::test]
async fn sup_start_normal() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    within(supervisor.stop()).await.expect("stopped on request");
}

/// OTP's supervisor can decline in its `init`; here its start function declines.
#[tokio::test]
async fn sup_start_ignore_init() {
    let bench = Bench::new();
    let declining = ChildSpec::starting("sup", |_| async { Err(NotStarted::Ignored) }).kind(ChildKind::Supervisor);
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![declining]).await;
    assert_eq!(statuses(&supervisor).await, ["sup:Undefined"]);
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn sup_start_ignore_child() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let ignored = supervisor
        .start_child(bench.child_that("child1", |_| OnStart::Ignore, OnStop::Obey))
        .await;
    assert!(matches!(ignored, Ok(ChildStart::Ignored(_))), "{ignored:?}");
    supervisor
        .start_child(bench.child("child2"))
        .await
        .unwrap()
        .started()
        .unwrap();
    assert_eq!(statuses(&supervisor).await, ["child1:Undefined", "child2:Running"]);
    assert_eq!(counts(&supervisor).await, [2, 1, 0, 2]);
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn sup_start_ignore_temporary_child() {
    let bench = Bench::new();
    let ignore = bench
        .child_that("child1", |_| OnStart::Ignore, OnStop::Obey)
        .restart(Restart::Temporary);
    let child = bench.child("child2").restart(Restart::Temporary);
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![ignore, child]).await;
    assert_eq!(statuses(&supervisor).await, ["child2:Running"]);
    assert_eq!(counts(&supervisor).await, [1, 1, 0, 1]);
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn sup_start_ignore_temporary_child_start_child() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let ignore = bench
        .child_that("child1", |_| OnStart::Ignore, OnStop::Obey)
        .restart(Restart::Temporary);
    assert!(matches!(
        supervisor.start_child(ignore).await,
        Ok(ChildStart::Ignored(_))
    ));
    supervisor
        .start_child(bench.child("child2").restart(Restart::Temporary))
        .await
        .unwrap();
    assert_eq!(statuses(&supervisor).await, ["child2:Running"]);
    assert_eq!(counts(&supervisor).await, [1, 1, 0, 1]);
    within(supervisor.stop()).await;
}

async fn ignored_by_a_dynamic_supervisor(restart: Restart) {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let ignore = bench
        .child_that("child", |_| OnStart::Ignore, OnStop::Obey)
        .restart(restart);
    assert!(matches!(
        supervisor.start_child(ignore).await,
        Ok(ChildStart::Ignored(_))
    ));
    supervisor
        .start_child(bench.child("child").restart(restart))
        .await
        .unwrap();
    let counts = supervisor.count_children().await.unwrap();
    assert_eq!((counts.specs, counts.active, counts.workers), (1, 1, 1));
    assert_eq!(supervisor.which_children().await.unwrap().len(), 1);
    within(supervisor.stop()).await;
    assert_eq!(
        bench.log.lines(),
        ["start child", "start child", "stop child", "gone child"]
    );
}

#[tokio::test]
async fn sup_start_ignore_temporary_child_start_child_simple() {
    ignored_by_a_dynamic_supervisor(Restart::Temporary).await;
}

#[tokio::test]
async fn sup_start_ignore_permanent_child_start_child_simple() {
    ignored_by_a_dynamic_supervisor(Restart::Permanent).await;
}

/// OTP: `init` returns an invalid value. The types only leave invalid flags and children.
#[tokio::test]
async fn sup_start_error_return() {
    let options = SupervisorOptions::new().intensity(1, Duration::ZERO);
    let refused = within(Supervisor::spawn(None, options, vec![])).await.unwrap_err();
    assert!(
        matches!(refused, SupervisorError::Invalid(SpecError::ZeroPeriod)),
        "{refused}"
    );
}

/// A start function that panics is a failed start.
#[tokio::test]
async fn sup_start_fail() {
    let options = SupervisorOptions::new();
    let child = ChildSpec::starting("child", |_| async { panic!("no badmatch here") });
    let failed = within(Supervisor::spawn(None, options, vec![child])).await.unwrap_err();
    let SupervisorError::Child { child, reason } = failed else {
        panic!("{failed}")
    };
    assert_eq!(child.id.as_str(), "child");
    assert!(reason.is_abnormal(), "{reason}");
}

/// The children started so far are stopped again, in reverse order, and the error names the child.
#[tokio::test]
async fn sup_start_child_returns_error_at_init() {
    let bench = Bench::new();
    let children = vec![
        bench.child("a"),
        bench.child("b"),
        bench.child_that("c", |_| OnStart::Fail, OnStop::Obey),
        bench.child("d"),
    ];
    let failed = within(Supervisor::spawn(None, bench.options(Strategy::OneForOne), children))
        .await
        .unwrap_err();
    let SupervisorError::Child { child, reason } = failed else {
        panic!("{failed}")
    };
    assert_eq!((child.id.as_str(), reason), ("c", ExitReason::failed("no start")));
    let log = bench.log.lines();
    assert_eq!(
        log,
        ["start a", "start b", "start c", "stop b", "gone b", "stop a", "gone a"]
    );
    assert_eq!(bench.reported("start_error"), ["c/1 failed: no start"]);
}

#[tokio::test]
async fn sup_start_child_returns_error() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let failing = bench.child_that("child1", |_| OnStart::Fail, OnStop::Obey);
    let error = supervisor.start_child(failing).await.unwrap_err();
    assert_eq!(error, StartChildError::Failed(ExitReason::failed("no start")));
    assert_eq!(
        statuses(&supervisor).await,
        [""; 0],
        "the specification must be dropped"
    );
    assert_eq!(counts(&supervisor).await, [0, 0, 0, 0]);
    assert_eq!(bench.reported("start_error"), [""; 0], "reported to the caller only");
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn sup_start_child_returns_error_simple() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let failing = bench.child_that("child", |_| OnStart::Panic, OnStop::Obey);
    let error = supervisor.start_child(failing).await.unwrap_err();
    assert!(matches!(error, StartChildError::Failed(_)), "{error}");
    assert!(supervisor.which_children().await.unwrap().is_empty());
    within(supervisor.stop()).await;
}

/// The specification is kept.
#[tokio::test]
async fn sup_start_restart_child_returns_error() {
    let bench = Bench::new();
    let once = bench.child_that(
        "child1",
        |n| if n == 1 { OnStart::Up } else { OnStart::Fail },
        OnStop::Obey,
    );
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![once]).await;
    supervisor.terminate_child("child1").await.unwrap();
    let error = supervisor.restart_child("child1").await.unwrap_err();
    assert_eq!(error, RestartChildError::Failed(ExitReason::failed("no start")));
    assert_eq!(statuses(&supervisor).await, ["child1:Undefined"]);
    within(supervisor.stop()).await;
}

/// OTP's defaults.
#[tokio::test]
async fn sup_start_map() {
    let bench = Bench::new();
    let children = vec![
        bench.child("child1"),
        bench.child("child2").shutdown(Shutdown::BrutalKill),
        bench.child("child3").kind(ChildKind::Supervisor),
    ];
    let supervisor = bench.supervisor(Strategy::OneForOne, children).await;
    let spec = supervisor.get_child_spec("child1").await.unwrap().unwrap();
    assert_eq!(
        (spec.id.as_str(), spec.restart, spec.significant),
        ("child1", Restart::Permanent, false)
    );
    assert_eq!(
        (spec.shutdown, spec.kind),
        (Shutdown::Timeout(Duration::from_secs(5)), ChildKind::Worker)
    );
    let spec = supervisor.get_child_spec("child2").await.unwrap().unwrap();
    assert_eq!(spec.shutdown, Shutdown::BrutalKill);
    let spec = supervisor.get_child_spec("child3").await.unwrap().unwrap();
    assert_eq!((spec.shutdown, spec.kind), (Shutdown::Infinity, ChildKind::Supervisor));
    assert!(supervisor.get_child_spec("child4").await.unwrap().is_none());
    within(supervisor.stop()).await;
}

/// The same under simple_one_for_one: a specification is a template.
#[tokio::test]
async fn sup_start_map_simple() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let template = bench.child("child");
    for _ in 0..3 {
        supervisor.start_child(template.clone()).await.unwrap();
    }
    let children = supervisor.which_children().await.unwrap();
    assert!(
        children
            .iter()
            .all(|info| info.kind == ChildKind::Worker && info.child.id.as_str() == "child")
    );
    assert_eq!(children.len(), 3);
    within(supervisor.stop()).await;
}

/// OTP's faulty specifications as far as the types allow them: duplicate ids, invalid significance,
/// and a list of children under simple_one_for_one.
#[tokio::test]
async fn sup_start_map_faulty_specs() {
    let bench = Bench::new();
    let refusal =
        async |options: SupervisorOptions, children| match within(Supervisor::spawn(None, options, children)).await {
            Err(SupervisorError::Invalid(refused)) => refused,
            other => panic!("{other:?}"),
        };
    let options = || bench.options(Strategy::OneForOne);
    let twice = vec![bench.child("a"), bench.child("a")];
    assert_eq!(refusal(options(), twice).await, SpecError::DuplicateId("a".into()));
    let significant = vec![bench.child("a").restart(Restart::Transient).significant(true)];
    assert_eq!(
        refusal(options(), significant).await,
        SpecError::SignificantUnderNever("a".into())
    );
    let permanent = vec![bench.child("a").significant(true)];
    let any = options().auto_shutdown(AutoShutdown::AnySignificant);
    assert_eq!(
        refusal(any, permanent).await,
        SpecError::SignificantPermanent("a".into())
    );
    let simple = options().strategy(Strategy::SimpleOneForOne);
    assert_eq!(
        refusal(simple, vec![bench.child("a")]).await,
        SpecError::InitialDynamicChildren
    );
    assert_eq!(bench.log.lines(), [""; 0], "nothing may be started");
}
