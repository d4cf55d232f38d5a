//! Who waits for a worker, and who is next.
//!
//! First in, first out is fair between sessions: each waiting call gets a tag by start-time fair
//! queueing (Goyal, Vin and Cheng, 1996), so a session with a hundred calls in the queue does not
//! delay the first call of another by a hundred. Calls without a session count as a session each.
//! Last in, first out is exactly that: the newest call goes first, no matter who makes it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ostler_core::moment::Moment;
use ostler_core::spec::QueueOrder;

/// A session's name.
pub(crate) type SessionId = Arc<str>;

/// A place in the order: smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Fifo { tag: u64, seq: u64 },
    Lifo { newest: Reverse<u64> },
}

impl Place {
    fn seq(self) -> u64 {
        match self {
            Place::Fifo { seq, .. } => seq,
            Place::Lifo { newest } => newest.0,
        }
    }
}

/// Identifies a waiting call, so that it can leave the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

/// Where in the queue a call waits.
#[derive(Debug, Clone, Copy)]
struct Spot {
    pin: Option<u32>,
    place: Place,
}

/// A call that left the queue because it is its turn.
#[derive(Debug)]
pub(crate) struct Next<T> {
    pub(crate) waiting: Waiting<T>,
    place: Place,
}

/// A waiting call.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    pub(crate) item: T,
    pub(crate) since: Moment,
    /// From this moment on, it is refused.
    pub(crate) deadline: Option<Moment>,
    /// The session it belongs to.
    pub(crate) session: Option<SessionId>,
}

/// The tags and the number of the waiting calls of a session.
#[derive(Debug, Default)]
struct Share {
    last_tag: u64,
    waiting: usize,
}

/// The waiting calls of a pool. The caller limits their number.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    order: QueueOrder,
    /// Calls that any worker may serve.
    any: BTreeMap<Place, Waiting<T>>,
    /// Calls that only this worker may serve.
    pinned: BTreeMap<u32, BTreeMap<Place, Waiting<T>>>,
    shares: HashMap<SessionId, Share>,
    /// The tag of the call that was served last.
    served: u64,
    seq: u64,
    spots: HashMap<Ticket, Spot>,
}

impl<T> Queue<T> {
    pub(crate) fn new(order: QueueOrder) -> Self {
        Self {
            order,
            any: BTreeMap::new(),
            pinned: BTreeMap::new(),
            shares: HashMap::new(),
            served: 0,
            seq: 0,
            spots: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.spots.len()
    }

    /// Adds a call; `pin` names the one worker that may serve it.
    pub(crate) fn push(&mut self, waiting: Waiting<T>, pin: Option<u32>) -> Ticket {
        self.seq += 1;
        let place = match self.order {
            QueueOrder::Lifo => Place::Lifo {
                newest: Reverse(self.seq),
            },
            QueueOrder::Fifo => Place::Fifo {
                tag: self.next_tag(waiting.session.as_ref()),
                seq: self.seq,
            },
        };
        self.insert(place, waiting, pin);
        Ticket(self.seq)
    }

    /// Puts a call back that was taken out, in its old place and with its old ticket, for this
    /// worker alone.
    pub(crate) fn pin(&mut self, next: Next<T>, worker: u32) {
        if let Some(session) = &next.waiting.session {
            self.shares.entry(Arc::clone(session)).or_default().waiting += 1;
        }
        self.insert(next.place, next.waiting, Some(worker));
    }

    fn insert(&mut self, place: Place, waiting: Waiting<T>, pin: Option<u32>) {
        let lane = match pin {
            None => &mut self.any,
            Some(worker) => self.pinned.entry(worker).or_default(),
        };
        lane.insert(place, waiting);
        self.spots.insert(Ticket(place.seq()), Spot { pin, place });
    }

    fn next_tag(&mut self, session: Option<&SessionId>) -> u64 {
        let Some(session) = session else {
            return self.served + 1;
        };
        let share = self.shares.entry(Arc::clone(session)).or_default();
        share.waiting += 1;
        share.last_tag = share.last_tag.max(self.served) + 1;
        share.last_tag
    }

    /// Takes the call that this worker is to serve next.
    pub(crate) fn pop_for(&mut self, worker: u32) -> Option<Next<T>> {
        let any = self.any.first_key_value().map(|(place, _)| *place);
        let own = self
            .pinned
            .get(&worker)
            .and_then(|lane| lane.first_key_value())
            .map(|(place, _)| *place);
        let place = match (any, own) {
            (Some(any), Some(own)) => any.min(own),
            (Some(place), None) | (None, Some(place)) => place,
            (None, None) => return None,
        };
        if let Place::Fifo { tag, .. } = place {
            self.served = self.served.max(tag);
        }
        let waiting = self.remove(Ticket(place.seq()))?;
        Some(Next { waiting, place })
    }

    /// Takes out the call of this ticket; `None`: it is not waiting any more.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        let spot = self.spots.remove(&ticket)?;
        let waiting = match spot.pin {
            None => self.any.remove(&spot.place),
            Some(worker) => {
                let lane = self.pinned.get_mut(&worker)?;
                let waiting = lane.remove(&spot.place);
                if lane.is_empty() {
                    self.pinned.remove(&worker);
                }
                waiting
            }
        }?;
        self.leave(waiting.session.as_ref());
        Some(waiting)
    }

    /// Takes out every call that only this worker may serve.
    pub(crate) fn take_pinned(&mut self, worker: u32) -> Vec<Waiting<T>> {
        let places = self.pinned.get(&worker).map(|lane| lane.keys().copied().collect());
        let places: Vec<Place> = places.unwrap_or_default();
        let taken = places.into_iter().filter_map(|place| self.remove(Ticket(place.seq())));
        taken.collect()
    }

    /// Takes out every call.
    pub(crate) fn drain(&mut self) -> Vec<Waiting<T>> {
        let tickets: Vec<Ticket> = self.spots.keys().copied().collect();
        let taken = tickets.into_iter().filter_map(|ticket| self.remove(ticket));
        taken.collect()
    }

    fn leave(&mut self, session: Option<&SessionId>) {
        let Some(session) = session else { return };
        if let Some(share) = self.shares.get_mut(session) {
            // Last in, first out keeps no shares.
            share.waiting = share.waiting.saturating_sub(1);
            if share.waiting == 0 {
                self.shares.remove(session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(item: u32, session: Option<&str>) -> Waiting<u32> {
        Waiting {
            item,
            since: Moment::ORIGIN,
            deadline: None,
            session: session.map(Into::into),
        }
    }

    fn order(queue: &mut Queue<u32>, worker: u32) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_for(worker))
            .map(|next| next.waiting.item)
            .collect()
    }

    #[test]
    fn a_busy_session_does_not_keep_others_waiting() {
        let mut queue = Queue::new(QueueOrder::Fifo);
        for item in 0..5 {
            queue.push(call(item, Some("busy")), None);
        }
        queue.push(call(10, Some("calm")), None);
        queue.push(call(20, None), None);
        queue.push(call(21, None), None);
        assert_eq!(order(&mut queue, 0), [0, 10, 20, 21, 1, 2, 3, 4]);
    }

    #[test]
    fn the_newest_goes_first_in_lifo() {
        let mut queue = Queue::new(QueueOrder::Lifo);
        for item in 0..4 {
            queue.push(call(item, Some("s")), None);
        }
        assert_eq!(order(&mut queue, 0), [3, 2, 1, 0]);
    }

    #[test]
    fn a_pinned_call_is_served_by_its_worker_alone_and_in_its_turn() {
        let mut queue = Queue::new(QueueOrder::Fifo);
        queue.push(call(0, None), None);
        queue.push(call(1, None), Some(7));
        queue.push(call(2, None), None);
        assert_eq!(queue.pop_for(3).map(|next| next.waiting.item), Some(0));
        assert_eq!(order(&mut queue, 7), [1, 2]);
        queue.push(call(3, None), Some(7));
        assert!(queue.pop_for(3).is_none());
        let left: Vec<_> = queue.take_pinned(7).iter().map(|waiting| waiting.item).collect();
        assert_eq!((left, queue.len()), (vec![3], 0));
    }

    proptest! {
        /// Whatever is done, the number is right, and everything that went in comes out once.
        #[test]
        fn loses_and_repeats_nothing(
            steps in prop::collection::vec((0u8..4, 0u8..4, prop::option::of(0u32..3)), 1..150),
            lifo in any::<bool>(),
        ) {
            let mut queue = Queue::new(if lifo { QueueOrder::Lifo } else { QueueOrder::Fifo });
            let mut tickets = Vec::new();
            let (mut inside, mut next) = (std::collections::BTreeSet::new(), 0u32);
            for (what, session, pin) in steps {
                match what {
                    0 | 1 => {
                        let name = format!("s{session}");
                        let name = (session > 0).then_some(name.as_str());
                        tickets.push((queue.push(call(next, name), pin), next));
                        inside.insert(next);
                        next += 1;
                    }
                    2 => if let Some(next) = queue.pop_for(pin.unwrap_or(0)) {
                        if lifo && next.waiting.item % 3 == 0 {
                            queue.pin(next, 1);
                        } else {
                            prop_assert!(inside.remove(&next.waiting.item));
                        }
                    },
                    _ => if let Some((ticket, item)) = tickets.pop() {
                        prop_assert_eq!(queue.remove(ticket).is_some(), inside.remove(&item));
                    },
                }
                prop_assert_eq!(queue.len(), inside.len());
            }
            let rest: std::collections::BTreeSet<_> = queue.drain().into_iter().map(|waiting| waiting.item).collect();
            prop_assert_eq!(rest, inside);
            prop_assert!(queue.shares.is_empty());
        }

        /// A session that comes late to a full queue waits for one call of each other session, no
        /// more.
        #[test]
        fn the_wait_of_a_newcomer_is_bounded_by_the_sessions(sizes in prop::collection::vec(1u32..30, 1..10)) {
            let mut queue = Queue::new(QueueOrder::Fifo);
            for (session, size) in sizes.iter().enumerate() {
                for _ in 0..*size {
                    queue.push(call(0, Some(&format!("s{session}"))), None);
                }
            }
            queue.push(call(1, Some("newcomer")), None);
            let ahead = order(&mut queue, 0).iter().position(|item| *item == 1);
            prop_assert_eq!(ahead, Some(sizes.len()));
        }
    }
}
