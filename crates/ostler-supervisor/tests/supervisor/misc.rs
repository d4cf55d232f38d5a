//! The rest of OTP's suite: trees, counting, restart loops, order, scaling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ostler_supervisor::{
    ChildSpec, ChildStatus, DeleteChildError, DynamicSupervisor, End, Restart, RestartChildError, StartChildError,
    Strategy, Supervisor, SupervisorOptions,
};

use crate::support::{
    Bench, Command, OnStart, OnStop, cell, counts, crash_and_wait, find, settled, statuses, tell, within,
};

/// A child that unlinked itself cannot make the supervisor hang: it is stopped and its end is
/// noticed.
#[tokio::test]
async fn child_unlink() {
    let bench = Bench::new();
    let supervisor = bench
        .supervisor(Strategy::OneForOne, vec![bench.child("naughty")])
        .await;
    let child = cell(&supervisor, "naughty").await;
    child.unlink(supervisor.cell());
    within(supervisor.terminate_child("naughty")).await.unwrap();
    assert_eq!(statuses(&supervisor).await, ["naughty:Undefined"]);
    assert_eq!(bench.reported("shutdown_error"), [""; 0]);

    // Unlike in OTP, its own exit is noticed too.
    supervisor.restart_child("naughty").await.unwrap();
    let child = cell(&supervisor, "naughty").await;
    child.unlink(supervisor.cell());
    tell(&child, Command::Fail);
    settled(&supervisor, |children| children[0].child.incarnation == 3).await;
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
}

/// Two supervisors under one_for_all: the children added to one at run time are lost when it is
/// restarted.
#[tokio::test]
async fn tree() {
    let bench = Bench::new();
    let static_children = {
        let bench = bench.clone();
        let options = bench.with_intensity(Strategy::OneForOne, 4);
        ChildSpec::supervisor("static", options, move || {
            vec![bench.child("child1"), bench.child("child2")]
        })
    };
    let dynamic = ChildSpec::supervisor("dynamic", bench.with_intensity(Strategy::OneForOne, 4), Vec::new);
    let top = within(Supervisor::spawn(
        None,
        bench.with_intensity(Strategy::OneForAll, 4),
        vec![],
    ))
    .await
    .unwrap();
    let handle = async |spec| {
        let started = top.start_child(spec).await.unwrap().started().unwrap();
        started.supervisor().unwrap()
    };
    let (first, second) = (handle(static_children).await, handle(dynamic).await);
    assert_eq!(counts(&top).await, [2, 2, 2, 0]);
    assert_eq!(counts(&first).await, [2, 2, 0, 2]);
    assert_eq!(counts(&second).await, [0, 0, 0, 0]);

    let child3 = bench.child_that(
        "child3",
        |n| if n == 1 { OnStart::Up } else { OnStart::Fail },
        OnStop::Obey,
    );
    second.start_child(child3).await.unwrap();
    second.start_child(bench.child("child4")).await.unwrap();
    crash_and_wait(&second, "child4").await;
    assert_eq!(counts(&second).await, [2, 2, 0, 2]);
    assert_eq!(counts(&first).await, [2, 2, 0, 2]);

    // child3 fails to restart, so its supervisor gives up and the whole tree is restarted.
    let both = (first.clone(), second.clone());
    let ends = tokio::spawn(async move { tokio::join!(both.0.wait(), both.1.wait()) });
    tokio::task::yield_now().await;
    tell(&cell(&second, "child3").await, Command::Fail);
    let (end_of_first, end_of_second) = within(ends).await.unwrap();
    end_of_second.unwrap();
    assert_eq!(end_of_first, Some(End::Stopped));
    let up_again = |children: &[ostler_supervisor::ChildInfo]| {
        children
            .iter()
            .all(|info| info.child.incarnation == 2 && info.status == ChildStatus::Running)
    };
    settled(&top, up_again).await;
    assert_eq!(bench.alive(), 2, "child1 and child2 without dynamic children");
    within(top.stop()).await;
    assert_eq!(bench.alive(), 0);
}

#[tokio::test]
async fn count_children() {
    let bench = Bench::new();
    let supervisor = bench.dynamic().await;
    let template = bench.child("child").restart(Restart::Temporary);
    for expected in [500, 1000] {
        for _ in 0..500 {
            supervisor.start_child(template.clone()).await.unwrap();
        }
        let counts = supervisor.count_children().await.unwrap();
        assert_eq!(
            (counts.specs, counts.active, counts.supervisors, counts.workers),
            (1, expected, 0, expected)
        );
        assert_eq!(supervisor.which_children().await.unwrap().len(), expected);
    }
    for info in supervisor.which_children().await.unwrap() {
        info.cell.unwrap().kill();
    }
    within(async {
        while supervisor.count_children().await.unwrap().workers > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(supervisor.count_children().await.unwrap().specs, 1);
    within(supervisor.stop()).await;
}

#[tokio::test]
async fn count_children_supervisor() {
    let bench = Bench::new();
    let supervisor = DynamicSupervisor::spawn(None, bench.options(Strategy::OneForOne))
        .await
        .unwrap();
    let template = ChildSpec::supervisor("child", SupervisorOptions::new(), Vec::new).restart(Restart::Temporary);
    for _ in 0..100 {
        supervisor.start_child(template.clone()).await.unwrap();
    }
    let counts = supervisor.count_children().await.unwrap();
    assert_eq!(
        (counts.specs, counts.active, counts.supervisors, counts.workers),
        (1, 100, 100, 0)
    );
    within(supervisor.stop()).await;
}

/// A child that fails to start while `broken` is true.
fn breakable(bench: &Bench, broken: &Arc<AtomicBool>) -> ChildSpec {
    let broken = broken.clone();
    let on_start = move |_| {
        if broken.load(Ordering::SeqCst) {
            OnStart::Fail
        } else {
            OnStart::Up
        }
    };
    bench.child_that("child", on_start, OnStop::Obey)
}

/// Children waiting for a restart count, but are not active.
#[tokio::test]
async fn count_restarting_children() {
    let bench = Bench::new();
    let broken = Arc::new(AtomicBool::new(false));
    let options = bench.with_intensity(Strategy::OneForOne, u32::MAX);
    let supervisor = DynamicSupervisor::spawn(None, options).await.unwrap();
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(
            supervisor
                .start_child(breakable(&bench, &broken))
                .await
                .unwrap()
                .started()
                .unwrap(),
        );
    }
    let until = async |active: usize, workers: usize| {
        within(async {
            loop {
                let counts = supervisor.count_children().await.unwrap();
                if (counts.active, counts.workers) == (active, workers) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    until(3, 3).await;
    broken.store(true, Ordering::SeqCst);
    tell(&children[0].cell, Command::Fail);
    until(2, 3).await;
    tell(&children[1].cell, Command::Fail);
    until(1, 3).await;
    supervisor.terminate_child(children[0].child.key).await.unwrap();
    until(1, 2).await;
    broken.store(false, Ordering::SeqCst);
    until(2, 2).await;
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
}

/// The start arguments of a temporary child are dropped after its first start.
#[tokio::test]
async fn do_not_save_start_parameters_for_temporary_children() {
    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        let bench = Bench::new();
        let big = Arc::new([0u8; 1024]);
        let child = {
            let (bench, big) = (bench.clone(), big.clone());
            ChildSpec::starting("child", move |mut context| {
                let behaviour = bench.obedient("child");
                assert_eq!(big[0], 0);
                async move { context.spawn(None, crate::support::Subject, (behaviour, 1)).await }
            })
            .restart(restart)
        };
        let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
        supervisor.start_child(child).await.unwrap();
        let kept = Arc::strong_count(&big) > 1;
        assert_eq!(kept, restart != Restart::Temporary, "{restart:?}");
        let spec = supervisor.get_child_spec("child").await.unwrap().unwrap();
        assert_eq!(spec.start.is_some(), restart != Restart::Temporary);
        within(supervisor.stop()).await;
    }
}

#[tokio::test]
async fn do_not_save_child_specs_for_temporary_children() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(Strategy::OneForOne, vec![]).await;
    for end in [
        Command::Fail,
        Command::Panic,
        crate::support::normal(),
        crate::support::shutdown(),
    ] {
        supervisor
            .start_child(bench.child("child").restart(Restart::Temporary))
            .await
            .unwrap();
        tell(&cell(&supervisor, "child").await, end);
        settled(&supervisor, |children| children.is_empty()).await;
    }
    supervisor
        .start_child(bench.child("child").restart(Restart::Temporary))
        .await
        .unwrap();
    supervisor.terminate_child("child").await.unwrap();
    assert_eq!(counts(&supervisor).await, [0, 0, 0, 0]);
    within(supervisor.stop()).await;
}

/// CPU time, because other tests run in parallel. A test's runtime runs on its own thread.
fn time_used() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("reading the thread's CPU clock")
        .into()
}

async fn start_and_stop_many(count: usize) -> Duration {
    let supervisor = DynamicSupervisor::spawn(None, SupervisorOptions::new()).await.unwrap();
    let template = quiet().restart(Restart::Temporary);
    let before = time_used();
    for _ in 0..count {
        supervisor.start_child(template.clone()).await.unwrap();
    }
    supervisor.stop().await;
    time_used() - before
}

/// A child that logs nothing, so that only the supervisor is measured.
fn quiet() -> ChildSpec {
    ChildSpec::actor("child", || (Quiet, ()))
}

struct Quiet;

impl ractor::Actor for Quiet {
    type Msg = Command;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ractor::ActorRef<Command>, (): ()) -> Result<(), ractor::ActorProcessingErr> {
        Ok(())
    }
}

/// As in OTP's suite, ten times as many children must not take much more than ten times as long.
#[tokio::test]
async fn simple_one_for_one_scale_many_temporary_children() {
    let few = start_and_stop_many(1_000).await;
    let many = start_and_stop_many(10_000).await;
    let scaling = many.as_secs_f64() / few.as_secs_f64();
    assert!(scaling < 30.0, "{few:?} for 1,000 and {many:?} for 10,000");
}

/// The same with the initial children of a one_for_one supervisor. `cargo bench` goes up to
/// 100,000.
#[tokio::test]
async fn scale_start_stop_many_children() {
    let start_and_stop = async |count: usize| {
        let children = (0..count).map(|n| quiet().with_id(format!("child{n}"))).collect();
        let before = time_used();
        let supervisor = Supervisor::spawn(None, SupervisorOptions::new(), children)
            .await
            .unwrap();
        supervisor.stop().await;
        time_used() - before
    };
    let few = start_and_stop(1_000).await;
    let many = start_and_stop(20_000).await;
    let scaling = many.as_secs_f64() / few.as_secs_f64();
    assert!(scaling < 60.0, "{few:?} for 1,000 and {many:?} for 20,000");
}

/// A supervisor and a child with globally known names (OTP's global names; ractor's registry here).
#[tokio::test]
async fn simple_global_supervisor() {
    let bench = Bench::new();
    let name = "simple_global_supervisor";
    let options = bench.options(Strategy::OneForOne);
    let supervisor = Supervisor::spawn(Some(name.into()), options, vec![bench.child("child")])
        .await
        .unwrap();
    assert_eq!(ractor::registry::where_is(name), Some(supervisor.cell()));
    let taken = Supervisor::spawn(Some(name.into()), SupervisorOptions::new(), vec![]).await;
    assert!(taken.is_err());
    crash_and_wait(&supervisor, "child").await;
    within(supervisor.stop()).await;
    assert!(ractor::registry::where_is(name).is_none());
}

/// A supervisor in a restart loop answers and can be stopped, and so can the loop.
async fn hanging_restart_loop_of(strategy: Strategy) {
    let bench = Bench::new();
    let broken = Arc::new(AtomicBool::new(false));
    let options = bench.with_intensity(strategy, u32::MAX);
    let supervisor = Supervisor::spawn(None, options, vec![]).await.unwrap();
    supervisor.start_child(bench.child("before")).await.unwrap();
    supervisor.start_child(breakable(&bench, &broken)).await.unwrap();
    broken.store(true, Ordering::SeqCst);
    tell(&cell(&supervisor, "child").await, Command::Fail);
    bench.until_reported("start_error", 20).await;

    let child = breakable(&bench, &broken);
    assert_eq!(
        supervisor.start_child(child).await.unwrap_err(),
        StartChildError::AlreadyPresent("child".into())
    );
    assert_eq!(
        supervisor.restart_child("child").await.unwrap_err(),
        RestartChildError::Restarting
    );
    assert_eq!(
        supervisor.delete_child("child").await.unwrap_err(),
        DeleteChildError::Restarting
    );
    let status = find(&supervisor.which_children().await.unwrap(), "child").status;
    assert!(
        matches!(status, ChildStatus::Restarting | ChildStatus::Starting),
        "{status:?}"
    );
    supervisor.terminate_child("child").await.unwrap();
    let before = bench.reported("start_error").len();
    assert_eq!(
        find(&supervisor.which_children().await.unwrap(), "child").status,
        ChildStatus::Undefined
    );
    assert_eq!(bench.reported("start_error").len(), before, "the loop must end");

    // Again, stopping the supervisor this time.
    broken.store(false, Ordering::SeqCst);
    supervisor.restart_child("child").await.unwrap();
    broken.store(true, Ordering::SeqCst);
    tell(&cell(&supervisor, "child").await, Command::Fail);
    bench.until_reported("start_error", before + 20).await;
    within(supervisor.stop()).await;
    assert_eq!(bench.alive(), 0);
}

#[tokio::test]
async fn hanging_restart_loop() {
    hanging_restart_loop_of(Strategy::OneForOne).await;
    hanging_restart_loop_of(Strategy::OneForAll).await;
}

#[tokio::test]
async fn hanging_restart_loop_rest_for_one() {
    hanging_restart_loop_of(Strategy::RestForOne).await;
}

#[tokio::test]
async fn hanging_restart_loop_simple() {
    let bench = Bench::new();
    let broken = Arc::new(AtomicBool::new(false));
    let options = bench.with_intensity(Strategy::OneForOne, u32::MAX);
    let supervisor = DynamicSupervisor::spawn(None, options).await.unwrap();
    let child = supervisor
        .start_child(breakable(&bench, &broken))
        .await
        .unwrap()
        .started()
        .unwrap();
    broken.store(true, Ordering::SeqCst);
    tell(&child.cell, Command::Fail);
    bench.until_reported("start_error", 20).await;
    let counts = supervisor.count_children().await.unwrap();
    assert_eq!((counts.active, counts.workers), (0, 1));
    supervisor.terminate_child(child.child.key).await.unwrap();
    assert_eq!(supervisor.count_children().await.unwrap().workers, 0);
    within(supervisor.stop()).await;
}

/// Children are listed in the order in which they were added, and a group restart keeps it.
#[tokio::test]
async fn order_of_children() {
    let bench = Bench::new();
    let ids = ["id1", "id2", "id3", "id4", "id5"];
    let children = ids.map(|id| bench.child(id)).to_vec();
    let supervisor = bench.supervisor(Strategy::RestForOne, children).await;
    let order = async || {
        let children = supervisor.which_children().await.unwrap();
        children
            .iter()
            .map(|info| info.child.id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(order().await, ids);
    crash_and_wait(&supervisor, "id3").await;
    settled(&supervisor, |children| {
        children.iter().all(|info| info.status == ChildStatus::Running)
    })
    .await;
    assert_eq!(order().await, ids);
    supervisor.terminate_child("id2").await.unwrap();
    supervisor.restart_child("id2").await.unwrap();
    assert_eq!(order().await, ids, "the order must be kept");
    bench.log.clear();
    within(supervisor.stop()).await;
    let stops: Vec<String> = bench
        .log
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("stop"))
        .collect();
    assert_eq!(stops, ["stop id5", "stop id4", "stop id3", "stop id2", "stop id1"]);
}
