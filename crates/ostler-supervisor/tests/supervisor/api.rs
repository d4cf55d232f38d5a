//! The requests and what they return: OTP's cases `child_adm`, `child_specs` and so on.

use std::sync::Arc;
use std::time::Duration;

use ostler_supervisor::{
    AutoShutdown, ChildKind, ChildSpec, ChildStatus, DeleteChildError, ExitFailure, Restart, RestartChildError,
    SpecError, StartChildError, Strategy, Supervisor, SupervisorOptions, TerminateChildError,
};
use ractor::{Actor, SpawnErr};

use crate::support::{Bench, OnStart, OnStop, Subject, cell, counts, settled, statuses, within};

#[tokio::test]
async fn child_adm() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;

    // Start.
    let started = supervisor
        .start_child(bench.child("child1"))
        .await
        .unwrap()
        .started()
        .unwrap();
    assert_eq!(statuses(&supervisor).await, ["child1:Running"]);
    assert_eq!(counts(&supervisor).await, [1, 1, 0, 1]);

    // Start it again.
    let again = supervisor.start_child(bench.child("child1")).await.unwrap_err();
    assert_eq!(again, StartChildError::AlreadyStarted(started.child.clone()));
    assert_eq!(
        supervisor.restart_child("child1").await.unwrap_err(),
        RestartChildError::Running
    );
    assert_eq!(
        supervisor.delete_child("child1").await.unwrap_err(),
        DeleteChildError::Running
    );

    // Terminate, twice.
    supervisor.terminate_child("child1").await.unwrap();
    supervisor.terminate_child("child1").await.unwrap();
    assert_eq!(statuses(&supervisor).await, ["child1:Undefined"]);
    assert_eq!(counts(&supervisor).await, [1, 0, 0, 1]);
    let present = supervisor.start_child(bench.child("child1")).await.unwrap_err();
    assert_eq!(present, StartChildError::AlreadyPresent("child1".into()));

    // Restart.
    let restarted = supervisor.restart_child("child1").await.unwrap().started().unwrap();
    assert_eq!(
        (restarted.child.key, restarted.child.incarnation),
        (started.child.key, 2)
    );

    // Delete, and start again.
    supervisor.terminate_child("child1").await.unwrap();
    supervisor.delete_child("child1").await.unwrap();
    assert_eq!(counts(&supervisor).await, [0, 0, 0, 0]);
    let again = supervisor
        .start_child(bench.child("child1"))
        .await
        .unwrap()
        .started()
        .unwrap();
    assert_ne!(again.child.key, started.child.key);

    // No such child.
    assert_eq!(
        supervisor.terminate_child("child2").await.unwrap_err(),
        TerminateChildError::NotFound
    );
    assert_eq!(
        supervisor.restart_child("child2").await.unwrap_err(),
        RestartChildError::NotFound
    );
    assert_eq!(
        supervisor.delete_child("child2").await.unwrap_err(),
        DeleteChildError::NotFound
    );

    // The supervisor is gone.
    within(supervisor.stop()).await;
    assert_eq!(
        supervisor.start_child(bench.child("child3")).await.unwrap_err(),
        StartChildError::Stopping
    );
    assert_eq!(
        supervisor.terminate_child("child1").await.unwrap_err(),
        TerminateChildError::Stopping
    );
    assert!(supervisor.which_children().await.is_err());
}

#[tokio::test]
async fn child_adm_simple() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let template = bench.child("child");
    let first = supervisor
        .start_child(template.clone())
        .await
        .unwrap()
        .started()
        .unwrap();
    let second = supervisor
        .start_child(template.clone())
        .await
        .unwrap()
        .started()
        .unwrap();
    assert_eq!(supervisor.count_children().await.unwrap().active, 2);

    // By key, and idempotent. Even a permanent child is removed.
    supervisor.terminate_child(first.child.key).await.unwrap();
    supervisor.terminate_child(first.child.key).await.unwrap();
    let children = supervisor.which_children().await.unwrap();
    assert_eq!(children.len(), 1);
    assert_eq!(children[0].child, second.child);

    // A key of another supervisor that this one never assigned.
    let other = bench.dynamic().await;
    let mut strange = Vec::new();
    for _ in 0..5 {
        strange.push(
            other
                .start_child(template.clone())
                .await
                .unwrap()
                .started()
                .unwrap()
                .child
                .key,
        );
    }
    assert_eq!(
        supervisor.terminate_child(strange[4]).await.unwrap_err(),
        TerminateChildError::NotFound
    );
    within(other.stop()).await;
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
}

/// The additional information of a start function is returned by each start.
#[tokio::test]
async fn extra_return() {
    let bench = Bench::new();
    let bench_inside = bench.clone();
    let child = ChildSpec::starting("child1", move |mut context| {
        let behaviour = bench_inside.obedient("child1");
        async move {
            let incarnation = context.child().incarnation;
            let started = context.spawn(None, Subject, (behaviour, incarnation)).await?;
            Ok(started.with_info(Arc::new(format!("extra {incarnation}"))))
        }
    });
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let extra = |start: ostler_supervisor::ChildStart| {
        let info = start.started().unwrap().info.unwrap();
        info.downcast_ref::<String>().unwrap().clone()
    };
    assert_eq!(extra(supervisor.start_child(child).await.unwrap()), "extra 1");
    supervisor.terminate_child("child1").await.unwrap();
    assert_eq!(extra(supervisor.restart_child("child1").await.unwrap()), "extra 2");
    within(supervisor.stop()).await;
}

/// All combinations of child specifications.
#[tokio::test]
async fn child_specs() {
    let bench = Bench::new();
    for auto_shutdown in [
        AutoShutdown::Never,
        AutoShutdown::AnySignificant,
        AutoShutdown::AllSignificant,
    ] {
        let options = bench.options(Strategy::OneForOne).auto_shutdown(auto_shutdown);
        let supervisor = within(Supervisor::spawn(None, options, vec![])).await.unwrap();
        for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
            for significant in [false, true] {
                let child = bench.child("child").restart(restart).significant(significant);
                let started = supervisor.start_child(child).await;
                let expected = match (significant, auto_shutdown, restart) {
                    (true, AutoShutdown::Never, _) => Some(SpecError::SignificantUnderNever("child".into())),
                    (true, _, Restart::Permanent) => Some(SpecError::SignificantPermanent("child".into())),
                    _ => None,
                };
                match expected {
                    Some(refusal) => assert_eq!(started.unwrap_err(), StartChildError::Invalid(refusal)),
                    None => {
                        started.unwrap();
                        supervisor.terminate_child("child").await.unwrap();
                        let _ = supervisor.delete_child("child").await;
                    }
                }
            }
        }
        within(supervisor.stop()).await;
    }
}

#[tokio::test]
async fn sup_flags() {
    let start = async |options| within(Supervisor::spawn(None, options, vec![])).await;
    let refused = start(SupervisorOptions::new().intensity(1, Duration::ZERO)).await;
    assert!(refused.is_err());
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
        Strategy::SimpleOneForOne,
    ] {
        for restarts in [0, 1, u32::MAX] {
            let options = SupervisorOptions::new()
                .strategy(strategy)
                .intensity(restarts, Duration::from_nanos(1));
            within(start(options).await.unwrap().stop()).await;
        }
    }
}

#[tokio::test]
async fn which_children() {
    let bench = Bench::new();
    let inner = ChildSpec::supervisor("inner", SupervisorOptions::new(), Vec::new);
    let failing = bench.child_that(
        "failing",
        |n| if n == 1 { OnStart::Up } else { OnStart::Hang },
        OnStop::Obey,
    );
    let children = vec![bench.child("a"), inner, failing, bench.child("b")];
    let supervisor = bench.supervisor(Strategy::OneForOne, children).await;
    supervisor.terminate_child("a").await.unwrap();
    cell(&supervisor, "failing").await.kill();
    let children = settled(&supervisor, |children| children[2].status == ChildStatus::Starting).await;
    let expected = [
        ("a", ChildStatus::Undefined, ChildKind::Worker),
        ("inner", ChildStatus::Running, ChildKind::Supervisor),
        ("failing", ChildStatus::Starting, ChildKind::Worker),
        ("b", ChildStatus::Running, ChildKind::Worker),
    ];
    for (info, (id, status, kind)) in children.iter().zip(expected) {
        assert_eq!((info.child.id.as_str(), info.status, info.kind), (id, status, kind));
        assert_eq!(info.cell.is_some(), status == ChildStatus::Running);
    }
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn which_children_simple_one_for_one() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let mut keys = Vec::new();
    for id in ["a", "b", "c"] {
        keys.push(
            supervisor
                .start_child(bench.child(id))
                .await
                .unwrap()
                .started()
                .unwrap()
                .child
                .key,
        );
    }
    let children = supervisor.which_children().await.unwrap();
    assert_eq!(children.iter().map(|info| info.child.key).collect::<Vec<_>>(), keys);
    assert!(
        children
            .iter()
            .all(|info| info.status == ChildStatus::Running && info.cell.is_some())
    );
    within(supervisor.stop()).await;
}

/// An actor with that name already exists elsewhere: the start fails with that reason, and nothing
/// is kept.
#[tokio::test]
async fn already_started_outside_supervisor() {
    let bench = Bench::new();
    let name = "already_started_outside_supervisor";
    let behaviour = bench.obedient("child");
    let (outside, ended) = Actor::spawn(Some(name.into()), Subject, (behaviour.clone(), 1))
        .await
        .unwrap();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let child = ChildSpec::named_actor("child", name, move || (Subject, (behaviour.clone(), 1)));
    let error = supervisor.start_child(child.clone()).await.unwrap_err();
    let StartChildError::Failed(ostler_supervisor::ExitReason::Failed(failure)) = error else {
        panic!("{error}")
    };
    let taken = |failure: &ExitFailure| matches!(failure.downcast_ref(), Some(SpawnErr::ActorAlreadyRegistered(_)));
    assert!(taken(&failure), "{failure}");
    assert_eq!(counts(&supervisor).await, [0, 0, 0, 0]);

    outside.stop(None);
    within(ended).await.unwrap();
    supervisor.start_child(child).await.unwrap();
    assert!(ractor::registry::where_is(name).is_some());
    within(supervisor.stop()).await;
    assert!(ractor::registry::where_is(name).is_none());
}
