//! Handles of supervisors that are children: they stay valid across restarts.

use futures_util::FutureExt;
use ostler_supervisor::{ChildKind, ChildSpec, Gone, StartContext, Strategy, Supervisor};

use crate::support::{Bench, settled, statuses, within};

fn inner(bench: &Bench) -> ChildSpec {
    let (options, bench) = (bench.options(Strategy::OneForOne), bench.clone());
    ChildSpec::supervisor("inner", options, move || vec![bench.child("child")])
}

async fn restarted(outer: &Supervisor, incarnation: u64) {
    settled(outer, |children| {
        children
            .iter()
            .all(|info| info.child.incarnation == incarnation && info.supervisor().is_some())
    })
    .await;
}

#[tokio::test]
async fn a_nested_supervisor_keeps_its_handle_across_a_restart() {
    let bench = Bench::new();
    let options = bench.with_intensity(Strategy::OneForOne, 10);
    let outer = Supervisor::spawn(None, options, vec![inner(&bench)]).await.unwrap();
    let handle = outer.child("inner").await.unwrap().unwrap().supervisor().unwrap();
    let clone = handle.clone();
    let first = handle.cell().get_id();
    for incarnation in 2..5 {
        // What waits for the end of an incarnation learns of it, whatever comes next.
        let waiting = tokio::spawn({
            let handle = handle.clone();
            async move { handle.wait().await }
        });
        tokio::task::yield_now().await;
        handle.cell().kill();
        assert!(within(waiting).await.unwrap().is_none(), "it was killed");
        restarted(&outer, incarnation).await;
        assert_eq!(statuses(&handle).await, ["child:Running"]);
        assert_eq!(clone.cell().get_id(), handle.cell().get_id());
    }
    assert_ne!(handle.cell().get_id(), first);
    handle.start_child(bench.child("another")).await.unwrap();
    assert_eq!(clone.count_children().await.unwrap().active, 2);

    within(outer.stop()).await;
    assert_eq!(handle.count_children().await.unwrap_err(), Gone);
    assert_eq!(bench.alive(), 0);
}

/// A supervisor started by a start function, with what that adds to each end. A panic there does
/// not keep the child from being released and restarted.
#[tokio::test]
async fn what_follows_an_end_comes_before_the_gate_and_the_next_start() {
    let bench = Bench::new();
    let (starting, gated) = (bench.clone(), bench.clone());
    let start = move |context: StartContext| {
        let bench = starting.clone();
        async move {
            let (options, children) = (bench.options(Strategy::OneForOne), vec![bench.child("child")]);
            let (handle, started) = Supervisor::spawn_child(context, options, children).await?;
            Ok(started.then(move || {
                bench.log.push(format!("after {:?}", handle.wait().now_or_never()));
                panic!("what follows an end panics");
            }))
        }
    };
    let inner = ChildSpec::starting("inner", start)
        .kind(ChildKind::Supervisor)
        .gate(move |_| {
            gated.log.push("gate".to_owned());
            std::future::ready(())
        });
    let outer = bench.supervisor(Strategy::OneForOne, vec![inner]).await;
    let first = outer.child("inner").await.unwrap().unwrap().cell.unwrap();
    first.kill();
    bench.until_logged("start child", 2).await;
    let order: Vec<_> = bench
        .log
        .lines()
        .into_iter()
        .filter(|line| line != "gone child")
        .collect();
    assert_eq!(order, ["start child", "after Some(None)", "gate", "start child"]);
    within(outer.stop()).await;
    assert_eq!(bench.alive(), 0);
    assert_eq!(bench.log.lines().last().map(String::as_str), Some("gate"));
}

#[tokio::test]
async fn children_of_one_template_do_not_share_a_handle() {
    let bench = Bench::new();
    let outer = bench.dynamic().await;
    let template = inner(&bench);
    let start = async || {
        let started = outer.start_child(template.clone()).await.unwrap().started().unwrap();
        started.supervisor().unwrap()
    };
    let (one, two) = (start().await, start().await);
    assert_ne!(one.cell().get_id(), two.cell().get_id());
    one.start_child(bench.child("another")).await.unwrap();
    assert_eq!(one.count_children().await.unwrap().active, 2);
    assert_eq!(two.count_children().await.unwrap().active, 1);

    // Nor do those of two supervisors, whose keys may be the same.
    let other = bench.dynamic().await;
    let three = other.start_child(template.clone()).await.unwrap().started().unwrap();
    let three = three.supervisor().unwrap();
    assert_ne!(one.cell().get_id(), three.cell().get_id());
    assert_eq!(three.count_children().await.unwrap().active, 1);
    within(outer.stop()).await;
    assert_eq!(three.count_children().await.unwrap().active, 1);
    within(other.stop()).await;
    assert_eq!(bench.alive(), 0);
}
