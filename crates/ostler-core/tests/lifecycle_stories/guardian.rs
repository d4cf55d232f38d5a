//! Guardian and sitter are lost, in every order.

use std::time::Duration;

use ostler_core::failure::{ExitStatus, Reason};
use ostler_core::lifecycle::{Effect, Ignored, Input, KILL_NOW, Outcome, Rest, Rules, State, Transition};
use ostler_core::spec::StopSpec;

use super::story::{RELEASE, Story, kill, reason, rules, stop};

#[test]
fn a_lost_guardian_is_the_outcome_and_its_sitter_does_the_ending() {
    let mut story = Story::ready(rules());
    assert_eq!(story.does(Input::GuardianLost), []);
    assert_eq!(story.life.state(), State::Stopping);
    assert_eq!(
        story.does(Input::TreeGone),
        [Effect::CheckPorts],
        "its status is unknown"
    );
    assert_eq!(reason(&story.ends()), Some(Reason::GuardianLost));
}

/// Its sitter gives it the grace of `host_death`, not that of a stop: nothing ends it sooner but a
/// kill.
#[test]
fn what_is_born_when_its_guardian_is_lost_is_left_to_its_sitter() {
    let hour = Duration::from_secs(3600);
    let mut story = Story::new(Rules {
        host_death: StopSpec::term(hour),
        ..rules()
    });
    story.does(Input::Recorded);
    story.does(Input::GuardianLost);
    assert_eq!(story.does(Input::Spawned), []);
    assert_eq!(story.life.state(), State::Stopping);
    let limit = story.life.deadline().unwrap();
    assert_eq!(limit.since(story.now), hour + RELEASE);
    assert_eq!(story.clone().does(kill()), [Effect::KillPastSitter]);
    assert!(story.clone().at_deadline().contains(&Effect::KillPastSitter));
    story.does(Input::Exited(ExitStatus::Code(0)));
    story.does(Input::TreeGone);
    assert_eq!(reason(&story.ends()), Some(Reason::GuardianLost));
}

#[test]
fn a_lost_guardian_does_not_turn_a_stop_into_a_failure() {
    let mut story = Story::ready(rules());
    story.does(stop());
    story.does(Input::GuardianLost);
    story.does(Input::TreeGone);
    assert_eq!(story.ends(), Outcome::Stopped { status: None });
}

#[test]
fn a_sitter_that_does_not_end_the_tree_is_helped() {
    let mut story = Story::ready(rules());
    story.does(Input::GuardianLost);
    assert!(story.at_deadline().contains(&Effect::KillPastSitter));
}

#[test]
fn a_kill_that_the_guardian_may_not_have_read_is_given_again_past_the_sitter() {
    let mut story = Story::ready(rules());
    assert_eq!(story.does(kill()), [Effect::End(KILL_NOW)]);
    assert_eq!(story.does(Input::GuardianLost), [Effect::KillPastSitter]);

    let mut story = Story::ready(rules());
    let by_itself = story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(by_itself, [Effect::End(KILL_NOW)]);
    assert_eq!(story.does(Input::GuardianLost), [Effect::KillPastSitter]);

    let mut story = Story::ready(rules());
    story.does(stop());
    assert_eq!(
        story.does(Input::GuardianLost),
        [],
        "the sitter gives it a grace of its own"
    );
    assert_eq!(story.does(kill()), [Effect::KillPastSitter]);
}

#[test]
fn a_kill_past_the_sitter_is_not_begun_twice_at_a_time() {
    let mut story = Story::ready(rules());
    story.does(Input::GuardianLost);
    assert_eq!(story.does(kill()), [Effect::KillPastSitter]);
    assert!(
        !story.at_deadline().contains(&Effect::KillPastSitter),
        "it is under way"
    );
    assert_eq!(story.step(Input::KilledPastSitter), []);
    assert_eq!(
        story.life.try_step(Input::KilledPastSitter, story.now),
        Err(Ignored::NotAsked)
    );
    assert!(story.at_deadline().contains(&Effect::KillPastSitter), "it did not help");
}

#[test]
fn a_tree_without_a_sitter_is_ended_by_the_host_and_its_proof_decides_what_is_announced() {
    let mut story = Story::ready(rules());
    story.does(Input::GuardianLost);
    assert_eq!(story.does(Input::SittersEnded), [Effect::EndWithoutSitter]);
    let mut unproven = story.clone();
    assert_eq!(story.does(Input::EndedWithoutSitter(Rest::Gone)), [Effect::CheckPorts]);
    story.does(Input::PortsFree);
    assert_eq!(story.clone().announces(Input::Unrecorded), [Transition::Released]);
    assert_eq!(reason(&story.ends()), Some(Reason::GuardianLost));

    unproven.does(Input::EndedWithoutSitter(Rest::Unseen("no cgroup".into())));
    unproven.does(Input::PortsFree);
    assert_eq!(
        unproven.announces(Input::Unrecorded),
        [Transition::Unseen("no cgroup".into())]
    );
    assert_eq!(unproven.life.state(), State::Released);
}

#[test]
fn sitters_that_end_without_the_news_of_the_guardians_death_mean_both() {
    let mut story = Story::ready(rules());
    assert_eq!(story.does(Input::SittersEnded), [Effect::EndWithoutSitter]);
    assert_eq!(
        story.life.try_step(Input::GuardianLost, story.now),
        Err(Ignored::Already)
    );
    story.does(Input::EndedWithoutSitter(Rest::Gone));
    assert_eq!(reason(&story.ends()), Some(Reason::GuardianLost));
}

#[test]
fn what_lives_on_without_a_sitter_is_named_and_killed_again() {
    let mut story = Story::ready(rules());
    story.does(Input::SittersEnded);
    assert_eq!(story.does(Input::EndedWithoutSitter(Rest::Left("pid 7".into()))), []);
    assert_eq!(story.at_deadline().last(), Some(&Effect::EndWithoutSitter));
    let effects = story.does(Input::EndedWithoutSitter(Rest::Left("pid 7".into())));
    let [Effect::ReleaseOverdue(failed)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(failed.holder.as_deref(), Some("pid 7"));
    assert_eq!(story.at_deadline().last(), Some(&Effect::EndWithoutSitter));
    story.does(Input::EndedWithoutSitter(Rest::Gone));
    story.ends();
    assert_eq!(
        story.life.try_step(Input::EndedWithoutSitter(Rest::Gone), story.now),
        Err(Ignored::Over)
    );
}

#[test]
fn a_spawn_that_died_with_guardian_and_sitter_is_ended_and_comes_to_nothing() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    story.does(Input::GuardianLost);
    assert_eq!(story.does(Input::SittersEnded), [Effect::EndWithoutSitter]);
    assert_eq!(story.does(Input::EndedWithoutSitter(Rest::Gone)), [Effect::Unrecord]);
    assert_eq!(reason(&story.ends()), Some(Reason::GuardianLost));
}

#[test]
fn a_sitter_that_is_killed_takes_its_worker_with_it_in_every_state() {
    let mut story = Story::new(rules());
    story.does(Input::Recorded);
    assert_eq!(story.does(Input::SitterLost), [Effect::Unrecord]);
    assert_eq!(reason(&story.ends()), Some(Reason::GuardianLost));

    let mut story = Story::ready(rules());
    assert_eq!(story.does(Input::SitterLost), [Effect::CheckPorts]);
    assert_eq!(reason(&story.ends()), Some(Reason::Killed));

    let mut story = Story::ready(rules());
    story.does(stop());
    assert_eq!(story.does(Input::SitterLost), [Effect::CheckPorts]);
    assert!(matches!(story.ends(), Outcome::Stopped { .. }));

    let mut story = Story::ready(rules());
    story.does(stop());
    story.does(Input::Exited(ExitStatus::Code(0)));
    assert_eq!(story.does(Input::SitterLost), [Effect::CheckPorts]);

    let mut story = Story::ready(rules());
    story.does(Input::TreeGone);
    assert_eq!(
        story.life.try_step(Input::SitterLost, story.now),
        Err(Ignored::Already),
        "it was idle"
    );
}
