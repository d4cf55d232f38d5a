//! Which worker a session is bound to.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use ostler_core::moment::Moment;
use ostler_core::spec::Sessions as Rules;

use super::queue::SessionId;
use super::workers::WorkerKey;

#[derive(Debug)]
struct Binding {
    worker: WorkerKey,
    used: (Moment, u64),
}

/// Every session that is bound to a worker. It is forgotten when it has not been used for `ttl`.
#[derive(Debug)]
pub(crate) struct Sessions {
    ttl: Duration,
    max: usize,
    bound: HashMap<SessionId, Binding>,
    /// Sessions by their last use, the oldest first.
    by_use: BTreeMap<(Moment, u64), SessionId>,
    seq: u64,
}

impl Sessions {
    pub(crate) fn new(rules: &Rules) -> Self {
        Self {
            ttl: rules.ttl,
            max: rules.max,
            bound: HashMap::new(),
            by_use: BTreeMap::new(),
            seq: 0,
        }
    }

    /// The worker of this session, if it is bound; this counts as a use.
    pub(crate) fn worker(&mut self, session: &SessionId, now: Moment) -> Option<WorkerKey> {
        self.expire(now);
        let worker = self.bound.get(session)?.worker;
        self.touch(session, worker, now);
        Some(worker)
    }

    /// Binds a session. False: there are `max` sessions, and no new one fits.
    pub(crate) fn bind(&mut self, session: &SessionId, worker: WorkerKey, now: Moment) -> bool {
        self.expire(now);
        if self.bound.len() >= self.max && !self.bound.contains_key(session) {
            return false;
        }
        self.touch(session, worker, now);
        true
    }

    pub(crate) fn unbind(&mut self, session: &SessionId) {
        if let Some(binding) = self.bound.remove(session) {
            self.by_use.remove(&binding.used);
        }
    }

    /// How many sessions are bound, of those that have not expired.
    pub(crate) fn len(&mut self, now: Moment) -> usize {
        self.expire(now);
        self.bound.len()
    }

    fn touch(&mut self, session: &SessionId, worker: WorkerKey, now: Moment) {
        self.unbind(session);
        self.seq += 1;
        let used = (now, self.seq);
        self.by_use.insert(used, Arc::clone(session));
        self.bound.insert(Arc::clone(session), Binding { worker, used });
    }

    fn expire(&mut self, now: Moment) {
        while let Some((used, _)) = self.by_use.first_key_value()
            && now.since(used.0) >= self.ttl
            && let Some((_, session)) = self.by_use.pop_first()
        {
            self.bound.remove(&session);
        }
    }
}

/// The worker for a new session, by rendezvous hashing: each worker gets a weight that depends on
/// nothing but the two of them, and the heaviest is chosen. So when a worker comes or goes, only
/// the sessions that it gains or had move.
pub(crate) fn rendezvous(session: &str, workers: impl Iterator<Item = WorkerKey>) -> Option<WorkerKey> {
    workers.max_by_key(|worker| {
        // Fixed keys, so that the choice is the same in every run.
        let mut hasher = std::hash::DefaultHasher::new();
        (session, worker.index).hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_core::ids::Incarnation;
    use proptest::prelude::*;

    fn key(index: u32) -> WorkerKey {
        WorkerKey {
            index,
            incarnation: Incarnation(1),
        }
    }

    fn sessions(max: usize) -> Sessions {
        Sessions::new(&Rules::default().ttl(Duration::from_secs(60)).max(max))
    }

    fn at(secs: u64) -> Moment {
        Moment::after_origin(Duration::from_secs(secs))
    }

    #[test]
    fn a_session_expires_when_it_was_not_used_for_its_time() {
        let mut sessions = sessions(10);
        let name: SessionId = "a".into();
        assert!(sessions.bind(&name, key(1), at(0)));
        assert_eq!(sessions.worker(&name, at(59)), Some(key(1)), "a use, which counts");
        assert_eq!(sessions.worker(&name, at(118)), Some(key(1)));
        assert_eq!(sessions.worker(&name, at(178)), None);
        assert_eq!((sessions.len(at(178)), sessions.by_use.len()), (0, 0));
    }

    #[test]
    fn an_expired_session_makes_room() {
        let mut sessions = sessions(2);
        assert!(sessions.bind(&"a".into(), key(0), at(0)));
        assert!(sessions.bind(&"b".into(), key(0), at(10)));
        assert!(!sessions.bind(&"c".into(), key(0), at(59)));
        assert!(
            sessions.bind(&"b".into(), key(1), at(59)),
            "one that is bound already fits"
        );
        assert!(sessions.bind(&"c".into(), key(0), at(60)));
    }

    proptest! {
        /// When a worker goes, no session moves but its own sessions; when one comes, sessions move
        /// to it alone.
        #[test]
        fn few_sessions_move(names in prop::collection::vec("[a-z]{1,8}", 1..50), workers in 2u32..20, gone in 0u32..20) {
            for name in &names {
                let before = rendezvous(name, (0..workers).map(key)).expect("there are workers");
                let after = rendezvous(name, (0..workers).filter(|index| *index != gone).map(key));
                if before.index != gone {
                    prop_assert_eq!(after, Some(before));
                }
            }
        }
    }

    #[test]
    fn sessions_are_spread_over_the_workers() {
        let mut counts = [0u32; 8];
        for nth in 0..8_000 {
            let chosen = rendezvous(&format!("user-{nth}"), (0..8).map(key)).expect("there are workers");
            counts[chosen.index as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
