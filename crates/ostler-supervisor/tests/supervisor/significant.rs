//! OTP's group about `significant` children and `auto_shutdown`.

use ostler_supervisor::{AutoShutdown, ChildSpec, ChildStatus, DynamicSupervisor, End, Restart, Strategy, Supervisor};

use crate::support::{Bench, Command, cell, crash_and_wait, find, normal, settled, shutdown, tell, within};

async fn supervisor(bench: &Bench, auto_shutdown: AutoShutdown, children: Vec<ChildSpec>) -> Supervisor {
    let options = bench.options(Strategy::OneForOne).auto_shutdown(auto_shutdown);
    within(Supervisor::spawn(None, options, children)).await.unwrap()
}

fn significant(bench: &Bench, id: &'static str, restart: Restart) -> ChildSpec {
    bench.child(id).restart(restart).significant(true)
}

async fn ended_by_itself(supervisor: &Supervisor, bench: &Bench) {
    assert_eq!(within(supervisor.wait()).await, Some(End::AutoShutdown));
    assert_eq!(bench.alive(), 0);
}

/// With any exit reason, unless it is terminated.
#[tokio::test]
async fn significant_temporary() {
    for end in [normal, shutdown, || Command::Fail] {
        let bench = Bench::new();
        let children = vec![significant(&bench, "child1", Restart::Temporary), bench.child("child2")];
        let supervisor = supervisor(&bench, AutoShutdown::AnySignificant, children).await;
        tell(&cell(&supervisor, "child1").await, end());
        ended_by_itself(&supervisor, &bench).await;
    }
    let bench = Bench::new();
    let children = ["child1", "child2"]
        .map(|id| significant(&bench, id, Restart::Temporary))
        .to_vec();
    let supervisor = supervisor(&bench, AutoShutdown::AllSignificant, children).await;
    tell(&cell(&supervisor, "child1").await, normal());
    settled(&supervisor, |children| children.len() == 1).await;
    tell(&cell(&supervisor, "child2").await, Command::Fail);
    ended_by_itself(&supervisor, &bench).await;
}

/// Only if it is not restarted.
#[tokio::test]
async fn significant_transient() {
    for end in [normal, shutdown] {
        let bench = Bench::new();
        let children = vec![significant(&bench, "child1", Restart::Transient), bench.child("child2")];
        let supervisor = supervisor(&bench, AutoShutdown::AnySignificant, children).await;
        crash_and_wait(&supervisor, "child1").await;
        tell(&cell(&supervisor, "child1").await, end());
        ended_by_itself(&supervisor, &bench).await;
    }
    let bench = Bench::new();
    let children = ["child1", "child2"]
        .map(|id| significant(&bench, id, Restart::Transient))
        .to_vec();
    let supervisor = supervisor(&bench, AutoShutdown::AllSignificant, children).await;
    tell(&cell(&supervisor, "child1").await, normal());
    settled(&supervisor, |children| {
        find(children, "child1").status == ChildStatus::Undefined
    })
    .await;
    tell(&cell(&supervisor, "child2").await, shutdown());
    ended_by_itself(&supervisor, &bench).await;
}

/// Under simple_one_for_one all children are alike; the last one counts.
#[tokio::test]
async fn significant_simple() {
    let bench = Bench::new();
    let options = bench
        .options(Strategy::OneForOne)
        .auto_shutdown(AutoShutdown::AllSignificant);
    let supervisor = DynamicSupervisor::spawn(None, options).await.unwrap();
    let template = significant(&bench, "child", Restart::Transient);
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
    let third = supervisor.start_child(template).await.unwrap().started().unwrap();
    tell(&first.cell, normal());
    supervisor.terminate_child(second.child.key).await.unwrap();
    within(async {
        while supervisor.count_children().await.unwrap().workers != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    tell(&third.cell, normal());
    assert_eq!(within(supervisor.wait()).await, Some(End::AutoShutdown));
    assert_eq!(bench.alive(), 0);
}

/// Children stopped with a sibling, or on request, do not count as exits on their own.
#[tokio::test]
async fn significant_bystander() {
    for auto_shutdown in [AutoShutdown::AnySignificant, AutoShutdown::AllSignificant] {
        let bench = Bench::new();
        let options = bench.options(Strategy::OneForAll).auto_shutdown(auto_shutdown);
        let children = vec![bench.child("child1"), significant(&bench, "child2", Restart::Temporary)];
        let supervisor = within(Supervisor::spawn(None, options, children)).await.unwrap();
        crash_and_wait(&supervisor, "child1").await;
        supervisor
            .start_child(significant(&bench, "child3", Restart::Transient))
            .await
            .unwrap();
        supervisor.terminate_child("child3").await.unwrap();
        assert_eq!(supervisor.count_children().await.unwrap().active, 1);
        assert_eq!(within(supervisor.stop()).await, Some(End::Stopped));
    }
}

/// The end of a significant supervisor ends the one above it.
#[tokio::test]
async fn significant_escalation() {
    let bench = Bench::new();
    let options = bench
        .options(Strategy::OneForOne)
        .auto_shutdown(AutoShutdown::AnySignificant);
    let inner = {
        let bench = bench.clone();
        let children = move || vec![significant(&bench, "child", Restart::Transient)];
        ChildSpec::supervisor("inner", options, children)
            .restart(Restart::Transient)
            .significant(true)
    };
    let outer = supervisor(&bench, AutoShutdown::AnySignificant, vec![bench.child("other")]).await;
    let started = outer.start_child(inner).await.unwrap().started().unwrap();
    let inner = started.supervisor().unwrap();
    tell(&cell(&inner, "child").await, normal());
    assert_eq!(within(inner.wait()).await, Some(End::AutoShutdown));
    ended_by_itself(&outer, &bench).await;
}

async fn nonsignificant(restart: Restart) {
    for auto_shutdown in [
        AutoShutdown::Never,
        AutoShutdown::AnySignificant,
        AutoShutdown::AllSignificant,
    ] {
        let bench = Bench::new();
        let supervisor = supervisor(&bench, auto_shutdown, vec![bench.child("child1").restart(restart)]).await;
        tell(&cell(&supervisor, "child1").await, normal());
        settled(&supervisor, |children| {
            children.iter().all(|info| info.status == ChildStatus::Undefined)
        })
        .await;
        supervisor.start_child(bench.child("child2")).await.unwrap();
        assert_eq!(within(supervisor.stop()).await, Some(End::Stopped));
    }
}

#[tokio::test]
async fn nonsignificant_temporary() {
    nonsignificant(Restart::Temporary).await;
}

#[tokio::test]
async fn nonsignificant_transient() {
    nonsignificant(Restart::Transient).await;
}
