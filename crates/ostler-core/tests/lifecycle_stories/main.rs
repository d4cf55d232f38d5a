//! Whole lives, step by step.

mod guardian;
mod story;

use std::time::Duration;

use ostler_core::failure::{ExitStatus, Reason};
use ostler_core::lifecycle::{
    Cause, EXIT_STATUS_WAIT, Effect, Ignored, Input, KILL_NOW, LATE, Outcome, RETRY_MAX, Rules, Start, State,
    Transition,
};
use ostler_core::moment::Moment;
use ostler_core::signal::Signal;
use ostler_core::spec::StopSpec;

use story::{RELEASE, Story, TERM, failure, kill, reason, rules, stop};

#[test]
fn a_long_life_ends_well_and_each_step_has_its_time() {
    let mut story = Story::new(rules());
    let took = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Announce { elapsed, .. } => Some(elapsed.as_millis()),
            _ => None,
        })
    };
    assert_eq!(
        took(&story.after(Duration::from_millis(1)).step(Input::Recorded)),
        Some(1)
    );
    assert_eq!(
        took(&story.after(Duration::from_millis(2)).step(Input::Spawned)),
        Some(2)
    );
    assert_eq!(took(&story.after(Duration::from_millis(3)).step(Input::Ready)), Some(3));
    assert_eq!(story.life.deadline(), None);
    let exit = story
        .after(Duration::from_secs(4))
        .step(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(took(&exit), Some(4000));
    assert_eq!(
        exit.first(),
        Some(&Effect::End(KILL_NOW)),
        "what it left behind is killed at once"
    );
    assert_eq!(story.step(Input::TreeGone), [Effect::CheckPorts]);
    assert_eq!(story.step(Input::PortsFree), [Effect::Unrecord]);
    let end = story.after(Duration::from_millis(5)).step(Input::Unrecorded);
    assert_eq!(took(&end), Some(5));
    assert_eq!(
        end.last(),
        Some(&Effect::Done(Outcome::Finished {
            status: ExitStatus::Code(0)
        }))
    );
    assert_eq!(story.life.try_step(stop(), story.now), Err(Ignored::Over));
}

#[test]
fn an_exit_after_a_stop_is_a_stop_whatever_its_status() {
    for status in [
        ExitStatus::Code(0),
        ExitStatus::Code(143),
        ExitStatus::Signal(Signal::KILL),
    ] {
        let mut story = Story::ready(rules());
        assert_eq!(story.does(stop()), [Effect::End(TERM)]);
        assert_eq!(
            story.does(Input::Exited(status)),
            [],
            "the rest of the tree keeps its grace"
        );
        assert_eq!(story.ends(), Outcome::Stopped { status: Some(status) });
    }
}

#[test]
fn a_kill_cuts_the_grace_short_before_and_after_the_leaders_exit() {
    let mut story = Story::ready(rules());
    story.does(stop());
    assert_eq!(story.does(kill()), [Effect::End(KILL_NOW)]);
    assert_eq!(story.life.try_step(kill(), story.now), Err(Ignored::Already));

    let mut story = Story::ready(rules());
    story.does(stop());
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(story.does(kill()), [Effect::End(KILL_NOW)]);
}

#[test]
fn an_exit_before_ready_has_failed_whatever_its_status() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    story.does(Input::Spawned);
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(reason(&story.ends()), Some(Reason::ExitedBeforeReady));
}

#[test]
fn an_exit_that_overtakes_the_answer_of_the_spawn_is_not_lost() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    let announced = story.announces(Input::Exited(ExitStatus::Code(1)));
    assert!(
        matches!(
            announced[..],
            [Transition::Spawned, Transition::Exited(_), Transition::Failed(_)]
        ),
        "{announced:?}"
    );
    assert_eq!(reason(&story.ends()), Some(Reason::ExitedBeforeReady));
}

#[test]
fn a_stop_before_the_record_is_written_spawns_nothing_and_removes_the_record() {
    let mut story = Story::new(rules());
    assert_eq!(story.step(stop()), []);
    assert_eq!(story.does(Input::Recorded), [Effect::Unrecord]);
    assert_eq!(story.ends(), Outcome::Stopped { status: None });
}

#[test]
fn a_stop_during_the_spawn_ends_what_is_born_and_a_kill_ends_it_harder() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    assert_eq!(story.step(stop()), []);
    assert_eq!(story.clone().does(Input::Spawned), [Effect::End(TERM)]);
    assert_eq!(story.step(kill()), []);
    assert_eq!(story.does(Input::Spawned), [Effect::End(KILL_NOW)]);
}

#[test]
fn a_failed_spawn_has_no_port_to_wait_for() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    assert_eq!(
        story.does(Input::SpawnFailed(failure(Reason::CommandNotFound))),
        [Effect::Unrecord]
    );
    assert_eq!(reason(&story.ends()), Some(Reason::CommandNotFound));
}

#[test]
fn a_record_that_was_not_written_is_not_removed() {
    let mut story = Story::new(rules());
    let effects = story.does(Input::RecordFailed(failure(Reason::StoreFailed)));
    assert_eq!(effects, [Effect::Done(Outcome::Failed(failure(Reason::StoreFailed)))]);
}

#[test]
fn not_ready_in_time_is_ended_and_keeps_that_reason_with_its_status() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    story.after(Duration::from_secs(1)).does(Input::Spawned);
    let effects = story.at_deadline();
    assert_eq!(
        story.now,
        Moment::ORIGIN + Duration::from_secs(30),
        "the limit runs from the written reservation"
    );
    assert_eq!(effects.last(), Some(&Effect::End(TERM)));
    assert_eq!(story.life.try_step(Input::Ready, story.now), Err(Ignored::Ending));
    story.does(Input::Exited(ExitStatus::Signal(Signal::TERM)));
    let Outcome::Failed(failed) = story.ends() else {
        panic!("it failed")
    };
    assert_eq!(
        (failed.reason, failed.status),
        (Reason::ReadyTimeout, Some(ExitStatus::Signal(Signal::TERM)))
    );
}

#[test]
fn an_unhealthy_worker_is_ended_and_a_later_stop_does_not_change_why() {
    let mut story = Story::ready(rules());
    let announced = story.announces(Input::Unhealthy(failure(Reason::HealthCheckFailed)));
    assert!(matches!(
        announced[..],
        [
            Transition::Unhealthy(_),
            Transition::Stopping {
                cause: Cause::Unhealthy,
                ..
            }
        ]
    ));
    assert_eq!(story.life.try_step(stop(), story.now), Err(Ignored::Ending));
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(reason(&story.ends()), Some(Reason::HealthCheckFailed));
}

#[test]
fn a_foreign_port_is_not_waited_for() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    story.does(Input::Spawned);
    assert_eq!(
        story.does(Input::StartFailed(failure(Reason::PortInUse))),
        [Effect::End(TERM)]
    );
    story.does(Input::Exited(ExitStatus::Code(1)));
    assert_eq!(story.does(Input::TreeGone), [Effect::Unrecord]);
    assert_eq!(reason(&story.ends()), Some(Reason::PortInUse));
}

#[test]
fn a_held_port_is_tried_again_with_doubling_pauses_then_named_and_never_passed_over() {
    let mut story = Story::ready(rules());
    story.does(Input::Exited(ExitStatus::Code(1)));
    let exited = story.now;
    story.does(Input::TreeGone);
    let mut pauses = Vec::new();
    loop {
        let asked = story.now;
        assert_eq!(story.does(Input::PortsHeld("7001 by pid 9 (x)".into())), []);
        let effects = story.at_deadline();
        pauses.push(story.now.since(asked).as_millis());
        match &effects[..] {
            [Effect::CheckPorts] => {}
            [
                Effect::Announce {
                    what: Transition::Failed(announced),
                    ..
                },
                Effect::ReleaseOverdue(failed),
                ..,
            ] => {
                assert_eq!(announced, failed);
                assert_eq!(failed.reason, Reason::ReleaseTimeout);
                assert_eq!(failed.holder.as_deref(), Some("7001 by pid 9 (x)"));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses[..7], [10, 20, 40, 80, 160, 320, RETRY_MAX.as_millis()]);
    assert_eq!(story.now.since(exited), RELEASE);
    assert_eq!(story.life.state(), State::Releasing);
    assert_eq!(story.life.deadline().map(|next| next > story.now), Some(true));
    assert_eq!(reason(&story.ends()), Some(Reason::Exited), "the first cause stands");
}

#[test]
fn a_tree_that_stays_is_killed_again_and_named_each_time() {
    let mut story = Story::ready(rules());
    story.does(stop());
    let stopped = story.now;
    for round in 0..3 {
        let effects = story.at_deadline();
        assert_eq!(story.now.since(stopped), TERM.grace + RELEASE * (round + 1));
        assert!(
            effects.ends_with(&[Effect::End(KILL_NOW), Effect::NameHolders]),
            "{effects:?}"
        );
        let effects = story.does(Input::Held("pid 7 (stuck), state D".into()));
        let [Effect::ReleaseOverdue(failed)] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(failed.holder.as_deref(), Some("pid 7 (stuck), state D"));
        assert_eq!(
            story.life.try_step(Input::Held("late".into()), story.now),
            Err(Ignored::NotAsked)
        );
    }
    story.does(Input::Exited(ExitStatus::Signal(Signal::KILL)));
    assert!(matches!(story.ends(), Outcome::Stopped { .. }));
}

#[test]
fn an_overdue_release_is_reported_once_even_if_its_holder_stays_unknown() {
    let overdue = |effects: &[Effect]| {
        effects
            .iter()
            .filter(|e| matches!(e, Effect::ReleaseOverdue(_)))
            .count()
    };
    let mut story = Story::ready(rules());
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(overdue(&story.at_deadline()), 0);
    assert_eq!(overdue(&story.at_deadline()), 1);
    assert_eq!(overdue(&story.step(Input::TreeGone)), 1);
    assert_eq!(overdue(&story.step(Input::PortsFree)), 0);
}

#[test]
fn a_grace_longer_than_release_timeout_is_not_overdue_when_the_leader_ends_early() {
    let grace = Duration::from_secs(60);
    let mut story = Story::ready(Rules {
        stop: StopSpec::new(Signal::TERM, grace),
        ..rules()
    });
    story.does(stop());
    let stopped = story.now;
    story
        .after(Duration::from_secs(1))
        .does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(story.life.deadline(), Some(stopped + grace + RELEASE));
}

#[test]
fn a_record_that_can_t_be_removed_is_tried_again_and_announced_as_the_stores_fault() {
    let mut story = Story::ready(Rules {
        has_ports: false,
        ..rules()
    });
    story.does(stop());
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(story.does(Input::TreeGone), [Effect::Unrecord]);
    story.does(Input::UnrecordFailed("disk full".into()));
    assert_eq!(story.at_deadline(), [Effect::Unrecord]);
    let effects = story.at_deadline();
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::ReleaseOverdue(f) if f.reason == Reason::StoreFailed))
    );
    assert_eq!(effects.last(), Some(&Effect::Unrecord), "no answer came: asked again");
    assert!(matches!(story.ends(), Outcome::Stopped { .. }));
}

#[test]
fn an_exit_before_ready_is_like_any_other_where_nothing_has_to_be_shown() {
    let ended = |status| {
        let mut story = Story::new(Rules {
            start: Start::Alive,
            ..rules()
        });
        story.does(Input::Recorded);
        assert_eq!(story.does(Input::Spawned), [Effect::WatchReady]);
        let announced = story.announces(Input::Exited(status));
        assert!(!announced.contains(&Transition::Ready), "{announced:?}");
        story.ends()
    };
    assert!(matches!(ended(ExitStatus::Code(0)), Outcome::Finished { .. }));
    assert_eq!(reason(&ended(ExitStatus::Code(7))), Some(Reason::Exited));
    let killed = ended(ExitStatus::Signal(Signal::KILL));
    assert_eq!(reason(&killed), Some(Reason::Killed));
}

#[test]
fn a_worker_that_needs_no_moment_is_ready_with_its_spawn() {
    let mut story = Story::new(Rules {
        start: Start::AtOnce,
        ..rules()
    });
    story.does(Input::Recorded);
    assert_eq!(
        story.clone().announces(Input::Spawned),
        [Transition::Spawned, Transition::Ready]
    );
    assert_eq!(story.does(Input::Spawned), [Effect::WatchHealth]);
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert!(matches!(story.ends(), Outcome::Finished { .. }));
}

/// A suspended host, a frozen cgroup, a debugger: neither the worker nor its answers could be
/// heard.
#[test]
fn a_deadline_that_is_noticed_late_is_armed_once_more() {
    let limit = Duration::from_secs(30);
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    story.does(Input::Spawned);
    let suspended = Duration::from_secs(5);
    story.after(limit + suspended);
    assert_eq!(story.step(Input::Deadline), []);
    assert_eq!(story.life.deadline(), Some(story.now + suspended));
    assert_eq!(story.clone().does(Input::Ready), [Effect::WatchHealth]);
    story.after(suspended + LATE * 2);
    assert_eq!(story.does(Input::Deadline), [Effect::End(TERM)], "only once");
}

#[test]
fn a_table_that_stalls_takes_nothing_from_the_time_to_become_ready() {
    let mut story = Story::new(rules());
    story.after(Duration::from_secs(29)).does(Input::Recorded);
    story.does(Input::Spawned);
    assert_eq!(story.life.deadline(), Some(story.now + Duration::from_secs(30)));
}

#[test]
fn a_status_that_comes_after_the_tree_is_gone_is_waited_for_but_not_for_ever() {
    let mut story = Story::ready(rules());
    assert_eq!(story.step(Input::TreeGone), []);
    assert_eq!(
        story.clone().does(Input::Exited(ExitStatus::Code(0))),
        [Effect::CheckPorts]
    );
    let gone = story.now;
    assert_eq!(story.at_deadline().last(), Some(&Effect::CheckPorts));
    assert_eq!(story.now.since(gone), EXIT_STATUS_WAIT);
    assert_eq!(reason(&story.ends()), Some(Reason::Killed));
}

#[test]
fn a_table_that_never_answers_ends_the_start_and_is_reported_for_as_long() {
    let mut story = Story::new(rules());
    assert_eq!(story.at_deadline(), []);
    for _ in 0..2 {
        let effects = story.at_deadline();
        assert!(matches!(&effects[..], [_, Effect::ReleaseOverdue(f)] if f.reason == Reason::StoreFailed));
    }
    assert_eq!(story.does(Input::Recorded), [Effect::Unrecord]);
    assert_eq!(reason(&story.ends()), Some(Reason::StoreFailed));
}

#[test]
fn a_spawn_that_is_never_answered_is_killed_on_suspicion() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    assert_eq!(story.at_deadline(), []);
    assert!(
        story
            .at_deadline()
            .ends_with(&[Effect::End(KILL_NOW), Effect::NameHolders])
    );
    assert_eq!(
        story.does(Input::Spawned),
        [Effect::End(TERM)],
        "and whatever is born after all is ended"
    );
}

#[test]
fn no_start_timeout_still_bounds_the_record_and_the_spawn() {
    let mut story = Story::new(Rules {
        start_timeout: Duration::ZERO,
        ..rules()
    });
    assert_eq!(story.life.deadline(), Some(story.now + RELEASE));
    story.after(Duration::from_secs(7)).does(Input::Recorded);
    assert_eq!(story.life.deadline(), Some(story.now + RELEASE));
    story.does(Input::Spawned);
    assert_eq!(story.life.deadline(), None);
}

#[test]
fn a_clock_set_back_brings_no_deadline_back() {
    let mut story = Story::new(rules());
    story.after(Duration::from_secs(20)).does(Input::Recorded);
    story.life.step(Input::Spawned, Moment::ORIGIN);
    story.life.step(stop(), Moment::ORIGIN);
    assert_eq!(story.life.deadline(), Some(story.now + TERM.grace + RELEASE));
}
