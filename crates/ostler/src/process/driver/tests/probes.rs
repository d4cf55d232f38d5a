//! The lives of workers that a command examines.

use ostler_core::failure::Reason;
use ostler_core::lifecycle::{KILL_NOW, Outcome, Rest};
use ostler_core::spec::{Health, PoolSpec};

use super::super::super::protocol::Notice;
use super::super::super::script::{Asked, Stage};
use super::{TERM, failure, plain, released};
use crate::guard::News;

/// A worker that is examined by a command every two seconds.
fn examined(pool: &mut PoolSpec) {
    plain(pool);
    pool.worker.health = Some(Health::exec(["sh", "-c", "true"]));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_succeeds_is_followed_by_the_next_and_one_that_fails_counts() {
    let mut stage = Stage::new(examined);
    let mut play = stage.ready().await;
    for nth in [1, 2] {
        stage.expect(&[Asked::Probe(nth)]).await;
        stage.probe_ended(0);
    }
    for nth in [3, 4, 5] {
        stage.expect(&[Asked::Probe(nth)]).await;
        stage.probe_ended(1 << 8);
    }
    stage.expect(&[Asked::End(TERM)]).await;
    stage.exited(0);
    stage.tree_gone();
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::HealthCheckFailed);
    assert!(failed.message.contains("exit status 1"), "{failed}");
}

/// The worker's release means that nothing of it is left: a probe counts.
#[tokio::test(start_paused = true)]
async fn a_worker_that_ends_during_its_probe_is_released_when_the_probe_is_gone() {
    let mut stage = Stage::new(examined);
    let mut play = stage.ready().await;
    stage.expect(&[Asked::Probe(1)]).await;
    stage.exited(0);
    stage.expect(&[Asked::End(KILL_NOW), Asked::EndProbe(1)]).await;
    stage.tree_gone();
    // What holds it is named when it is overdue.
    stage.expect(&[Asked::End(KILL_NOW), Asked::NameTree]).await;
    loop {
        match play.notice().await {
            Notice::Overdue(failed) => break assert_eq!(failed.reason, Reason::ReleaseTimeout),
            Notice::NotReady => {}
            other => panic!("{other:?}"),
        }
    }
    stage.assert_idle();
    stage.probe_ended(9);
    let outcome = released(&mut stage, &mut play).await;
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_sitter_and_guardian_are_lost_is_ended_by_the_host() {
    let mut stage = Stage::new(examined);
    let mut play = stage.ready().await;
    stage.expect(&[Asked::Probe(1)]).await;
    stage
        .answers
        .lock()
        .unwrap()
        .rest
        .push_back(Rest::Left("pid 8 (stuck)".to_owned()));
    stage.tell_probe(News::GuardianLost);
    stage.tell_probe(News::SittersEnded);
    stage.tell(News::GuardianLost);
    stage.ended_by_guardian_death();
    stage.exited(9);
    stage.tree_gone();
    // Once more, because something was left.
    stage.expect(&[Asked::EndWithoutSitter, Asked::EndWithoutSitter]).await;
    let failed = failure(released(&mut stage, &mut play).await);
    assert_eq!(failed.reason, Reason::GuardianLost);
}
