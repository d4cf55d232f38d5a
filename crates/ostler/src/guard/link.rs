//! The link to the guardian: which guardian serves now, and where its events go.
//!
//! The link lives outside the actor that keeps a guardian running
//! ([`GuardianKeeper`](super::keeper::GuardianKeeper)), so that orders and events pass whatever
//! happens to that actor. The host reads the events of a lost guardian until all its sitters have
//! ended, while the next guardian already serves.

mod census;
mod slots;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::mpsc;
use ostler_core::chain::chain;
use ostler_core::ids::Incarnation;
use ostler_core::spec::StopSpec;
use ostler_os::guardian::{Guardian, GuardianEvent};
use ostler_os::patience;
use tokio::sync::watch;

pub(crate) use census::Census;
use census::Censuses;
use slots::SlotNumbers;

use super::orders::Orders;

/// What an incarnation hears from the guardian and its sitter.
#[derive(Debug)]
pub(crate) enum News {
    /// Something happened to it. Boxed, because the others are small.
    Event(Box<GuardianEvent>),
    /// Its guardian is dead; its sitter ends it.
    GuardianLost,
    /// That guardian and all its sitters have ended; no further events will come.
    SittersEnded,
}

/// Where an incarnation's events go.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) incarnation: Incarnation,
    pub(crate) sender: mpsc::UnboundedSender<News>,
}

/// Which guardian serves.
#[derive(Debug, Clone)]
enum Serving<G> {
    /// None at the moment: the next one is being started.
    Awaited,
    /// This one.
    This {
        /// The guardian.
        guardian: G,
        /// Which one it is, counted from 1.
        generation: u64,
    },
    /// None, and none will follow.
    Closed,
}

/// A route, and the guardian that it leads to.
#[derive(Debug)]
struct Bound {
    route: Route,
    generation: u64,
}

/// The routes of events, and which guardians will send no more. One lock for both, so that no
/// incarnation is bound to a guardian after that guardian's last event.
#[derive(Debug, Default)]
struct Routes {
    bound: HashMap<u32, Bound>,
    /// Every guardian up to this one is lost.
    lost: u64,
    /// Lost guardians whose sitters have all ended.
    ended: HashSet<u64>,
}

impl Routes {
    fn send_all(&self, generation: u64, news: impl Fn() -> News) {
        for bound in self.bound.values().filter(|bound| bound.generation == generation) {
            // The driver may have ended.
            let _ = bound.route.sender.unbounded_send(news());
        }
    }
}

/// The connection to the serving guardian, and the routes of its events; see the [module](self).
#[derive(Debug)]
pub(crate) struct Link<G = Guardian> {
    serving: watch::Sender<Serving<G>>,
    /// No guardian will follow the present one.
    last: AtomicBool,
    routes: Mutex<Routes>,
    generations: Mutex<u64>,
    /// How many guardians have ended with all their sitters.
    endings: watch::Sender<u64>,
    slots: watch::Sender<SlotNumbers>,
    censuses: watch::Sender<Censuses>,
}

/// Why the guardian's processes are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCensus {
    /// No guardian serves.
    #[error("no guardian serves")]
    Lost,
    /// The guardian does not answer.
    #[error("the guardian did not report its processes in time")]
    Unanswered,
}

/// No guardian serves, and none will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the instance is stopping, so no guardian serves")]
pub(crate) struct LinkClosed;

impl<G: Orders> Link<G> {
    pub(crate) fn new() -> Self {
        Self {
            serving: watch::Sender::new(Serving::Awaited),
            last: AtomicBool::new(false),
            routes: Mutex::default(),
            generations: Mutex::default(),
            endings: watch::Sender::default(),
            slots: watch::Sender::default(),
            censuses: watch::Sender::default(),
        }
    }

    /// Makes this guardian the serving one. Returns its number.
    pub(crate) fn serve(&self, guardian: G) -> u64 {
        let generation = {
            let mut generations = lock(&self.generations);
            *generations += 1;
            *generations
        };
        self.serving.send_replace(Serving::This { guardian, generation });
        generation
    }

    /// The serving guardian and its number. Waits while the next one is being started.
    pub(crate) async fn guardian(&self) -> Result<(G, u64), LinkClosed> {
        let mut serving = self.serving.subscribe();
        let now = serving
            .wait_for(|serving| !matches!(serving, Serving::Awaited))
            .await
            .map_err(|_| LinkClosed)?;
        match &*now {
            Serving::This { guardian, generation } => Ok((guardian.clone(), *generation)),
            Serving::Awaited | Serving::Closed => Err(LinkClosed),
        }
    }

    /// The serving guardian, if there is one.
    pub(crate) fn current(&self) -> Option<G> {
        self.serving_now().map(|(guardian, _)| guardian)
    }

    /// The same, with its number.
    pub(crate) fn serving_now(&self) -> Option<(G, u64)> {
        match &*self.serving.borrow() {
            Serving::This { guardian, generation } => Some((guardian.clone(), *generation)),
            Serving::Awaited | Serving::Closed => None,
        }
    }

    /// Ends the service: callers that wait for a guardian get an error. Returns the last guardian.
    pub(crate) fn close(&self) -> Option<G> {
        match self.serving.send_replace(Serving::Closed) {
            Serving::This { guardian, .. } => Some(guardian),
            Serving::Awaited | Serving::Closed => None,
        }
    }

    /// No guardian will follow the current one, or the one that was lost: callers that wait for
    /// the next one get an error.
    pub(crate) fn expect_no_other(&self) {
        self.last.store(true, Ordering::SeqCst);
        self.serving.send_if_modified(|serving| {
            let awaited = matches!(serving, Serving::Awaited);
            if awaited {
                *serving = Serving::Closed;
            }
            awaited
        });
    }

    /// Closes the connection to the guardian at once, without a runtime. The guardian then ends all
    /// its workers.
    pub(crate) fn abandon(&self) {
        if let Some(guardian) = self.close() {
            guardian.abandon();
        }
    }

    /// Routes the events of this slot's incarnation under this guardian. If the guardian was lost
    /// since the caller got it, that is the first news.
    pub(crate) fn bind(&self, slot: u32, generation: u64, route: Route) {
        let mut routes = lock(&self.routes);
        // The driver may have ended.
        if generation <= routes.lost {
            let _ = route.sender.unbounded_send(News::GuardianLost);
        }
        if routes.ended.contains(&generation) {
            let _ = route.sender.unbounded_send(News::SittersEnded);
        }
        routes.bound.insert(slot, Bound { route, generation });
    }

    /// Removes the route of an incarnation that has ended.
    pub(crate) fn forget(&self, slot: u32, incarnation: Incarnation) {
        let mut routes = lock(&self.routes);
        let bound = &mut routes.bound;
        if bound
            .get(&slot)
            .is_some_and(|bound| bound.route.incarnation == incarnation)
        {
            bound.remove(&slot);
        }
    }

    /// Orders the incarnation's sitter to end it. Under a lost guardian, the sitter does so anyway.
    pub(crate) fn end(&self, slot: u32, incarnation: Incarnation, stop: StopSpec) {
        let Some(guardian) = self.current() else { return };
        if let Err(error) = guardian.end(slot, incarnation, stop) {
            // Its loss is reported, and its sitters end their trees.
            tracing::debug!(target: "ostler", slot, incarnation = incarnation.0, error = %chain(&error), "an order to end did not reach the guardian");
        }
    }

    /// A slot number that is not in use.
    pub(crate) fn new_slot(&self) -> u32 {
        let mut number = 0;
        self.slots.send_if_modified(|slots| {
            number = slots.take();
            false
        });
        number
    }

    /// Closes slots that are no longer used: their sitters end, after which their numbers can be
    /// reused.
    pub(crate) fn close_slots(&self, slots: &[u32]) {
        if slots.is_empty() {
            return;
        }
        let serving = self.serving_now();
        let generation = serving.as_ref().map_or(0, |(_, generation)| *generation);
        // Noted and ordered under one lock: if a sitter dies in between, its number must not be in
        // use again when the order arrives.
        self.slots.send_modify(|numbers| {
            numbers.closing.extend(slots.iter().map(|slot| (*slot, generation)));
            // Only the guardian noted here: a later one may use a number for another slot.
            let ordered = serving.is_some_and(|(guardian, _)| guardian.close(slots).is_ok());
            if !ordered {
                // A lost guardian's sitters end anyway.
                slots.iter().for_each(|slot| _ = numbers.closed(*slot, generation));
            }
        });
    }

    /// Wakes who waits for the end of all sitters that are to end, once it is there.
    fn slot_closed(&self, slot: u32, generation: u64) {
        self.slots
            .send_if_modified(|slots| slots.closed(slot, generation) && slots.closing.is_empty());
    }

    /// The processes that the guardian still has, after the slots closed so far have ended.
    pub(crate) async fn census(&self, within: Duration) -> Result<Census, NoCensus> {
        let (guardian, generation) = self.serving_now().ok_or(NoCensus::Lost)?;
        let answer = async {
            let mut slots = self.slots.subscribe();
            slots.wait_for(|slots| slots.closing.is_empty()).await.ok()?;
            let mut question = None;
            // Numbered and asked under one lock, so that the numbers follow the order of the
            // questions.
            self.censuses.send_modify(|censuses| {
                question = guardian.census().ok().map(|()| censuses.ask(generation));
            });
            let question = question?;
            let mut censuses = self.censuses.subscribe();
            let settled = censuses
                .wait_for(|censuses| censuses.is_settled(generation, question))
                .await
                .ok()?;
            settled.latest.clone().filter(|_| settled.generation == generation)
        };
        let lost = async {
            let mut serving = self.serving.subscribe();
            // The sender lives in `self`.
            let _ = serving
                .wait_for(|serving| !matches!(serving, Serving::This { .. }))
                .await;
        };
        let answered = async {
            tokio::select! {
                biased;
                answer = answer => answer.ok_or(NoCensus::Lost),
                () = lost => Err(NoCensus::Lost),
            }
        };
        patience::within(within, answered)
            .await
            .unwrap_or(Err(NoCensus::Unanswered))
    }

    /// Passes an event to its incarnation. Events of old incarnations have no route and are
    /// dropped.
    pub(crate) fn deliver(&self, generation: u64, event: GuardianEvent) {
        match event {
            GuardianEvent::Closed { slot } => return self.slot_closed(slot, generation),
            GuardianEvent::Census { sitters, strays, .. } => {
                let census = Census { sitters, strays };
                return self
                    .censuses
                    .send_modify(|censuses| censuses.answer(generation, census));
            }
            // There is no sitter left to close.
            GuardianEvent::SitterLost { slot, .. } => self.slot_closed(slot, generation),
            // The order to close did not reach the sitter: it serves the slot's next owner, or ends
            // with the guardian.
            GuardianEvent::OrderFailed {
                slot, incarnation: 0, ..
            } => self.slot_closed(slot, generation),
            _ => {}
        }
        let Some((slot, incarnation)) = about(&event) else {
            return;
        };
        let routes = lock(&self.routes);
        if let Some(bound) = routes
            .bound
            .get(&slot)
            .filter(|bound| bound.generation == generation && bound.route.incarnation.0 == incarnation)
        {
            // The driver may have ended.
            let _ = bound.route.sender.unbounded_send(News::Event(Box::new(event)));
        }
    }

    /// Notifies every incarnation under this guardian of its loss, and takes it out of service.
    /// Returns whether it was in service; a guardian whose link was closed before is not lost.
    pub(crate) fn lost(&self, generation: u64) -> bool {
        let lost = self.serving.send_if_modified(|serving| {
            let current = matches!(serving, Serving::This { generation: now, .. } if *now == generation);
            if current {
                // Read under the lock of `serving`; `expect_no_other` handles earlier losses.
                let last = self.last.load(Ordering::SeqCst);
                *serving = if last { Serving::Closed } else { Serving::Awaited };
            }
            current
        });
        self.slots.send_if_modified(|slots| slots.guardian_lost(generation));
        let mut routes = lock(&self.routes);
        if generation > routes.lost {
            routes.lost = generation;
            routes.send_all(generation, || News::GuardianLost);
        }
        lost
    }

    /// Notifies every incarnation under this guardian that no further events will come.
    pub(crate) fn ended(&self, generation: u64) {
        let mut routes = lock(&self.routes);
        routes.ended.insert(generation);
        routes.send_all(generation, || News::SittersEnded);
        self.endings.send_replace(routes.ended.len() as u64);
    }

    /// Whether all guardians that have served, and all their sitters, end within that time.
    pub(crate) async fn all_ended(&self, within: Duration) -> bool {
        let served = *lock(&self.generations);
        let mut endings = self.endings.subscribe();
        let all = endings.wait_for(|ended| *ended == served);
        patience::within(within, all).await.is_some()
    }
}

/// The slot and incarnation of an event.
fn about(event: &GuardianEvent) -> Option<(u32, u64)> {
    match event {
        GuardianEvent::Spawned { slot, incarnation, .. }
        | GuardianEvent::SpawnFailed { slot, incarnation, .. }
        | GuardianEvent::Signalled { slot, incarnation, .. }
        | GuardianEvent::Exited { slot, incarnation, .. }
        | GuardianEvent::TreeGone { slot, incarnation, .. }
        | GuardianEvent::Held { slot, incarnation, .. }
        | GuardianEvent::SitterLost { slot, incarnation, .. }
        | GuardianEvent::OrderFailed { slot, incarnation, .. } => Some((*slot, *incarnation)),
        GuardianEvent::Closed { .. }
        | GuardianEvent::Census { .. }
        | GuardianEvent::Lost { .. }
        | GuardianEvent::Ended => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
