//! Traps of ractor 0.16.5, one test each. They tell when a later ractor changes what we rely on.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use ostler_supervisor::{
    ChildInfo, ChildSpec, ChildStatus, Exit, ExitReason, Restart, Shutdown, StartedChild, Strategy, Supervisor,
    SupervisorOptions,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use crate::support::{Bench, Command, OnStart, OnStop, cell, crash_and_wait, find, settled, statuses, tell, within};

/// Ends a transient child, and says whether it was restarted.
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

/// ractor tells of a kill by the string "killed".
#[tokio::test]
async fn a_stop_that_says_killed_is_no_kill() {
    assert!(is_restarted(|cell| cell.kill()).await);
    assert!(!is_restarted(|cell| cell.stop(Some("killed".into()))).await);
    assert!(!is_restarted(|cell| cell.stop(Some("actor_task_cancelled".into()))).await);
    assert!(!is_restarted(|cell| cell.stop(None)).await);
    assert!(!is_restarted(|cell| drop(cell.drain())).await);
}

/// A kill during `post_stop`, after `stop(Some("killed"))`, is one.
#[tokio::test]
async fn a_kill_while_it_stops_is_a_kill() {
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

/// A kill drops the handler at an await; `post_stop` is skipped, the state is dropped.
#[tokio::test]
async fn a_kill_in_the_middle_of_a_message_is_a_kill() {
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

/// An actor whose task is dropped (the runtime shuts down, or somebody aborts it) was killed.
#[tokio::test]
async fn an_aborted_task_is_a_kill() {
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

/// After a panic, and after a kill, ractor's event can be handled before the child's state is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_dropped_before_the_next_incarnation_starts() {
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

/// An actor with a name and a `post_stop` that takes as long as a test wants.
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

/// A name is free before `post_stop` has run: the next of that name must wait for it all the same.
#[tokio::test]
async fn a_free_name_is_not_a_released_actor() {
    let bench = Bench::new();
    let name = "a_free_name_is_not_a_released_actor";
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

/// `stop_and_wait` of an actor in the middle returns while its own children still run. Ours waits for all.
#[tokio::test]
async fn when_a_supervisor_has_stopped_its_grandchildren_are_gone() {
    let bench = Bench::new();
    let name = "when_a_supervisor_has_stopped_its_grandchildren_are_gone";
    let grandchild = ChildSpec::named_actor("grandchild", name, || (Named(watch::channel(true).1), ()));
    let inner = ChildSpec::supervisor("inner", SupervisorOptions::new(), move || vec![grandchild.clone()]);
    let outer = bench.supervisor(Strategy::OneForOne, vec![inner]).await;
    for _ in 0..50 {
        outer.terminate_child("inner").await.unwrap();
        assert!(ractor::registry::where_is(name).is_none());
        outer.restart_child("inner").await.expect("the name is free");
    }
    within(outer.stop()).await;
}

/// A second `stop_and_wait` returns an error at once. Ours waits as well.
#[tokio::test]
async fn a_second_stop_waits_too() {
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

/// ractor kills an actor's children in no order when it ends: a supervisor stops its own before.
#[tokio::test]
async fn children_of_a_supervisor_that_ends_are_stopped_in_order() {
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

/// kill can't interrupt synchronous code: the child is waited for, however long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_in_synchronous_code_is_waited_for() {
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
        // Asked, then killed, and still there: the supervisor says so, and answers.
        while statuses(&supervisor).await != ["child:Stopping"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    release.send(()).unwrap();
    within(supervisor.wait()).await;
}

/// The state comes inside the event that a supervisor gets: a panic in its `Drop` must not be the supervisor's end.
#[tokio::test]
async fn a_state_that_panics_when_dropped_harms_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("a bomb");
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

/// Actors of the user's that are linked to a supervisor are none of its children.
#[tokio::test]
async fn strangers_that_end_do_nothing() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForAll, vec![bench.child("child")]).await;
    let (stranger, ended) = Actor::spawn_linked(None, Named(watch::channel(true).1), (), supervisor.cell())
        .await
        .unwrap();
    stranger.kill();
    within(ended).await.unwrap();
    crash_and_wait(&supervisor, "child").await;
    assert_eq!(bench.reported("child_terminated").len(), 1);
    within(supervisor.stop()).await;
}

/// A child that ends at once after its start: its end can be here before the news that it is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_ends_at_once_is_not_missed() {
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
    // Whether it is up when the reply is given is chance; that it is restarted until the supervisor gives up is not.
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

/// A supervisor that ractor killed has no child left, and says that it was not stopped.
#[tokio::test]
async fn a_killed_supervisor_leaves_no_child() {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("a"), bench.child("b")])
        .await;
    supervisor.cell().kill();
    assert_eq!(within(supervisor.wait()).await, None);
    bench.until_logged("gone a", 1).await;
    bench.until_logged("gone b", 1).await;
    assert_eq!(bench.log.lines().len(), 4, "nothing was restarted");
}

/// Nor one that was in its `post_stop`, which ractor's kill of a supervisor passes over.
#[tokio::test]
async fn a_killed_supervisor_leaves_no_child_that_hangs_in_its_stop() {
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
