use super::*;
use crate::failure::Reason;

fn pool(workers: u32, min: u32, rule: OnGiveUp) -> PoolWatch {
    PoolWatch::new(workers, min, rule).0
}

#[test]
fn ready_is_announced_once_and_again_after_a_loss() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    assert_eq!(watch.readiness(), Readiness::Starting);
    assert_eq!(watch.step(PoolInput::Ready(0)), None);
    assert_eq!(watch.step(PoolInput::Ready(1)), Some(PoolEffect::Ready));
    assert_eq!(watch.step(PoolInput::NotReady(0)), None);
    assert_eq!(watch.step(PoolInput::Ready(0)), Some(PoolEffect::Ready));
}

#[test]
fn a_crash_degrades_the_pool_until_its_worker_is_ready_again() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    watch.step(PoolInput::Ready(1));
    let degraded = |ready| PoolEffect::Degraded {
        ready,
        expected: 2,
        waits: None,
    };
    assert_eq!(
        watch.step(PoolInput::NotReady(0)),
        None,
        "it may finish, or be restarted on request"
    );
    assert_eq!(watch.readiness(), Readiness::Degraded { ready: 1, expected: 2 });
    assert_eq!(watch.step(PoolInput::Restarting(0)), Some(degraded(1)));
    watch.step(PoolInput::NotReady(1));
    assert_eq!(watch.step(PoolInput::Restarting(1)), None, "it is degraded already");
    assert_eq!(watch.step(PoolInput::Ready(1)), None);
    assert_eq!(watch.step(PoolInput::Ready(0)), Some(PoolEffect::Ready));
    assert_eq!(watch.readiness(), Readiness::Ready);
    watch.step(PoolInput::NotReady(1));
    assert_eq!(watch.step(PoolInput::Restarting(1)), Some(degraded(1)));
}

/// Also while it starts: nothing else would say that it waits.
#[test]
fn a_pool_that_waits_says_once_for_what() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    let busy = || Failure::new(Reason::ProgramBusy, "it is being written");
    let said = |watch: &mut PoolWatch| match watch.step(PoolInput::Waiting(1, busy())) {
        Some(PoolEffect::Degraded { ready, expected, waits }) => Some((ready, expected, waits)),
        other => {
            assert_eq!(other, None);
            None
        }
    };
    assert_eq!(said(&mut watch), Some((1, 2, Some((1, busy())))));
    assert_eq!(watch.readiness(), Readiness::Degraded { ready: 1, expected: 2 });
    assert_eq!(said(&mut watch), None);
    assert_eq!(watch.step(PoolInput::Restarting(0)), None);
    assert_eq!(watch.step(PoolInput::Ready(0)), None);
    assert_eq!(watch.step(PoolInput::Ready(1)), Some(PoolEffect::Ready));
    watch.step(PoolInput::NotReady(1));
    assert!(watch.step(PoolInput::Restarting(1)).is_some());
    assert_eq!(
        said(&mut watch),
        Some((1, 2, Some((1, busy())))),
        "a crash does not say for what"
    );
    assert!(!watch.is_short(), "it is tried again");
}

#[test]
fn a_pool_with_slots_that_gave_up_is_never_ready() {
    let mut watch = pool(3, 1, OnGiveUp::Worker);
    assert_eq!(watch.step(PoolInput::GaveUp(0, None)), None, "it is starting");
    assert_eq!(watch.step(PoolInput::Ready(1)), None);
    let degraded = |ready| {
        Some(PoolEffect::Degraded {
            ready,
            expected: 3,
            waits: None,
        })
    };
    assert!(!watch.is_short(), "worker 2 may become ready");
    assert_eq!(watch.step(PoolInput::Ready(2)), degraded(2));
    assert!(watch.is_short());
    assert_eq!(watch.step(PoolInput::NotReady(2)), None);
    assert_eq!(
        watch.step(PoolInput::GaveUp(2, None)),
        degraded(1),
        "each slot that is lost is said"
    );
    assert_eq!(watch.readiness(), Readiness::Degraded { ready: 1, expected: 3 });
    assert_eq!(watch.step(PoolInput::Restarting(0)), None);
    assert_eq!(watch.step(PoolInput::Ready(0)), None, "slot 2 is still lost");
    assert_eq!(watch.step(PoolInput::Ready(2)), Some(PoolEffect::Ready));
}

#[test]
fn a_worker_that_finishes_no_longer_counts() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    watch.step(PoolInput::Ready(1));
    assert_eq!(watch.step(PoolInput::NotReady(0)), None);
    assert_eq!(watch.step(PoolInput::Finished(0)), Some(PoolEffect::Ready));
    assert_eq!(watch.readiness(), Readiness::Ready);
}

#[test]
fn the_others_serve_on_until_too_few_are_left() {
    let mut watch = pool(3, 2, OnGiveUp::Worker);
    assert_eq!(watch.step(PoolInput::GaveUp(0, None)), None);
    assert!(matches!(
        watch.step(PoolInput::GaveUp(1, None)),
        Some(PoolEffect::GaveUp { .. })
    ));
    assert_eq!(watch.step(PoolInput::GaveUp(2, None)), None, "it gives up once");
}

#[test]
fn the_last_slot_to_give_up_takes_the_pool_with_it() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    assert_eq!(watch.step(PoolInput::GaveUp(0, None)), None);
    assert!(matches!(
        watch.step(PoolInput::GaveUp(1, None)),
        Some(PoolEffect::GaveUp { .. })
    ));
}

#[test]
fn under_otps_rule_the_first_slot_takes_the_pool_with_it() {
    let mut watch = pool(9, 1, OnGiveUp::Pool);
    assert!(matches!(
        watch.step(PoolInput::GaveUp(4, None)),
        Some(PoolEffect::GaveUp { .. })
    ));
}

#[test]
fn finished_when_all_slots_have() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    assert_eq!(watch.step(PoolInput::Finished(1)), None);
    assert_eq!(watch.step(PoolInput::Finished(0)), Some(PoolEffect::Finished));
}

#[test]
fn a_pool_that_grows_is_ready_again_with_its_new_workers() {
    let mut watch = pool(1, 1, OnGiveUp::Worker);
    assert_eq!(watch.step(PoolInput::Ready(0)), Some(PoolEffect::Ready));
    assert_eq!(watch.resize(3, 0), None);
    assert_eq!(watch.readiness(), Readiness::Degraded { ready: 1, expected: 3 });
    assert!(!watch.is_short());
    assert_eq!(watch.step(PoolInput::Ready(1)), None);
    assert_eq!(watch.step(PoolInput::Ready(2)), Some(PoolEffect::Ready));
}

#[test]
fn a_pool_that_shrinks_is_ready_when_its_remaining_workers_are() {
    let mut watch = pool(3, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    watch.step(PoolInput::Ready(1));
    assert_eq!(watch.resize(2, 0), Some(PoolEffect::Ready));
    // What the removed worker does changes nothing.
    for input in [
        PoolInput::Ready(2),
        PoolInput::NotReady(2),
        PoolInput::Restarting(2),
        PoolInput::Finished(2),
        PoolInput::GaveUp(2, None),
    ] {
        assert_eq!(watch.step(input.clone()), None, "{input:?}");
        assert_eq!((watch.readiness(), watch.ready_workers()), (Readiness::Ready, 2));
    }
}

#[test]
fn a_slot_that_gave_up_no_longer_counts_once_it_is_removed() {
    let mut watch = pool(3, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    watch.step(PoolInput::Ready(1));
    watch.step(PoolInput::GaveUp(2, None));
    assert!(watch.is_short());
    assert_eq!(watch.resize(2, 0), Some(PoolEffect::Ready));
    assert!(!watch.is_short());
}

#[test]
fn a_pool_that_shrinks_to_slots_that_are_lost_is_over() {
    let mut watch = pool(3, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(2));
    watch.step(PoolInput::GaveUp(0, None));
    watch.step(PoolInput::GaveUp(1, None));
    assert!(matches!(watch.resize(2, 0), Some(PoolEffect::GaveUp { .. })));

    let mut watch = pool(2, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Finished(0));
    assert_eq!(watch.resize(1, 0), Some(PoolEffect::Finished));
}

#[test]
fn an_emptied_pool_can_grow_again() {
    let mut watch = pool(1, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    assert_eq!(watch.resize(0, 0), Some(PoolEffect::Ready));
    assert_eq!(watch.readiness(), Readiness::Ready);
    assert_eq!(watch.resize(1, 0), None);
    assert_eq!(watch.step(PoolInput::Ready(0)), Some(PoolEffect::Ready));
}

#[test]
fn a_surge_slot_replaces_a_worker_that_is_restarted() {
    let mut watch = pool(2, 1, OnGiveUp::Worker);
    watch.step(PoolInput::Ready(0));
    watch.step(PoolInput::Ready(1));
    assert_eq!(watch.resize(3, 1), None, "it is ready already");
    assert_eq!(watch.step(PoolInput::Ready(2)), None);
    assert_eq!(watch.step(PoolInput::NotReady(0)), None);
    assert_eq!(watch.readiness(), Readiness::Ready);
    assert_eq!(watch.step(PoolInput::NotReady(1)), None);
    assert_eq!(watch.readiness(), Readiness::Degraded { ready: 1, expected: 2 });
    assert_eq!(watch.step(PoolInput::Ready(1)), Some(PoolEffect::Ready));
    watch.step(PoolInput::Ready(0));
    assert_eq!(watch.resize(2, 0), None);
    assert_eq!(watch.readiness(), Readiness::Ready);
}

#[test]
fn an_empty_pool_is_ready_at_once_and_grows() {
    let (mut watch, at_once) = PoolWatch::new(0, 1, OnGiveUp::Pool);
    assert_eq!(at_once, Some(PoolEffect::Ready));
    assert_eq!(watch.readiness(), Readiness::Ready);
    assert_eq!(watch.resize(1, 0), None);
    assert_eq!(watch.readiness(), Readiness::Starting);
    assert_eq!(watch.step(PoolInput::Ready(0)), Some(PoolEffect::Ready));
    assert_eq!(PoolWatch::new(1, 1, OnGiveUp::Pool).1, None);
}
