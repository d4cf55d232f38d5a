//! Every actor between the root and a process dies, by kill and by panic, in each state of the
//! process. The process must be gone and released, and the pool must return to full strength.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use nix::sys::signal::{Signal as NixSignal, kill};
use nix::unistd::Pid;

use super::scene::{Actor, Death, SOON, Scene, end};
use crate::{EventKind, Port, Probe, ProbeKind, Ready};

const ACTORS: [Actor; 3] = [Actor::Worker, Actor::Starter, Actor::Pool];
const DEATHS: [Death; 2] = [Death::Kill, Death::Panic];

/// A worker with a child in its own session. Both ignore TERM.
const STUBBORN: &str = "trap '' TERM; setsid sleep 1000 & exec sleep 1000";

async fn for_each_death<F: Future<Output = ()>>(scenario: impl Fn(Actor, Death) -> F) {
    for actor in ACTORS {
        for death in DEATHS {
            println!("{actor:?} {death:?}");
            scenario(actor, death).await;
        }
    }
}

/// Waits until every worker of the pool is ready again, in its second incarnation or a later one if
/// it was restarted.
async fn full_strength(scene: &mut Scene, pool: &crate::Pool, actor: Actor) {
    let again = match actor {
        Actor::Pool => pool.spec().workers,
        Actor::Worker | Actor::Starter => 1,
    };
    for _ in 0..again {
        scene
            .wait_for("a replacement that is ready", |event| {
                event.kind == EventKind::WorkerReady && event.incarnation.is_some_and(|i| i.0 > 1)
            })
            .await;
    }
    assert!(matches!(
        tokio::time::timeout(SOON, pool.wait_ready()).await,
        Ok(Ok(()))
    ));
    assert_eq!(pool.ready_workers(), pool.spec().workers as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_ready() {
    for_each_death(async |actor, death| {
        let mut scene = Scene::start().await;
        let mut spec = Scene::spec(STUBBORN);
        spec.workers = 3;
        let pool = scene.ostler.pool_from(spec).start().await.unwrap();
        scene.wait_for_kind(EventKind::PoolReady).await;
        end(&pool, actor, death).await;
        full_strength(&mut scene, &pool, actor).await;
        scene.stop_and_check().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_spawned() {
    for_each_death(async |actor, death| {
        let mut scene = Scene::start().await;
        let mut spec = Scene::spec(STUBBORN);
        spec.worker.ready = Some(Ready::Probe(Probe::new(ProbeKind::Tcp)));
        spec.worker.ports = crate::Ports::One(Port::Any);
        let pool = scene.ostler.pool_from(spec).start().await.unwrap();
        scene.wait_for_kind(EventKind::WorkerSpawned).await;
        end(&pool, actor, death).await;
        scene.wait_for_kind(EventKind::WorkerReleased).await;
        scene.wait_for_kind(EventKind::WorkerSpawned).await;
        assert_eq!(scene.count(EventKind::WorkerReady), 0);
        scene.stop_and_check().await;
    })
    .await;
}

/// The guardian is halted, so that the spawn request stays unanswered.
#[tokio::test(flavor = "multi_thread")]
async fn in_reserved() {
    for_each_death(async |actor, death| {
        let mut scene = Scene::start().await;
        let guardian = Pid::from_raw(i32::try_from(scene.ostler.guardian_pid().unwrap()).unwrap());
        kill(guardian, NixSignal::SIGSTOP).unwrap();
        let pool = scene.ostler.pool_from(Scene::spec(STUBBORN)).start().await.unwrap();
        scene.wait_for_kind(EventKind::WorkerReserved).await;
        end(&pool, actor, death).await;
        kill(guardian, NixSignal::SIGCONT).unwrap();
        scene.wait_for_kind(EventKind::WorkerReleased).await;
        full_strength(&mut scene, &pool, actor).await;
        scene.stop_and_check().await;
    })
    .await;
}

/// The worker ignores the stop request, and its grace is an hour, so only the actor's death ends
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn in_stopping() {
    for_each_death(async |actor, death| {
        let mut scene = Scene::start().await;
        let mut spec = Scene::spec(STUBBORN);
        spec.worker.stop.grace = Duration::from_secs(3600);
        let pool = scene.ostler.pool_from(spec).start().await.unwrap();
        scene.wait_for_kind(EventKind::PoolReady).await;
        let restarting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.restart_worker(0).await }
        });
        scene.wait_for_kind(EventKind::WorkerStopping).await;
        if (actor, death) == (Actor::Worker, Death::Panic) {
            // An actor that is in its `post_stop` handles no messages any more.
            end(&pool, actor, Death::Kill).await;
        } else {
            end(&pool, actor, death).await;
        }
        scene.wait_for_kind(EventKind::WorkerReleased).await;
        // Either the restart succeeded, or the starter is gone.
        drop(tokio::time::timeout(SOON, restarting).await.expect("timeout"));
        full_strength(&mut scene, &pool, actor).await;
        let stopping = scene.ostler.killer();
        stopping.kill();
        scene.stop_and_check().await;
    })
    .await;
}

/// A foreign process has taken the port, so that the release is not complete.
#[tokio::test(flavor = "multi_thread")]
async fn in_releasing() {
    for_each_death(async |actor, death| {
        let mut scene = Scene::start().await;
        let mut spec = Scene::spec(STUBBORN);
        spec.worker.ports = crate::Ports::One(Port::Any);
        let pool = scene.ostler.pool_from(spec).start().await.unwrap();
        let ready = scene.wait_for_kind(EventKind::WorkerReady).await;
        let port = pool.workers()[0].ports[""];
        let foreign = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let pid = i32::try_from(ready.facts.pid.unwrap()).unwrap();
        kill(Pid::from_raw(pid), NixSignal::SIGKILL).unwrap();
        scene.wait_for_kind(EventKind::WorkerExited).await;
        end(&pool, actor, death).await;
        assert_eq!(scene.count(EventKind::WorkerReleased), 0);
        drop(foreign);
        scene.wait_for_kind(EventKind::WorkerReleased).await;
        full_strength(&mut scene, &pool, actor).await;
        scene.stop_and_check().await;
    })
    .await;
}
