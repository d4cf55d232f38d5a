//! Every order of events in the table of races (docs/architecture.md), late events, and an owner
//! that goes away: with a scripted guardian, table and machine, and paused time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ostler_core::failure::{ExitStatus, Failure, Reason};
use ostler_core::lifecycle::{Cause, KILL_NOW, LATE, Outcome, Rest, State};
use ostler_core::signal::Signal;
use ostler_core::spec::{PoolSpec, Port, Ports, Ready, StopSpec};
use ostler_os::guardian::SpawnStep;
use ostler_registry::{Key, RecordState, Refusal, TableError};

use super::super::protocol::Notice;
use super::super::script::{Asked, Play, Stage};
use crate::guard::News;
use crate::instance::services::StopLevel;

mod probes;

const TERM: StopSpec = StopSpec::term(Duration::from_secs(5));

/// A worker that is ready with its spawn and has no port.
fn plain(pool: &mut PoolSpec) {
    pool.worker.ready = None;
    pool.worker.stop = TERM;
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("not failed but {other:?}"),
    }
}

const STOPPED: fn(i32) -> Outcome = |code| Outcome::Stopped {
    status: Some(ExitStatus::Code(code)),
};

/// The rest of a life whose tree is gone.
async fn released(stage: &mut Stage, play: &mut Play) -> Outcome {
    stage.expect(&[Asked::Remove(1)]).await;
    let outcome = play.outcome().await;
    assert_eq!(*stage.unreleased.borrow(), 0);
    assert!(stage.slot.is_released());
    stage.assert_idle();
    outcome
}

#[tokio::test(start_paused = true)]
async fn a_life_from_its_record_to_its_release() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    assert_eq!(*stage.unreleased.borrow(), 1);
    stage.exited(0);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.tree_gone();
    let outcome = released(&mut stage, &mut play).await;
    assert_eq!(
        outcome,
        Outcome::Finished {
            status: ExitStatus::Code(0)
        }
    );
    assert_eq!(stage.story(), ["reserved", "spawned", "ready", "exited", "released"]);
    assert_eq!(stage.slot.state().state, Some(State::Released));
}

/// The scripted table answers at once, ahead of the preparation. A second one would replace the
/// pipes that the worker writes to, and close the first.
#[tokio::test(start_paused = true)]
async fn a_spawn_is_prepared_once_even_if_the_record_is_written_first() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    assert_eq!(stage.prepared.load(Ordering::Relaxed), 1);
    stage.exited(0);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.tree_gone();
    released(&mut stage, &mut play).await;
    assert_eq!(stage.prepared.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_spawn_is_under_way_ends_the_process_at_its_birth() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ordered().await;
    play.process.stop(Cause::PoolStop);
    tokio::task::yield_now().await;
    stage.assert_idle();
    stage.spawned();
    stage.expect(&[Asked::End(TERM), Asked::Activate]).await;
    stage.exited(0);
    stage.tree_gone();
    assert_eq!(released(&mut stage, &mut play).await, STOPPED(0));
}

#[tokio::test(start_paused = true)]
async fn the_guardian_dies_between_order_and_spawn_and_its_sitter_tells_the_rest() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ordered().await;
    stage.tell(News::GuardianLost);
    stage.spawned();
    stage.expect(&[Asked::Activate]).await;
    stage.ended_by_guardian_death();
    stage.tree_gone();
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::GuardianLost);
    assert!(!failed.reason.is_counted());
}

#[tokio::test(start_paused = true)]
async fn the_guardian_dies_with_the_order_and_the_start_comes_to_nothing() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ordered().await;
    stage.tell(News::GuardianLost);
    stage.tell(News::SittersEnded);
    stage.expect(&[Asked::EndWithoutSitter]).await;
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::GuardianLost);
    // The next start waits: it must not be repeated without a pause.
    let since = tokio::time::Instant::now();
    drop(play);
    let _next = stage.begin();
    stage.expect(&[Asked::Reserve(2)]).await;
    assert!(since.elapsed() >= Duration::from_millis(100), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn news_of_the_end_without_that_of_the_loss_means_both() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    stage.tell(News::SittersEnded);
    stage.expect(&[Asked::EndWithoutSitter]).await;
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::GuardianLost);
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_not_proven_to_be_gone_is_unseen_and_never_released() {
    let mut stage = Stage::new(plain);
    stage
        .answers
        .lock()
        .unwrap()
        .rest
        .push_back(Rest::Unseen("no cgroup".into()));
    let mut play = stage.ready().await;
    stage.tell(News::GuardianLost);
    stage.tell(News::SittersEnded);
    stage.expect(&[Asked::EndWithoutSitter]).await;
    released(&mut stage, &mut play).await;
    let story = stage.story();
    assert_eq!(story.last().map(String::as_str), Some("failed guardian_lost (unseen)"));
    assert!(!story.contains(&"released".to_owned()), "{story:?}");
    let unseen = stage.unseen.lock().unwrap().join(", ");
    assert!(unseen.contains("p/0#1") && unseen.contains("no cgroup"), "{unseen}");
}

#[tokio::test(start_paused = true)]
async fn what_lives_on_without_a_sitter_is_killed_again_and_named() {
    let mut stage = Stage::new(plain);
    let left = || Rest::Left("pid 7 (stuck)".into());
    stage.answers.lock().unwrap().rest.extend([left(), left()]);
    let mut play = stage.ready().await;
    stage.tell(News::SittersEnded);
    stage.expect(&[Asked::EndWithoutSitter, Asked::EndWithoutSitter]).await;
    assert!(matches!(play.notice().await, Notice::NotReady));
    assert!(matches!(play.notice().await, Notice::NotReady));
    let Notice::Overdue(failed) = play.notice().await else {
        panic!("not overdue")
    };
    assert_eq!(failed.holder.as_deref(), Some("pid 7 (stuck)"));
    stage.expect(&[Asked::EndWithoutSitter, Asked::Remove(1)]).await;
    while !matches!(play.notice().await, Notice::Ended(_)) {}
    assert!(stage.slot.is_released());
}

#[tokio::test(start_paused = true)]
async fn a_kill_goes_past_the_sitter_when_the_guardian_is_lost() {
    let mut stage = Stage::new(|pool| {
        plain(pool);
        pool.worker.host_death = StopSpec::term(Duration::from_secs(3600));
    });
    let mut play = stage.ready().await;
    stage.tell(News::GuardianLost);
    assert!(matches!(play.notice().await, Notice::NotReady));
    stage.assert_idle();
    stage.stop_level.send_replace(StopLevel::Kill);
    stage.expect(&[Asked::KillPastSitter]).await;
    // The sitter confirms the end.
    stage.exited(9);
    stage.tree_gone();
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::GuardianLost);
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_died_with_the_guardian_is_given_again() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    stage.stop_level.send_replace(StopLevel::Kill);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.tell(News::GuardianLost);
    stage.expect(&[Asked::KillPastSitter]).await;
    stage.tree_gone();
    let outcome = released(&mut stage, &mut play).await;
    assert_eq!(outcome, Outcome::Stopped { status: None });
}

#[tokio::test(start_paused = true)]
async fn a_spawn_that_meets_a_dead_sitter_is_not_counted() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ordered().await;
    stage.spawn_failed(SpawnStep::Forward, nix::libc::EPIPE);
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::GuardianLost);
    assert_eq!(stage.story(), ["reserved", "failed guardian_lost", "released"]);
}

#[tokio::test(start_paused = true)]
async fn a_sitter_that_is_killed_takes_its_worker_with_it() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    stage.sitter_lost();
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(
        (failed.reason, failed.status),
        (Reason::Killed, Some(ExitStatus::Signal(Signal::KILL)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_out_of_memory_kill_is_distinguished_from_others() {
    for (before, after, expected) in [(0, 1, Reason::OomKilled), (4, 4, Reason::Killed)] {
        let mut stage = Stage::new(plain);
        stage.set_oom_kills(before);
        let mut play = stage.ready().await;
        stage.set_oom_kills(after);
        stage.exited(9);
        stage.expect(&[Asked::End(KILL_NOW)]).await;
        stage.tree_gone();
        let failed = failure(released(&mut stage, &mut play).await);
        assert_eq!(failed.reason, expected);
        assert_eq!(failed.status.and_then(ExitStatus::signal), Some(Signal::KILL));
    }
}

/// The kill of a stop is ours, whatever the kernel has killed meanwhile.
#[tokio::test(start_paused = true)]
async fn an_ordered_kill_is_no_out_of_memory_kill() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    play.process.stop(Cause::PoolStop);
    stage.expect(&[Asked::End(TERM)]).await;
    stage.set_oom_kills(1);
    stage.exited(9);
    stage.tree_gone();
    let status = Some(ExitStatus::Signal(Signal::KILL));
    assert_eq!(released(&mut stage, &mut play).await, Outcome::Stopped { status });
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_comes_behind_the_end_of_the_tree_keeps_its_status() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    stage.tree_gone();
    stage.exited(3 << 8);
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(
        (failed.reason, failed.status),
        (Reason::Exited, Some(ExitStatus::Code(3)))
    );
}

#[tokio::test(start_paused = true)]
async fn news_that_comes_after_the_release_changes_nothing() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    stage.exited(0);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.tree_gone();
    released(&mut stage, &mut play).await;
    let late = stage.route();
    assert!(late.sender.is_closed());
    drop(play);
    let _next = stage.ready().await;
    late.sender
        .unbounded_send(News::GuardianLost)
        .expect_err("it has nowhere to go");
    stage.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_goes_away_has_the_process_killed_wherever_it_is() {
    let mut stage = Stage::new(plain);
    let play = stage.ready().await;
    drop(play.process);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.exited(9);
    stage.tree_gone();
    stage.expect(&[Asked::Remove(1)]).await;

    let mut stage = Stage::new(plain);
    let play = stage.ordered().await;
    drop(play.process);
    stage.spawned();
    stage.expect(&[Asked::End(KILL_NOW), Asked::Activate]).await;
}

fn slow() -> TableError {
    TableError::Slow {
        waited: Duration::from_secs(5),
    }
}

/// The refusal of a second reservation shows that the first one was written.
fn written() -> TableError {
    let key = Key::new(
        ostler_core::ids::WorkerId::new("p", 0),
        ostler_core::ids::Incarnation(1),
    );
    TableError::Refused(Refusal::StillHeld {
        requested: key.clone(),
        held: key,
        state: RecordState::Reserved,
    })
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_only_delays_the_start() {
    let mut stage = Stage::new(plain);
    stage
        .answers
        .lock()
        .unwrap()
        .reserve
        .extend([slow(), slow(), written()]);
    let mut play = stage.begin();
    stage
        .expect(&[Asked::Reserve(1), Asked::Reserve(1), Asked::Reserve(1), Asked::Spawn(1)])
        .await;
    stage.spawned();
    stage.expect(&[Asked::Activate]).await;
    assert!(matches!(play.notice().await, Notice::Ready));
    assert_eq!(stage.story(), ["reserved", "spawned", "ready"]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_written_after_a_stop_is_removed() {
    let mut stage = Stage::new(plain);
    stage.answers.lock().unwrap().reserve.extend([slow(), written()]);
    let mut play = stage.begin();
    stage.expect(&[Asked::Reserve(1)]).await;
    play.process.stop(Cause::PoolStop);
    stage.expect(&[Asked::Reserve(1)]).await;
    let outcome = released(&mut stage, &mut play).await;
    assert_eq!(outcome, Outcome::Stopped { status: None });
}

#[tokio::test(start_paused = true)]
async fn a_record_that_can_t_be_removed_in_time_is_removed_later() {
    let mut stage = Stage::new(plain);
    stage.answers.lock().unwrap().remove.extend([slow(), slow()]);
    let mut play = stage.ready().await;
    stage.exited(0);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.tree_gone();
    stage.expect(&[Asked::Remove(1), Asked::Remove(1)]).await;
    released(&mut stage, &mut play).await;
}

#[tokio::test(start_paused = true)]
async fn held_ports_are_checked_again_until_they_are_free() {
    let mut stage = Stage::new(|pool| {
        plain(pool);
        pool.worker.ports = Ports::One(Port::Any);
    });
    stage
        .answers
        .lock()
        .unwrap()
        .held
        .extend(["pid 7".to_owned(), "pid 7".to_owned()]);
    let mut play = stage.ready().await;
    stage.exited(0);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.tree_gone();
    stage
        .expect(&[Asked::CheckPorts, Asked::CheckPorts, Asked::CheckPorts])
        .await;
    released(&mut stage, &mut play).await;
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_stays_is_named_and_killed_again() {
    let mut stage = Stage::new(plain);
    let mut play = stage.ready().await;
    play.process.stop(Cause::PoolStop);
    stage
        .expect(&[Asked::End(TERM), Asked::End(KILL_NOW), Asked::NameTree])
        .await;
    loop {
        match play.notice().await {
            Notice::Overdue(failed) => {
                assert_eq!(failed.holder.as_deref(), Some("pid 7 (stuck)"));
                break;
            }
            Notice::NotReady => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!stage.slot.is_released());
    stage.exited(9);
    stage.tree_gone();
    stage.expect(&[Asked::Remove(1)]).await;
}

/// Ctrl-Z, a debugger, a frozen cgroup: the host finds its deadline passed long ago, and the
/// readiness that came in time not yet read.
#[tokio::test(start_paused = true)]
async fn a_suspended_host_does_not_charge_its_worker() {
    let start_timeout = Duration::from_secs(30);
    let mut stage = Stage::new(|pool| {
        pool.worker.ready = Some(Ready::File);
        pool.worker.start_timeout = start_timeout;
    });
    let mut play = stage.ordered().await;
    stage.spawned();
    stage.expect(&[Asked::Activate]).await;
    let file = stage.scratch().join("3-1.ready");
    tokio::time::advance(start_timeout + LATE * 8).await;
    std::fs::write(&file, "1").unwrap();
    assert!(matches!(play.notice().await, Notice::Ready));
    assert_eq!(stage.story(), ["reserved", "spawned", "ready"]);
}

#[tokio::test(start_paused = true)]
async fn the_next_incarnation_waits_for_the_release_of_the_one_before() {
    let mut stage = Stage::new(plain);
    let first = stage.ready().await;
    let _second = stage.begin();
    tokio::task::yield_now().await;
    assert!(stage.slot.is_waiting());
    drop(first.process);
    stage.expect(&[Asked::End(KILL_NOW)]).await;
    stage.exited(9);
    stage.tree_gone();
    stage
        .expect(&[Asked::Remove(1), Asked::Reserve(2), Asked::Spawn(2)])
        .await;
}
