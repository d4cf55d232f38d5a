//! Futures that are dropped at each of their awaits: what a request has ordered still happens, and
//! the supervisor continues as if the caller had waited.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::BoxFuture;
use ostler_supervisor::{
    ChildSpec, ChildStart, ChildStatus, DeleteChildError, NotStarted, Restart, RestartChildError, StartChildError,
    StartContext, Strategy, Supervisor,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::unconstrained;

use crate::support::{Bench, Command, OnStart, Subject, settled, statuses, within};

/// Drops a future after so many polls, if it is not ready before. Returns whether it was ready.
async fn drop_after(polls: usize, future: impl Future) -> bool {
    // Tokio's budget would make a future that is ready pend.
    let mut future = pin!(unconstrained(future));
    let mut polled = 0;
    within(poll_fn(|context| {
        if polled == polls {
            return Poll::Ready(false);
        }
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if polled == polls => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    }))
    .await
}

/// Drops a future that is not ready once this has happened.
async fn drop_once(happened: impl Future, future: impl Future) {
    within(async {
        tokio::select! {
            biased;
            _ = future => panic!("it was ready before"),
            _ = happened => {}
        }
    })
    .await;
}

/// Runs a case with each number of polls, from none to as many as the future takes. Each case says
/// whether its future was ready.
async fn at_every_await<Case: Future<Output = bool>>(case: impl Fn(usize) -> Case) {
    let mut polls = 0;
    while !case(polls).await {
        polls += 1;
    }
    assert!(polls > 1, "it never waited");
}

/// What tests let pass, one at a time.
fn closed() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

async fn pass(door: &Semaphore) {
    door.acquire().await.expect("never closed").forget();
}

/// A child whose start says that it waits, and waits for the door.
fn slow_start(bench: &Bench, door: &Arc<Semaphore>) -> ChildSpec {
    let (behaviour, door) = (bench.obedient("slow"), Arc::clone(door));
    ChildSpec::starting("slow", move |mut context| {
        let (behaviour, door) = (behaviour.clone(), Arc::clone(&door));
        async move {
            behaviour.log.push("slow waits".to_owned());
            tokio::select! {
                () = context.cancelled() => return Err(NotStarted::cancelled()),
                () = pass(&door) => {}
            }
            context.spawn(None, Subject, (behaviour, 1)).await
        }
    })
}

/// A child whose release says that it waits, and waits for the door.
fn slow_release(bench: &Bench, door: &Arc<Semaphore>) -> ChildSpec {
    let (log, door) = (bench.log.clone(), Arc::clone(door));
    bench.child("slow").gate(move |_| {
        let (log, door) = (log.clone(), Arc::clone(&door));
        async move {
            log.push("slow waits".to_owned());
            pass(&door).await;
        }
    })
}

/// The state that these children should reach, and a proof that the supervisor works.
async fn comes_to(supervisor: &Supervisor, bench: &Bench, status: Option<ChildStatus>) {
    settled(supervisor, |children| {
        children
            .iter()
            .find(|info| info.child.id.as_str() != "other")
            .map(|info| info.status)
            == status
    })
    .await;
    within(supervisor.start_child(bench.child("other"))).await.unwrap();
    within(supervisor.terminate_child("other")).await.unwrap();
    within(supervisor.delete_child("other")).await.unwrap();
}

/// Ends the test: nothing is left.
async fn end(supervisor: Supervisor, bench: &Bench) {
    within(supervisor.stop()).await.unwrap();
    assert_eq!(bench.alive(), 0);
}

#[tokio::test]
async fn a_start_that_is_dropped_starts() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
        let ready = drop_after(polls, supervisor.start_child(bench.child("child"))).await;
        let status = (polls > 0).then_some(ChildStatus::Running);
        comes_to(&supervisor, &bench, status).await;
        let again = within(supervisor.start_child(bench.child("child"))).await;
        match polls {
            0 => assert!(matches!(again, Ok(ChildStart::Started(_)))),
            _ => assert!(matches!(again, Err(StartChildError::AlreadyStarted(_)))),
        }
        end(supervisor, &bench).await;
        ready
    })
    .await;
}

#[tokio::test]
async fn a_start_that_is_dropped_while_the_child_starts_goes_on() {
    let (bench, door) = (Bench::new(), closed());
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    drop_once(
        bench.until_logged("slow waits", 1),
        supervisor.start_child(slow_start(&bench, &door)),
    )
    .await;
    assert_eq!(statuses(&supervisor).await, ["slow:Starting"]);
    door.add_permits(1);
    comes_to(&supervisor, &bench, Some(ChildStatus::Running)).await;
    end(supervisor, &bench).await;
}

#[tokio::test]
async fn a_termination_that_is_dropped_terminates() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
        let ready = drop_after(polls, supervisor.terminate_child("child")).await;
        let status = if polls == 0 {
            ChildStatus::Running
        } else {
            ChildStatus::Undefined
        };
        comes_to(&supervisor, &bench, Some(status)).await;
        within(supervisor.terminate_child("child")).await.unwrap();
        within(supervisor.restart_child("child"))
            .await
            .unwrap()
            .started()
            .unwrap();
        end(supervisor, &bench).await;
        ready
    })
    .await;
}

#[tokio::test]
async fn a_termination_that_is_dropped_while_the_child_is_released_goes_on() {
    let (bench, door) = (Bench::new(), closed());
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![slow_release(&bench, &door)])
        .await;
    drop_once(bench.until_logged("slow waits", 1), supervisor.terminate_child("slow")).await;
    // Another one waits for the same end.
    let terminated = tokio::spawn({
        let supervisor = supervisor.clone();
        async move { supervisor.terminate_child("slow").await }
    });
    assert_eq!(statuses(&supervisor).await, ["slow:Stopping"]);
    door.add_permits(1);
    within(terminated).await.unwrap().unwrap();
    comes_to(&supervisor, &bench, Some(ChildStatus::Undefined)).await;
    end(supervisor, &bench).await;
}

#[tokio::test]
async fn a_restart_that_is_dropped_starts_the_child() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
        within(supervisor.terminate_child("child")).await.unwrap();
        let ready = drop_after(polls, supervisor.restart_child("child")).await;
        let status = if polls == 0 {
            ChildStatus::Undefined
        } else {
            ChildStatus::Running
        };
        comes_to(&supervisor, &bench, Some(status)).await;
        let again = within(supervisor.restart_child("child")).await;
        match polls {
            0 => assert!(matches!(again, Ok(ChildStart::Started(_)))),
            _ => assert_eq!(again.unwrap_err(), RestartChildError::Running),
        }
        end(supervisor, &bench).await;
        ready
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_is_dropped_deletes() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
        within(supervisor.terminate_child("child")).await.unwrap();
        let ready = drop_after(polls, supervisor.delete_child("child")).await;
        let status = (polls == 0).then_some(ChildStatus::Undefined);
        comes_to(&supervisor, &bench, status).await;
        let again = within(supervisor.delete_child("child")).await;
        match polls {
            0 => again.unwrap(),
            _ => assert_eq!(again.unwrap_err(), DeleteChildError::NotFound),
        }
        within(supervisor.start_child(bench.child("child"))).await.unwrap();
        end(supervisor, &bench).await;
        ready
    })
    .await;
}

#[tokio::test]
async fn a_question_that_is_dropped_changes_nothing() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
        let ready = [
            drop_after(polls, supervisor.which_children()).await,
            drop_after(polls, supervisor.count_children()).await,
            drop_after(polls, supervisor.get_child_spec("child")).await,
            drop_after(polls, supervisor.child("child")).await,
            drop_after(polls, supervisor.actor_ref::<Command>("child")).await,
        ];
        // Waiting for an end is one, too. Nothing wakes it, so there is one poll.
        assert!(!drop_after(polls.min(1), supervisor.wait()).await);
        comes_to(&supervisor, &bench, Some(ChildStatus::Running)).await;
        end(supervisor, &bench).await;
        ready.iter().all(|ready| *ready)
    })
    .await;
}

#[tokio::test]
async fn a_stop_that_is_dropped_stops() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
        let ready = drop_after(polls, supervisor.stop()).await;
        if polls > 0 {
            within(supervisor.wait()).await.unwrap();
            assert_eq!(bench.log.lines(), ["start child", "stop child", "gone child"]);
        } else {
            comes_to(&supervisor, &bench, Some(ChildStatus::Running)).await;
        }
        end(supervisor, &bench).await;
        ready
    })
    .await;
}

/// No handle to it will ever exist, so it stops again, in order.
#[tokio::test]
async fn a_supervisor_whose_start_is_dropped_leaves_nothing() {
    for linked in [false, true] {
        at_every_await(async |polls| {
            let bench = Bench::new();
            let parent = bench.supervisor(Strategy::OneForOne, vec![]).await;
            let (over, mut is_over) = watch::channel(());
            let children = ["a", "b"].map(|id| {
                let over = over.clone();
                // With its last specification, the supervisor is gone.
                bench.child(id).gate(move |_| {
                    let _held = &over;
                    std::future::ready(())
                })
            });
            drop(over);
            let (options, children) = (bench.options(Strategy::OneForOne), children.into());
            let spawned: BoxFuture<'_, _> = match linked {
                false => Box::pin(Supervisor::spawn(None, options, children)),
                true => Box::pin(Supervisor::spawn_linked(None, options, children, parent.cell())),
            };
            let (keep, mut kept) = mpsc::unbounded_channel();
            let ready = drop_after(polls, async move { drop(keep.send(spawned.await)) }).await;
            if ready {
                let supervisor = kept.recv().await.expect("sent").expect("started");
                within(supervisor.stop()).await.unwrap();
            }
            within(async { while is_over.changed().await.is_ok() {} }).await;
            assert_eq!(bench.alive(), 0);
            let lines = bench.log.lines();
            let of = |what: &str| lines.iter().filter(|line| line.starts_with(what)).count();
            assert_eq!(of("start"), of("gone"), "{lines:?}");
            comes_to(&parent, &bench, None).await;
            end(parent, &bench).await;
            ready
        })
        .await;
    }
}

/// The same requests to a dynamic supervisor.
#[tokio::test]
async fn requests_to_a_dynamic_supervisor_that_are_dropped_are_carried_out() {
    at_every_await(async |polls| {
        let bench = Bench::new();
        let supervisor = bench.dynamic().await;
        let child = bench.child("child").restart(Restart::Temporary);
        let started = drop_after(polls, supervisor.start_child(child.clone())).await;
        if polls == 0 {
            within(supervisor.start_child(child)).await.unwrap();
        }
        bench.until_logged("start child", 1).await;
        let key = within(async {
            loop {
                let children = supervisor.which_children().await.unwrap();
                if let [info] = &children[..]
                    && info.status == ChildStatus::Running
                {
                    return info.child.key;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let terminated = drop_after(polls, supervisor.terminate_child(key)).await;
        if polls > 0 {
            bench.until_logged("gone child", 1).await;
        }
        within(supervisor.terminate_child(key)).await.unwrap();
        assert_eq!(supervisor.count_children().await.unwrap().active, 0);
        let stopped = drop_after(polls, supervisor.stop()).await;
        if polls > 0 {
            within(supervisor.wait()).await.unwrap();
        }
        within(supervisor.stop()).await.unwrap();
        assert_eq!(bench.alive(), 0);
        started && terminated && stopped
    })
    .await;
}

/// A child whose start function makes something of its context, drops that after so many polls, and
/// fails.
fn given_up<F, Fut>(polls: usize, ready: mpsc::UnboundedSender<bool>, work: F) -> ChildSpec
where
    F: Fn(StartContext) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: Send,
{
    ChildSpec::starting("child", move |context| {
        let (work, ready) = (work(context), ready.clone());
        async move {
            let _ = ready.send(drop_after(polls, work).await);
            Err(NotStarted::Ignored)
        }
    })
}

/// Waits until no actor is linked to this supervisor.
async fn childless(supervisor: &Supervisor) {
    within(async {
        while !supervisor.cell().get_children().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Its actor is linked to its parent, which would keep it.
#[tokio::test]
async fn a_nested_supervisor_whose_start_is_dropped_leaves_nothing() {
    at_every_await(async |polls| {
        let (bench, (ready, mut was_ready)) = (Bench::new(), mpsc::unbounded_channel());
        let outer = bench.supervisor(Strategy::OneForOne, vec![]).await;
        let nested = bench.clone();
        let child = given_up(polls, ready, move |context| {
            let children = vec![nested.child("a"), nested.child("b")];
            Supervisor::spawn_child(context, nested.options(Strategy::OneForOne), children)
        });
        within(outer.start_child(child)).await.unwrap();
        childless(&outer).await;
        assert_eq!(bench.alive(), 0);
        comes_to(&outer, &bench, Some(ChildStatus::Undefined)).await;
        end(outer, &bench).await;
        was_ready.recv().await.unwrap()
    })
    .await;
}

/// In order: the children that run already are stopped, and not killed.
#[tokio::test]
async fn a_nested_supervisor_that_is_given_up_stops_its_children() {
    let (bench, door) = (Bench::new(), closed());
    let outer = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let (nested, its_door) = (bench.clone(), Arc::clone(&door));
    let child = ChildSpec::starting("child", move |context| {
        let (bench, children) = (nested.clone(), vec![nested.child("a"), slow_start(&nested, &its_door)]);
        async move {
            let start = Supervisor::spawn_child(context, bench.options(Strategy::OneForOne), children);
            drop_once(bench.until_logged("slow waits", 1), start).await;
            Err(NotStarted::Ignored)
        }
    });
    within(outer.start_child(child)).await.unwrap();
    childless(&outer).await;
    assert_eq!(bench.log.lines(), ["start a", "slow waits", "stop a", "gone a"]);
    end(outer, &bench).await;
}

#[tokio::test]
async fn an_actor_whose_start_is_dropped_is_gone_and_its_name_is_free() {
    let bench = Bench::new();
    let outer = bench.supervisor(Strategy::OneForOne, vec![]).await;
    let behaviour = |on_start: OnStart| {
        let mut behaviour = bench.obedient("child");
        behaviour.on_start = Arc::new(move |_| on_start);
        behaviour
    };
    let (hanging, obedient) = (behaviour(OnStart::Hang), behaviour(OnStart::Up));
    let child = ChildSpec::starting("child", move |mut context| {
        let (hanging, obedient) = (hanging.clone(), obedient.clone());
        async move {
            let name = || Some("dropped-start".to_owned());
            for polls in 0..3 {
                // It would be known to the context as a start that is cancelled.
                assert!(!drop_after(polls, context.cancelled()).await);
                assert!(!drop_after(polls.min(1), context.spawn(name(), Subject, (hanging.clone(), 1))).await);
            }
            context.spawn(name(), Subject, (obedient, 1)).await
        }
    });
    within(outer.start_child(child)).await.unwrap().started().unwrap();
    assert_eq!((bench.alive(), outer.cell().get_children().len()), (1, 1));
    assert_eq!(
        bench.log.lines(),
        ["start child", "gone child", "start child", "gone child", "start child"]
    );
    end(outer, &bench).await;
}
