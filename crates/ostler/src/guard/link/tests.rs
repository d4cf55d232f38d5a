//! Routes, slot numbers, orders and censuses, with a scripted guardian.

use std::sync::Arc;

use super::super::script::Scripted;
use super::*;

#[test]
fn an_incarnation_bound_to_a_guardian_that_is_gone_learns_that() {
    let link = Link::<Scripted>::new();
    link.lost(1);
    link.ended(1);
    link.lost(2);
    let heard = |generation| {
        let (sender, mut heard) = mpsc::unbounded();
        let incarnation = Incarnation(1);
        link.bind(0, generation, Route { incarnation, sender });
        link.forget(0, incarnation);
        std::iter::from_fn(move || heard.try_recv().ok())
            .map(|message| format!("{message:?}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(heard(1), ["GuardianLost", "SittersEnded"]);
    assert_eq!(heard(2), ["GuardianLost"], "its sitters have not ended yet");
    assert_eq!(heard(3), [""; 0]);
}

#[test]
fn the_number_of_a_slot_is_used_again_when_its_sitter_is_gone() {
    let mut slots = SlotNumbers::default();
    let taken: Vec<u32> = (0..4).map(|_| slots.take()).collect();
    assert_eq!(taken, [0, 1, 2, 3]);
    slots.closing.extend([(1, 7), (2, 8)]);
    assert_eq!(slots.take(), 4, "their sitters have not ended");
    assert!(!slots.closed(1, 8), "another guardian's slot of that number");
    assert!(slots.closed(1, 7));
    assert!(!slots.closed(1, 7), "reported twice, it is free once");
    assert_eq!((slots.take(), slots.take()), (1, 5));
    assert!(!slots.guardian_lost(7));
    assert!(slots.guardian_lost(8));
    assert_eq!((slots.take(), slots.closing.len()), (2, 0));
}

#[test]
fn a_slot_is_closed_however_its_sitter_ends() {
    use std::os::unix::process::ExitStatusExt;
    let ends = [
        GuardianEvent::Closed { slot: 0 },
        GuardianEvent::SitterLost {
            slot: 0,
            incarnation: 9,
            killed: 0,
            status: std::process::ExitStatus::from_raw(9),
        },
        GuardianEvent::OrderFailed {
            slot: 0,
            incarnation: 0,
            errno: 11,
        },
    ];
    for end in ends {
        let link = Link::<Scripted>::new();
        assert_eq!(link.new_slot(), 0);
        link.slots.send_modify(|slots| _ = slots.closing.insert(0, 1));
        link.deliver(1, end.clone());
        assert!(link.slots.borrow().closing.is_empty(), "{end:?}");
        assert_eq!(link.new_slot(), 0);
    }
}

#[test]
fn slots_that_are_closed_without_a_guardian_are_free() {
    let link = Link::<Scripted>::new();
    let taken = [link.new_slot(), link.new_slot()];
    link.close_slots(&taken);
    assert!(link.slots.borrow().closing.is_empty());
    assert!(taken.contains(&link.new_slot()));

    let mut gone = Scripted::default();
    gone.gone = true;
    link.serve(gone);
    link.close_slots(&taken);
    assert!(link.slots.borrow().closing.is_empty());
}

#[test]
fn many_slots_are_closed_by_one_order_and_their_numbers_are_free_one_by_one() {
    let link = Link::new();
    let guardian = Scripted::default();
    let generation = link.serve(guardian.clone());
    let taken = [link.new_slot(), link.new_slot(), link.new_slot()];
    link.close_slots(&[]);
    assert_eq!(guardian.orders(), [""; 0]);
    link.close_slots(&taken);
    assert_eq!(guardian.orders(), ["close [0, 1, 2]"]);
    assert_eq!(link.new_slot(), 3, "no sitter has ended");
    let waiting = link.slots.subscribe();
    for slot in taken {
        assert!(!waiting.has_changed().unwrap(), "only the last one wakes who waits");
        link.deliver(generation, GuardianEvent::Closed { slot });
        assert_eq!(link.new_slot(), slot);
    }
    assert!(waiting.has_changed().unwrap());
}

#[test]
fn news_of_a_lost_guardian_are_not_those_of_the_slots_next_owner() {
    let link = Link::<Scripted>::new();
    let (sender, mut heard) = mpsc::unbounded();
    let incarnation = Incarnation(1);
    link.bind(0, 2, Route { incarnation, sender });
    let end = |generation| {
        let how = ostler_os::guardian::TreeKill::default();
        let event = GuardianEvent::TreeGone {
            slot: 0,
            incarnation: 1,
            killed: 0,
            how,
        };
        link.deliver(generation, event);
    };
    end(1);
    assert!(heard.try_recv().is_err());
    end(2);
    assert!(heard.try_recv().is_ok());
}

fn census_of(pid: u32) -> GuardianEvent {
    GuardianEvent::Census {
        sitters: vec![(0, pid)],
        strays: Vec::new(),
        strays_total: 0,
    }
}

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_census_that_comes_too_late_is_not_taken_for_the_next_ones_answer() {
    let link = Arc::new(Link::<Scripted>::new());
    let generation = link.serve(Scripted::default());
    assert_eq!(link.census(LIMIT).await.unwrap_err(), NoCensus::Unanswered);
    let asking = tokio::spawn({
        let link = Arc::clone(&link);
        async move { link.census(LIMIT).await }
    });
    tokio::task::yield_now().await;
    link.deliver(generation, census_of(1));
    tokio::task::yield_now().await;
    assert!(!asking.is_finished(), "that is the answer to the first question");
    link.deliver(generation, census_of(2));
    assert_eq!(asking.await.unwrap().unwrap().sitters, [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_census_of_a_lost_guardian_answers_no_question_to_the_next() {
    let link = Arc::new(Link::<Scripted>::new());
    let lost = link.serve(Scripted::default());
    let asking = tokio::spawn({
        let link = Arc::clone(&link);
        async move { link.census(LIMIT).await }
    });
    tokio::task::yield_now().await;
    link.lost(lost);
    assert_eq!(asking.await.unwrap().unwrap_err(), NoCensus::Lost);
    link.serve(Scripted::default());
    let asking = tokio::spawn({
        let link = Arc::clone(&link);
        async move { link.census(LIMIT).await }
    });
    tokio::task::yield_now().await;
    link.deliver(lost, census_of(1));
    assert_eq!(asking.await.unwrap().unwrap_err(), NoCensus::Unanswered);
}

#[tokio::test]
async fn orders_go_to_the_guardian_that_serves_and_to_none_that_is_lost() {
    let link = Link::new();
    let (first, second) = (Scripted::default(), Scripted::default());
    let kill = ostler_core::lifecycle::KILL_NOW;
    link.end(0, Incarnation(1), kill);
    let generation = link.serve(first.clone());
    link.end(0, Incarnation(1), kill);
    assert_eq!(first.orders().len(), 1);
    assert!(link.lost(generation));
    assert!(!link.lost(generation), "once");
    link.end(0, Incarnation(1), kill);
    assert_eq!(first.orders(), [""; 0]);
    link.serve(second.clone());
    link.abandon();
    assert_eq!(second.orders(), ["abandon"]);
    assert_eq!(link.guardian().await.map(drop), Err(LinkClosed));
}

#[tokio::test]
async fn a_start_waits_for_the_next_guardian_and_not_when_none_follows() {
    let link = Arc::new(Link::<Scripted>::new());
    let waiting = tokio::spawn({
        let link = Arc::clone(&link);
        async move { link.guardian().await.map(|(_, generation)| generation) }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let generation = link.serve(Scripted::default());
    assert_eq!(waiting.await.unwrap(), Ok(generation));
    link.expect_no_other();
    assert!(link.guardian().await.is_ok(), "the last one serves to its end");
    link.lost(generation);
    assert_eq!(link.guardian().await.map(drop), Err(LinkClosed));
}

#[tokio::test(start_paused = true)]
async fn all_have_ended_when_every_guardian_and_its_sitters_have() {
    let link = Link::<Scripted>::new();
    let (first, second) = (link.serve(Scripted::default()), link.serve(Scripted::default()));
    link.ended(second);
    assert!(!link.all_ended(LIMIT).await, "the first one's sitters live");
    link.ended(first);
    assert!(link.all_ended(LIMIT).await);
}

/// The host was suspended while the guardian ended: its end is unread, and no verdict.
#[tokio::test(start_paused = true)]
async fn a_suspended_host_does_not_miss_the_end_of_its_guardian() {
    let link = Arc::new(Link::<Scripted>::new());
    let generation = link.serve(Scripted::default());
    let ended = tokio::spawn({
        let link = Arc::clone(&link);
        async move { link.all_ended(LIMIT).await }
    });
    tokio::task::yield_now().await;
    tokio::time::advance(LIMIT * 3).await;
    tokio::task::yield_now().await;
    assert!(!ended.is_finished());
    link.ended(generation);
    assert!(ended.await.unwrap());
}
