//! Whether the guardian has read the orders that it was given, as far as is known.
//!
//! An event alone proves nothing: it may have been on its way before the order was given, by a
//! guardian that was stopped right after it. Orders are read in turn, so the answer to a ping
//! proves that everything before the ping was read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the orders and the events.
#[derive(Debug, Clone, Default)]
pub(super) struct Silence(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// An order was given of which nothing proves that it was read.
    unconfirmed: bool,
    /// A ping has no answer yet, and whether an order was given after it.
    ping: Option<bool>,
    messages: u64,
}

impl Silence {
    /// An order is sent.
    pub(super) fn ordered(&self) {
        let mut state = self.lock();
        state.unconfirmed = true;
        if let Some(order_followed) = &mut state.ping {
            *order_followed = true;
        }
    }

    /// A ping is sent.
    pub(super) fn pinged(&self) {
        self.lock().ping = Some(false);
    }

    /// A message has arrived.
    pub(super) fn heard(&self) {
        self.lock().messages += 1;
    }

    /// A ping was answered.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        if let Some(order_followed) = state.ping.take() {
            state.unconfirmed = order_followed;
        }
    }

    /// The number of messages so far while an order is unconfirmed.
    pub(super) fn since(&self) -> Option<u64> {
        let state = self.lock();
        state.unconfirmed.then_some(state.messages)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A race that chaos found: an event that the guardian sent before it was stopped counted as
    /// its answer to an order that it never read, and nothing continued it.
    #[test]
    fn an_event_does_not_confirm_an_order() {
        let silence = Silence::default();
        assert_eq!(silence.since(), None);
        silence.ordered();
        silence.heard();
        assert_eq!(silence.since(), Some(1));
    }

    #[test]
    fn the_answer_to_a_ping_confirms_the_orders_before_it() {
        let silence = Silence::default();
        silence.ordered();
        silence.pinged();
        silence.answered();
        assert_eq!(silence.since(), None);
        silence.answered();
        silence.pinged();
        silence.ordered();
        silence.answered();
        assert_eq!(silence.since(), Some(0), "the order came after the ping");
    }
}
