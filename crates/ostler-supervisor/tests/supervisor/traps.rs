//! Pitfalls of ractor 0.16.5, one test each. They fail if a later version changes what this crate
//! relies on.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use ostler_supervisor::{
    ChildInfo, ChildSpec, ChildStatus, Exit, ExitReason, Restart, Shutdown, StartedChild, Strategy, Supervisor,
    SupervisorOptions,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use crate::support::{Bench, Command, OnStart, OnStop, cell, crash_and_wait, find, settled, statuses, tell, within};

/// Ends a transient child, and returns whether it was restarted.
async fn is_restarted(end: impl Fn(&ractor::ActorCell)) -> bool {
    let bench = Bench::new();
    let child = bench.child("child").restart(Restart::Transient);
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    end(&cell(&supervisor, "child").await);
    let settled = settled(&supervisor, |children| {
        let info = find(children, "child");
        info.status == ChildStatus::Undefined || (info.child.incarnation == 2 && info.status == ChildStatus::Running)
    })
    .await;
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
    find(&settled, "child").status == ChildStatus::Running
}

/// ractor reports a kill as the string "killed".
#[tokio::test]
async fn stop_with_reason_killed_is_not_a_kill() {
    assert!(is_restarted(|cell| cell.kill()).await);
    assert!(!is_restarted(|cell| cell.stop(Some("killed".into()))).await);
    assert!(!is_restarted(|cell| cell.stop(Some("actor_task_cancelled".into()))).await);
    assert!(!is_restarted(|cell| cell.stop(None)).await);
    assert!(!is_restarted(|cell| drop(cell.drain())).await);
}

/// A kill during `post_stop`, after `stop(Some("killed"))`, is a kill.
#[tokio::test]
async fn kill_during_a_stop_is_a_kill() {
    let bench = Bench::new();
    let child = bench
        .child_that("child", |_| OnStart::Up, OnStop::Hang)
        .restart(Restart::Transient);
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    let first = cell(&supervisor, "child").await;
    first.stop(Some("killed".into()));
    bench.until_logged("stop child", 1).await;
    first.kill();
    bench.until_logged("start child", 2).await;
    assert_eq!(bench.reported("child_terminated"), ["child/1 killed"]);
    let second = cell(&supervisor, "child").await;
    supervisor.request_stop();
    bench.until_logged("stop child", 2).await;
    second.kill();
    within(supervisor.wait()).await;
}

/// A kill drops the handler at an await, skips `post_stop` and drops the state.
#[tokio::test]
async fn kill_during_a_message_is_a_kill() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
    let child = cell(&supervisor, "child").await;
    tell(&child, Command::Hang);
    bench.until_logged("hang child", 1).await;
    child.kill();
    bench.until_logged("start child", 2).await;
    assert_eq!(bench.reported("child_terminated"), ["child/1 killed"]);
    assert_eq!(
        bench.log.lines(),
        ["start child", "hang child", "gone child", "start child"]
    );
    within(supervisor.stop()).await;
}

/// An actor whose task is dropped, because the runtime shuts down or the task is aborted, counts as
/// killed.
#[tokio::test]
async fn aborted_task_is_a_kill() {
    let bench = Bench::new();
    let aborts = Arc::new(Mutex::new(Vec::new()));
    let child = {
        let aborts = aborts.clone();
        ChildSpec::starting("child", move |context| {
            let aborts = aborts.clone();
            let parent = context.parent().clone();
            async move {
                let (actor, join) = Actor::spawn_linked(None, Named(watch::channel(true).1), (), parent).await?;
                aborts.lock().unwrap().push(join.abort_handle());
                Ok(StartedChild::new(actor.get_cell(), join))
            }
        })
    };
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    aborts.lock().unwrap()[0].abort();
    bench.until_reported("progress", 2).await;
    assert_eq!(bench.reported("child_terminated"), ["child/1 killed"]);
    within(supervisor.stop()).await;
}

/// After a panic, and after a kill, ractor's event can be handled before the child's state is
/// dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_dropped_before_the_next_incarnation_starts() {
    let bench = Bench::new();
    let options = bench.with_intensity(Strategy::OneForOne, u32::MAX);
    let supervisor = Supervisor::spawn(None, options, vec![bench.child("child")])
        .await
        .unwrap();
    for round in 0..200 {
        let child = cell(&supervisor, "child").await;
        match round % 3 {
            0 => tell(&child, Command::Panic),
            1 => child.kill(),
            _ => tell(&child, Command::Fail),
        }
        bench.until_logged("start child", round + 2).await;
    }
    within(supervisor.stop()).await;
    let log: Vec<String> = bench
        .log
        .lines()
        .into_iter()
        .filter(|line| !line.starts_with("stop"))
        .collect();
    for (place, line) in log.iter().enumerate() {
        assert_eq!(
            line,
            if place % 2 == 0 { "start child" } else { "gone child" },
            "line {place}"
        );
    }
    assert_eq!(log.len(), 402);
}

/// A named actor whose `post_stop` lasts as long as the test decides.
struct Named(watch::Receiver<bool>);

impl Actor for Named {
    type Msg = Command;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Command>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Command>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut may_stop = self.0.clone();
        let _ = may_stop.wait_for(|may| *may).await;
        Ok(())
    }
}

/// A name is free before `post_stop` has run, but the next actor with the name must wait for it all
/// the same.
#[tokio::test]
async fn free_name_does_not_mean_a_released_actor() {
    let bench = Bench::new();
    let name = "free_name_does_not_mean_a_released_actor";
    let (may_stop, receiver) = watch::channel(false);
    let child = ChildSpec::named_actor("child", name, move || (Named(receiver.clone()), ()));
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    let first = cell(&supervisor, "child").await;
    first.stop(None);
    within(async {
        while ractor::registry::where_is(name).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        supervisor.which_children().await.unwrap()[0].child.incarnation,
        1,
        "post_stop still runs"
    );
    may_stop.send_replace(true);
    let second = settled(&supervisor, |children: &[ChildInfo]| {
        children[0].child.incarnation == 2 && children[0].status == ChildStatus::Running
    })
    .await;
    assert_eq!(ractor::registry::where_is(name), second[0].cell);
    assert_eq!(bench.reported("child_terminated"), ["child/1 normal"]);
    within(supervisor.stop()).await;
}

/// ractor's `stop_and_wait` of a parent returns while its own children still run. Ours waits for
/// all.
#[tokio::test]
async fn grandchildren_are_gone_when_a_supervisor_has_stopped() {
    let bench = Bench::new();
    let name = "grandchildren_are_gone_when_a_supervisor_has_stopped";
    let grandchild = ChildSpec::named_actor("grandchild", name, || (Named(watch::channel(true).1), ()));
    let inner = ChildSpec::supervisor("inner", SupervisorOptions::new(), move || vec![grandchild.clone()]);
    let outer = bench.supervisor(Strategy::OneForOne, vec![inner]).await;
    for _ in 0..50 {
        outer.terminate_child("inner").await.unwrap();
        assert!(ractor::registry::where_is(name).is_none());
        outer.restart_child("inner").await.expect("name is free");
    }
    within(outer.stop()).await;
}

/// A second `stop_and_wait` returns an error immediately. Ours waits as well.
#[tokio::test]
async fn second_stop_waits_too() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![bench.child("child")]).await;
    let stops: Vec<_> = (0..5)
        .map(|_| {
            let (supervisor, bench) = (supervisor.clone(), bench.clone());
            tokio::spawn(async move {
                supervisor.stop().await;
                bench.alive()
            })
        })
        .collect();
    for stop in stops {
        assert_eq!(within(stop).await.unwrap(), 0);
    }
}

/// ractor kills an actor's children in no particular order when it ends, so a supervisor stops its
/// own first.
#[tokio::test]
async fn children_of_an_ending_supervisor_are_stopped_in_order() {
    let bench = Bench::new();
    let inner = {
        let bench = bench.clone();
        let children = ["a", "b", "c", "d"];
        ChildSpec::supervisor("inner", SupervisorOptions::new(), move || {
            children.map(|id| bench.child(id)).to_vec()
        })
    };
    let outer = bench.supervisor(Strategy::OneForOne, vec![inner]).await;
    bench.log.clear();
    within(outer.stop()).await;
    let log = bench.log.lines();
    assert_eq!(
        log,
        [
            "stop d", "gone d", "stop c", "gone c", "stop b", "gone b", "stop a", "gone a"
        ]
    );
}

/// A kill cannot interrupt synchronous code: the supervisor waits for the child, however long it
/// takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_in_synchronous_code_is_waited_for() {
    struct Blocking(Mutex<mpsc::Receiver<()>>);
    impl Actor for Blocking {
        type Msg = Command;
        type State = ();
        type Arguments = crate::support::Log<String>;
        async fn pre_start(&self, myself: ActorRef<Command>, log: Self::Arguments) -> Result<(), ActorProcessingErr> {
            let _ = (myself, log);
            Ok(())
        }
        async fn post_stop(&self, _: ActorRef<Command>, (): &mut ()) -> Result<(), ActorProcessingErr> {
            let _ = self.0.lock().unwrap().recv();
            Ok(())
        }
    }
    let bench = Bench::new();
    let (release, blocked) = mpsc::channel();
    let blocked = Mutex::new(Some(blocked));
    let log = bench.log.clone();
    let child = ChildSpec::actor("child", move || {
        (
            Blocking(Mutex::new(blocked.lock().unwrap().take().unwrap())),
            log.clone(),
        )
    })
    .shutdown(Shutdown::Timeout(std::time::Duration::from_millis(20)));
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![child]).await;
    supervisor.request_stop();
    within(async {
        // Stopped, then killed, and still running: the supervisor reports that and answers.
        while statuses(&supervisor).await != ["child:Stopping"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    release.send(()).unwrap();
    within(supervisor.wait()).await;
}

/// The state is part of the event that a supervisor receives: a panic in its `Drop` must not end
/// the supervisor.
#[tokio::test]
async fn panic_while_dropping_a_state_does_not_end_the_supervisor() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("panic in drop");
            }
        }
    }
    struct Carrier;
    impl Actor for Carrier {
        type Msg = Command;
        type State = Bomb;
        type Arguments = ();
        async fn pre_start(&self, _: ActorRef<Command>, (): ()) -> Result<Bomb, ActorProcessingErr> {
            Ok(Bomb)
        }
    }
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![ChildSpec::actor("child", || (Carrier, ()))])
        .await;
    cell(&supervisor, "child").await.kill();
    bench.until_reported("progress", 2).await;
    within(supervisor.stop()).await;
}

/// A user's actors that are linked to a supervisor are not its children.
#[tokio::test]
async fn exits_of_foreign_actors_are_ignored() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForAll, vec![bench.child("child")]).await;
    let (foreign, ended) = Actor::spawn_linked(None, Named(watch::channel(true).1), (), supervisor.cell())
        .await
        .unwrap();
    foreign.kill();
    within(ended).await.unwrap();
    crash_and_wait(&supervisor, "child").await;
    assert_eq!(bench.reported("child_terminated").len(), 1);
    within(supervisor.stop()).await;
}

/// A child that ends right after its start: its end can arrive before the message that it is
/// running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_ends_immediately_is_not_missed() {
    struct Flash;
    impl Actor for Flash {
        type Msg = Command;
        type State = ();
        type Arguments = ();
        async fn pre_start(&self, _: ActorRef<Command>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
        async fn post_start(&self, _: ActorRef<Command>, (): &mut ()) -> Result<(), ActorProcessingErr> {
            Err(Exit::from(ExitReason::Shutdown(Some("flash".into()))).into())
        }
    }
    let bench = Bench::new();
    let options = bench.with_intensity(Strategy::OneForOne, 500);
    let supervisor = Supervisor::spawn(None, options, vec![]).await.unwrap();
    // Whether it is running when the reply is sent depends on timing, but it is restarted until the
    // supervisor gives up.
    let _ = supervisor.start_child(ChildSpec::actor("child", || (Flash, ()))).await;
    within(supervisor.wait()).await;
    let reported = bench.reported("child_terminated");
    assert_eq!(reported.len(), 501);
    assert!(
        reported.iter().all(|line| line.ends_with("shutdown: flash")),
        "{:?}",
        reported.last()
    );
}

/// A supervisor killed by ractor leaves no child, and reports that it was not stopped.
#[tokio::test]
async fn killed_supervisor_leaves_no_child() {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("a"), bench.child("b")])
        .await;
    supervisor.cell().kill();
    assert_eq!(within(supervisor.wait()).await, None);
    bench.until_logged("gone a", 1).await;
    bench.until_logged("gone b", 1).await;
    assert_eq!(bench.log.lines().len(), 4, "nothing may be restarted");
}

/// Nor a child in its `post_stop`, which ractor's kill of a supervisor skips.
#[tokio::test]
async fn killed_supervisor_leaves_no_child_that_hangs_in_its_stop() {
    let bench = Bench::new();
    let hanging = bench
        .child_that("child", |_| OnStart::Up, OnStop::Hang)
        .shutdown(Shutdown::Infinity);
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![hanging]).await;
    supervisor.request_stop();
    bench.until_logged("stop child", 1).await;
    supervisor.cell().kill();
    assert_eq!(within(supervisor.wait()).await, None);
    bench.until_logged("gone child", 1).await;
}
