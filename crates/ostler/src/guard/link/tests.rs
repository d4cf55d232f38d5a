//! Routes, slot numbers and their ends, without a guardian.

use super::*;

#[test]
fn an_incarnation_bound_to_a_guardian_that_is_gone_hears_of_it() {
    let link = Link::new();
    link.lost(1);
    link.ended(1);
    link.lost(2);
    let told = |generation| {
        let (sender, mut told) = mpsc::unbounded_channel();
        let incarnation = Incarnation(1);
        link.bind(0, generation, Route { incarnation, sender });
        link.forget(0, incarnation);
        std::iter::from_fn(move || told.try_recv().ok())
            .map(|message| format!("{message:?}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(1), ["GuardianLost", "SittersEnded"]);
    assert_eq!(told(2), ["GuardianLost"], "its sitters have not ended yet");
    assert_eq!(told(3), [""; 0]);
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
    assert!(!slots.closed(1, 7), "told twice, it is free once");
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
        let link = Link::new();
        assert_eq!(link.new_slot(), 0);
        link.slots.send_modify(|slots| _ = slots.closing.insert(0, 1));
        link.deliver(1, end.clone());
        assert!(link.slots.borrow().closing.is_empty(), "{end:?}");
        assert_eq!(link.new_slot(), 0);
    }
}

#[tokio::test]
async fn slots_that_are_closed_without_a_guardian_are_free() {
    let link = Arc::new(Link::new());
    let taken = [link.new_slot(), link.new_slot()];
    link.close_slots(taken.to_vec());
    assert_eq!(link.slots.borrow().closing.len(), 2, "noted at once");
    let mut slots = link.slots.subscribe();
    let free = slots.wait_for(|slots| slots.closing.is_empty());
    let free = tokio::time::timeout(Duration::from_secs(20), free).await;
    assert!(free.expect("in time").is_ok());
    assert!(taken.contains(&link.new_slot()));
}

#[test]
fn news_of_a_lost_guardian_are_not_those_of_the_slots_next_owner() {
    let link = Link::new();
    let (sender, mut told) = mpsc::unbounded_channel();
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
    assert!(told.try_recv().is_err());
    end(2);
    assert!(told.try_recv().is_ok());
}
