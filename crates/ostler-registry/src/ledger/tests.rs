use super::*;
use crate::codec::{MAX_RECORD_BYTES, decode_record};
use crate::samples::{activation, active, key, reserved};

fn with(records: Vec<Record>) -> Ledger {
    let mut ledger = Ledger::default();
    for record in records {
        ledger.take(Request::Reserve(record)).expect("reserved");
    }
    ledger
}

#[test]
fn record_goes_from_reservation_to_removal() {
    let mut ledger = with(vec![reserved("embed", 0, 1)]);
    let one = key("embed", 0, 1);
    ledger
        .take(Request::Activate(one.clone(), activation(4242)))
        .expect("activated");
    assert_eq!(ledger.find(&one), Some(active("embed", 0, 1)));
    assert_eq!(
        ledger.take(Request::Remove(one.clone())),
        Ok(Some(Change::Remove { key: encode_key(&one) }))
    );
    assert_eq!(ledger.len(), 0);
}

#[test]
fn next_incarnation_needs_the_removal_of_the_last() {
    let mut ledger = with(vec![reserved("embed", 0, 1)]);
    let refused = ledger.take(Request::Reserve(reserved("embed", 0, 2)));
    assert_eq!(
        refused,
        Err(Refusal::StillHeld {
            requested: key("embed", 0, 2),
            held: key("embed", 0, 1),
            state: RecordState::Reserved
        })
    );
    ledger.take(Request::Remove(key("embed", 0, 1))).expect("removed");
    ledger
        .take(Request::Reserve(reserved("embed", 0, 2)))
        .expect("reserved");
}

#[test]
fn incarnation_is_reserved_once() {
    let mut ledger = with(vec![reserved("embed", 0, 2)]);
    assert_eq!(ledger.next_incarnation(&WorkerId::new("embed", 1)), Incarnation(1));
    ledger.take(Request::Remove(key("embed", 0, 2))).expect("removed");
    assert_eq!(ledger.next_incarnation(&WorkerId::new("embed", 0)), Incarnation(3));
    for incarnation in [1, 2] {
        assert_eq!(
            ledger.take(Request::Reserve(reserved("embed", 0, incarnation))),
            Err(Refusal::NotNewer {
                requested: key("embed", 0, incarnation),
                last: Incarnation(2)
            })
        );
    }
}

#[test]
fn late_request_of_an_old_incarnation_changes_nothing() {
    let mut ledger = with(vec![reserved("embed", 0, 2)]);
    let old = key("embed", 0, 1);
    let unknown = Err(Refusal::Unknown { key: old.clone() });
    assert_eq!(ledger.take(Request::Activate(old.clone(), activation(1))), unknown);
    assert_eq!(ledger.take(Request::Update(active("embed", 0, 1))), unknown);
    assert_eq!(ledger.take(Request::Remove(old)), Ok(None));
    assert_eq!(ledger.records(), vec![reserved("embed", 0, 2)]);
}

#[test]
fn state_never_moves_backwards() {
    let mut ledger = with(vec![reserved("embed", 0, 1)]);
    let activate = |pid| Request::Activate(key("embed", 0, 1), activation(pid));
    let first = activation(4242).at;
    ledger.take(activate(4242)).expect("activated");
    assert!(matches!(
        ledger.take(Request::Update(reserved("embed", 0, 1))),
        Err(Refusal::StateBackwards { .. })
    ));
    ledger.take(activate(4243)).expect("the same state again");
    assert_eq!(ledger.records()[0].times.active, Some(first), "the first time counts");
    assert!(matches!(
        ledger.take(Request::Reserve(active("embed", 1, 1))),
        Err(Refusal::StateBackwards { .. })
    ));
}

#[test]
fn active_record_needs_an_identity() {
    let mut ledger = with(vec![reserved("embed", 0, 1)]);
    let mut nameless = active("embed", 0, 1);
    nameless.identity = None;
    assert!(matches!(
        ledger.take(Request::Update(nameless)),
        Err(Refusal::WithoutIdentity { .. })
    ));
}

#[test]
fn record_too_large_for_a_row_leaves_no_trace() {
    let mut ledger = Ledger::default();
    let mut record = reserved("embed", 0, 1);
    record.marker = "m".repeat(MAX_RECORD_BYTES);
    assert!(matches!(
        ledger.take(Request::Reserve(record)),
        Err(Refusal::TooLarge(_))
    ));
    assert_eq!(ledger.len(), 0);
    ledger
        .take(Request::Reserve(reserved("embed", 0, 1)))
        .expect("the number is still free");
}

#[test]
fn rewrite_makes_a_store_equal_to_the_ledger() {
    let ledger = with(vec![reserved("embed", 0, 1), reserved("embed", 1, 1)]);
    let stale = encode_key(&key("gone", 0, 1));
    let changes = ledger.rewrite(&[stale.clone(), encode_key(&key("embed", 0, 1))]);
    assert_eq!(changes[0], Change::Remove { key: stale });
    let written: Vec<Record> = changes[1..]
        .iter()
        .map(|change| match change {
            Change::Put { value, .. } => decode_record(value).expect("decodes"),
            Change::Remove { .. } => panic!("only the stale row may be removed"),
        })
        .collect();
    assert_eq!(written, ledger.records());
}
