use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ostler_core::failure::Reason;
use ostler_core::spec::{Codel as CodelRules, QueueOrder, QueueSpec, Sessions as SessionRules};
use proptest::prelude::*;

use super::*;

type Pool = Dispatch<u32, ()>;

fn key(index: u32, incarnation: u64) -> WorkerKey {
    WorkerKey {
        index,
        incarnation: Incarnation(incarnation),
    }
}

fn at(ms: u64) -> Moment {
    Moment::after_origin(Duration::from_millis(ms))
}

fn spec(affinity: Affinity) -> ServeSpec {
    ServeSpec::default()
        .sessions(SessionRules::default().affinity(affinity))
        .queue(QueueSpec::default().max(4))
}

fn pool(spec: &ServeSpec, workers: u32) -> Pool {
    let mut pool = Pool::new("embed", spec);
    for index in 0..workers {
        pool.ready(key(index, 1), (), at(0));
    }
    pool
}

fn waiting(item: u32, session: Option<&SessionId>, deadline: Option<Moment>) -> Waiting<u32> {
    Waiting {
        item,
        since: at(0),
        deadline,
        session: session.cloned(),
    }
}

fn granted(asked: Asked<()>) -> Option<u32> {
    match asked {
        Asked::Granted(key, ()) => Some(key.index),
        _ => None,
    }
}

fn items(handed: &Handed<u32, ()>) -> (Vec<u32>, Vec<u32>) {
    let granted = handed.granted.iter().map(|(item, ..)| *item).collect();
    (granted, handed.refused.iter().map(|(item, _)| *item).collect())
}

#[test]
fn a_full_queue_refuses_with_its_numbers() {
    let mut pool = pool(&spec(Affinity::Hint), 1);
    assert!(granted(pool.ask()).is_some());
    for item in 0..4 {
        assert!(matches!(pool.ask(), Asked::MustWait(None)));
        pool.wait(waiting(item, None, None), None);
    }
    let refused = pool.ask();
    assert!(
        matches!(refused, Asked::Refused(Refused::Saturated { queued: 4, limit: 4 })),
        "{refused:?}"
    );
}

#[test]
fn an_expired_call_is_refused_and_the_next_is_served() {
    let mut pool = pool(&spec(Affinity::Hint), 1);
    assert!(granted(pool.ask()).is_some());
    pool.wait(waiting(0, None, Some(at(10))), None);
    pool.wait(waiting(1, None, Some(at(11))), None);
    let handed = pool.give_back(key(0, 1), || at(10));
    assert_eq!(items(&handed), (vec![1], vec![0]));
    assert!(matches!(handed.refused[0].1, Refused::Expired { waited } if waited == Duration::from_millis(10)));
}

#[test]
fn codel_refuses_from_a_standing_queue() {
    let mut rules = spec(Affinity::Hint);
    rules.queue.max = 10_000;
    rules.queue.codel = Some(CodelRules::default());
    let mut pool = pool(&rules, 1);
    assert!(granted(pool.ask()).is_some());
    for item in 0..4000 {
        pool.wait(waiting(item, None, None), None);
    }
    let refused: usize = (100..2000u64)
        .map(|nth| pool.give_back(key(0, 1), || at(nth * 10)).refused.len())
        .sum();
    assert!((10..500).contains(&refused), "{refused}");
}

#[test]
fn a_strict_session_waits_for_its_worker_and_learns_of_its_end() {
    let mut pool = pool(&spec(Affinity::StrictQueue), 3);
    let session: SessionId = "user-42".into();
    let first = granted(pool.ask_for(&session, at(0))).expect("a worker");
    let Asked::MustWait(Some(worker)) = pool.ask_for(&session, at(0)) else {
        panic!("it must wait for its worker though others are free");
    };
    assert_eq!(worker, first);
    pool.wait(waiting(7, Some(&session), None), Some(worker));
    let failure = Arc::new(Failure::new(Reason::Killed, "killed by SIGKILL"));
    pool.failed(key(first, 1), Arc::clone(&failure));
    let handed = pool.unready(first);
    let [(7, Refused::SessionLost(lost))] = &handed.refused[..] else {
        panic!("{handed:?}");
    };
    assert_eq!(lost.worker.to_string(), format!("embed/{first}#1"));
    assert!(
        lost.failure
            .as_ref()
            .is_some_and(|reported| Arc::ptr_eq(reported, &failure))
    );
    let next = granted(pool.ask_for(&session, at(1))).expect("bound again after that");
    assert_ne!(next, first);
}

#[test]
fn a_strict_session_whose_worker_was_restarted_between_two_calls_is_lost_once() {
    let mut pool = pool(&spec(Affinity::StrictFailFast), 1);
    let session: SessionId = "s".into();
    assert!(granted(pool.ask_for(&session, at(0))).is_some());
    assert!(matches!(
        pool.ask_for(&session, at(0)),
        Asked::Refused(Refused::SessionBusy { .. })
    ));
    pool.ready(key(0, 2), (), at(1));
    let lost = pool.ask_for(&session, at(1));
    assert!(matches!(lost, Asked::Refused(Refused::SessionLost(_))), "{lost:?}");
    assert!(granted(pool.ask_for(&session, at(1))).is_some());
}

#[test]
fn a_hint_uses_another_worker_and_comes_back() {
    let mut pool = pool(&spec(Affinity::Hint), 2);
    let session: SessionId = "s".into();
    let own = granted(pool.ask_for(&session, at(0))).expect("a worker");
    let other = granted(pool.ask_for(&session, at(0))).expect("another worker");
    assert_ne!(own, other);
    pool.give_back(key(own, 1), || at(0));
    pool.give_back(key(other, 1), || at(0));
    assert_eq!(granted(pool.ask_for(&session, at(0))), Some(own));
}

#[test]
fn calls_of_a_strict_session_that_waited_for_any_worker_go_to_one() {
    let mut pool = pool(&spec(Affinity::StrictQueue), 0);
    let session: SessionId = "s".into();
    for item in 0..3 {
        assert!(matches!(pool.ask_for(&session, at(0)), Asked::MustWait(None)));
        pool.wait(waiting(item, Some(&session), None), None);
    }
    assert_eq!(items(&pool.ready(key(0, 1), (), at(1))).0, [0]);
    assert_eq!(
        items(&pool.ready(key(1, 1), (), at(1))).0,
        [0u32; 0],
        "the others wait for worker 0"
    );
    assert_eq!(granted(pool.ask()), Some(1));
    assert_eq!(items(&pool.give_back(key(0, 1), || at(2))).0, [1]);
    assert_eq!(items(&pool.give_back(key(0, 1), || at(3))).0, [2]);
    assert_eq!(pool.queued(), 0);
}

/// The limit holds for sessions whose calls waited while no worker was ready, too: one that is not
/// bound would be served by two workers at once.
#[test]
fn a_strict_session_beyond_the_limit_is_refused_when_it_waited() {
    let mut rules = spec(Affinity::StrictQueue);
    rules.sessions.max = 1;
    let mut pool = pool(&rules, 0);
    for (item, session) in ["a", "b"].into_iter().enumerate() {
        let session: SessionId = session.into();
        assert!(matches!(pool.ask_for(&session, at(0)), Asked::MustWait(None)));
        pool.wait(waiting(item as u32, Some(&session), None), None);
    }
    assert_eq!(items(&pool.ready(key(0, 1), (), at(1))).0, [0]);
    let handed = pool.ready(key(1, 1), (), at(1));
    assert_eq!(items(&handed), (vec![], vec![1]));
    assert!(matches!(handed.refused[0].1, Refused::TooManySessions { limit: 1 }));
}

#[test]
fn a_pool_that_is_over_refuses_all_and_says_why() {
    let mut pool = pool(&spec(Affinity::Hint), 1);
    assert!(granted(pool.ask()).is_some());
    pool.wait(waiting(0, None, None), None);
    assert_eq!(items(&pool.close(PoolEnd::Stopped)).1, [0]);
    let refused = pool.ask();
    assert!(
        matches!(&refused, Asked::Refused(Refused::PoolOver { end, .. }) if **end == PoolEnd::Stopped),
        "{refused:?}"
    );
    assert!(items(&pool.give_back(key(0, 1), || at(0))).0.is_empty());
}

/// What a random walk does.
#[derive(Debug, Clone)]
enum Step {
    Ask(Option<u8>),
    GiveBack(usize),
    GiveUp(usize),
    Ready(u32),
    Unready(u32),
    Later(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::option::of(0u8..3).prop_map(Step::Ask),
        3 => any::<prop::sample::Index>().prop_map(|nth| Step::GiveBack(nth.index(1 << 16))),
        1 => any::<prop::sample::Index>().prop_map(|nth| Step::GiveUp(nth.index(1 << 16))),
        1 => (0u32..4).prop_map(Step::Ready),
        1 => (0u32..4).prop_map(Step::Unready),
        1 => (0u64..30).prop_map(Step::Later),
    ];
    prop::collection::vec(step, 1..200)
}

/// The dispatch beside a plain account of who is where.
struct Walk {
    pool: Pool,
    now: u64,
    items: u32,
    incarnations: u64,
    in_flight: Vec<WorkerKey>,
    usable: BTreeMap<u32, u64>,
    waiting: BTreeMap<u32, (Ticket, u64, Option<SessionId>)>,
    bound: HashMap<SessionId, BTreeSet<WorkerKey>>,
}

impl Walk {
    fn take(&mut self, handed: Handed<u32, ()>) -> Result<(), TestCaseError> {
        for (item, key, ()) in handed.granted {
            let (_, deadline, session) = self.waiting.remove(&item).expect("it waited, and was handed over once");
            prop_assert!(deadline > self.now, "an expired call was sent");
            self.granted(key, session)?;
        }
        for (item, refused) in handed.refused {
            let (_, deadline, _) = self.waiting.remove(&item).expect("it waited");
            if matches!(refused, Refused::Expired { .. }) {
                prop_assert!(deadline <= self.now);
            }
        }
        Ok(())
    }

    fn granted(&mut self, key: WorkerKey, session: Option<SessionId>) -> Result<(), TestCaseError> {
        prop_assert_eq!(
            self.usable.get(&key.index),
            Some(&key.incarnation.0),
            "a worker that is not usable"
        );
        self.in_flight.push(key);
        if let Some(session) = session {
            self.bound.entry(session).or_default().insert(key);
        }
        Ok(())
    }
}

proptest! {
    /// Whatever happens in whatever order: no worker has more than it may, every waiting call comes
    /// out once, no call waits while a worker is free for it, and a strict session is served by one
    /// usable worker at a time.
    #[test]
    fn no_call_is_lost_repeated_or_forgotten(steps in steps(), concurrency in 1u32..3, mode in 0u8..3, lifo in any::<bool>()) {
        let affinity = [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast][usize::from(mode)];
        let mut rules = spec(affinity);
        rules.concurrency = concurrency;
        rules.queue.order = if lifo { QueueOrder::Lifo } else { QueueOrder::Fifo };
        let mut walk = Walk {
            pool: pool(&rules, 0),
            now: 0,
            items: 0,
            incarnations: 0,
            in_flight: Vec::new(),
            usable: BTreeMap::new(),
            waiting: BTreeMap::new(),
            bound: HashMap::new(),
        };
        for step in steps {
            let now = at(walk.now);
            match step {
                Step::Ask(session) => {
                    let session: Option<SessionId> = session.map(|nth| format!("s{nth}").into());
                    let asked = match &session {
                        None => walk.pool.ask(),
                        Some(session) => walk.pool.ask_for(session, now),
                    };
                    match asked {
                        Asked::Granted(key, ()) => walk.granted(key, session)?,
                        Asked::MustWait(worker) => {
                            walk.items += 1;
                            let deadline = walk.now + 20;
                            let ticket = walk.pool.wait(waiting(walk.items, session.as_ref(), Some(at(deadline))), worker);
                            walk.waiting.insert(walk.items, (ticket, deadline, session));
                        }
                        Asked::Refused(Refused::Saturated { queued, limit }) => prop_assert_eq!((queued, limit), (4, 4)),
                        Asked::Refused(_) => prop_assert!(affinity != Affinity::Hint),
                    }
                }
                Step::GiveBack(nth) if !walk.in_flight.is_empty() => {
                    let key = walk.in_flight.swap_remove(nth % walk.in_flight.len());
                    let handed = walk.pool.give_back(key, || now);
                    walk.take(handed)?;
                }
                Step::GiveUp(nth) if !walk.waiting.is_empty() => {
                    let item = *walk.waiting.keys().nth(nth % walk.waiting.len()).expect("there is one");
                    let (ticket, ..) = walk.waiting.remove(&item).expect("it waits");
                    prop_assert_eq!(walk.pool.give_up(ticket).map(|waiting| waiting.item), Some(item));
                }
                Step::Ready(index) => {
                    walk.incarnations += 1;
                    walk.usable.insert(index, walk.incarnations);
                    let handed = walk.pool.ready(key(index, walk.incarnations), (), now);
                    walk.take(handed)?;
                }
                Step::Unready(index) => {
                    walk.usable.remove(&index);
                    let handed = walk.pool.unready(index);
                    walk.take(handed)?;
                }
                Step::Later(ms) => walk.now += ms,
                Step::GiveBack(_) | Step::GiveUp(_) => {}
            }
            let current = |key: &&WorkerKey| walk.usable.get(&key.index) == Some(&key.incarnation.0);
            let mut busy = BTreeMap::new();
            for key in walk.in_flight.iter().filter(current) {
                *busy.entry(key.index).or_insert(0u32) += 1;
            }
            prop_assert!(busy.values().all(|busy| *busy <= concurrency));
            prop_assert_eq!(walk.pool.queued(), walk.waiting.len());
            let free = walk.usable.keys().any(|index| busy.get(index).is_none_or(|busy| *busy < concurrency));
            let waits_for_any = walk.waiting.values().any(|(.., session)| session.is_none());
            prop_assert!(!(free && waits_for_any), "a call waits beside a free worker");
            if affinity != Affinity::Hint {
                for keys in walk.bound.values() {
                    prop_assert!(keys.iter().filter(current).count() <= 1, "a strict session on two workers");
                }
            }
        }
    }
}
