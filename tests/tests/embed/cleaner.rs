//! The emergency cleaner, provoked by a process that has the run's marker but is outside the tree.

use nix::sys::signal::Signal;
use ostler::EventKind;
use ostler_tests::{SOON, Stray, Up, pid_of, stray, worker};

use super::scene::{Place, in_time, start};

#[tokio::test(flavor = "multi_thread")]
async fn orphan_is_found_named_and_killed() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler.pool_from(place.pool("p", "sleep")).start().await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let mut strays = [0; 2].map(|_| stray(pool.workers()[0].pid.unwrap(), &place.tag));
    // The cleaner touches nothing while the tree is up, so a restart does not affect the orphan.
    in_time(pool.restart_worker(0)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert!(strays.iter_mut().all(Stray::lives));

    let report = in_time(ostler.stop()).await.unwrap();
    assert_eq!((report.orphans.len(), report.killed), (2, 2), "{report:?}");
    for stray in &mut strays {
        let pid = stray.id().to_string();
        assert!(report.orphans.iter().any(|orphan| orphan.contains(&pid)), "{report:?}");
        stray.ended();
    }
    assert!(report.is_clean() && !report.is_success(), "{report}");
    seen.until_run_stopped().await;
    let found = seen
        .events
        .iter()
        .find(|event| event.kind == EventKind::CleanupOrphansFound);
    assert_eq!(found.unwrap().facts.count, Some(2));
    assert_eq!(found.unwrap().facts.orphans, report.orphans);
    let killed = seen
        .events
        .iter()
        .find(|event| event.kind == EventKind::CleanupEmergencyKill);
    assert_eq!(killed.unwrap().facts.count, Some(2));
    assert_eq!(seen.count(EventKind::CleanupSuccess), 0);
    place.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_orphans_it_reports_success() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let pool = ostler
        .pool_from(place.pool("p", super::scene::WORST))
        .start()
        .await
        .unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    in_time(ostler.stop()).await.unwrap();
    seen.until_run_stopped().await;
    let success = seen.events.iter().find(|event| event.kind == EventKind::CleanupSuccess);
    assert_eq!(success.unwrap().facts.count, Some(0));
    assert_eq!(seen.count(EventKind::CleanupOrphansFound), 0);
    assert_eq!(seen.count(EventKind::CleanupEmergencyKill), 0);
}

#[test]
fn orphans_make_the_program_exit_with_1() {
    let mut up = Up::start(|tag| format!("[pool.p]\ncommand = {}\n", worker("sleep", tag)));
    let spawned = up.wait_for_event("worker.spawned");
    let mut stray = stray(pid_of(&spawned), &up.tag);
    up.signal(Signal::SIGTERM);
    let (status, stderr) = up.end(SOON);
    stray.ended();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let found = up.named("cleanup.orphans_found").next().expect("orphans_found event");
    assert_eq!(found["count"], 1);
    assert!(
        found["orphans"][0].as_str().unwrap().contains(&stray.id().to_string()),
        "{found}"
    );
    assert_eq!(up.named("cleanup.emergency_kill").next().unwrap()["count"], 1);
    assert!(stderr.contains("orphan"), "stderr: {stderr}");
    up.assert_nothing_left();
}
