//! The signals that `ostler up` receives, by the table in [`crate::signals`].

use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::signals::{Inherited, Meaning};

/// For how long after the first signal that stops another one belongs to it: timeout(1) signals its
/// child and then the whole group, and what was sent to a stopped process arrives at once when it
/// continues. A person who wants to kill takes longer.
const TOGETHER: Duration = Duration::from_millis(500);

/// A receiver for each signal with a meaning.
#[derive(Debug)]
pub(super) struct Signals {
    receivers: Vec<(&'static str, Meaning, Signal)>,
    stops: Stops,
}

impl Signals {
    /// Receives them from now on.
    pub(super) fn new(inherited: &Inherited) -> io::Result<Self> {
        let receive = |meaning| {
            inherited.rows(meaning).map(move |row| {
                let kind = SignalKind::from_raw(row.signal().number());
                Ok((row.name, meaning, signal(kind)?))
            })
        };
        [Meaning::Stop, Meaning::StopOnce, Meaning::Reopen]
            .into_iter()
            .flat_map(receive)
            .collect::<io::Result<_>>()
            .map(|receivers| Self {
                receivers,
                stops: Stops::default(),
            })
    }

    /// The name and the meaning of the next one. Cancel safe.
    pub(super) async fn next(&mut self) -> (&'static str, Meaning) {
        let received = std::future::poll_fn(|context| {
            for (name, meaning, signal) in &mut self.receivers {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready((*name, *meaning));
                }
            }
            Poll::Pending
        });
        let (name, meaning) = received.await;
        (name, self.stops.meaning(meaning, Instant::now()))
    }

    /// A stop begins that no signal has asked for: the next one is a second one.
    pub(super) fn note_stop(&mut self) {
        self.stops.first.get_or_insert_with(Instant::now);
    }
}

/// When the first signal that stops came, or the stop began without one.
#[derive(Debug, Default)]
struct Stops {
    first: Option<Instant>,
}

impl Stops {
    /// What a signal means at this time: one that comes together with the first does not kill.
    fn meaning(&mut self, meaning: Meaning, now: Instant) -> Meaning {
        if !matches!(meaning, Meaning::Stop | Meaning::StopOnce) {
            return meaning;
        }
        let first = *self.first.get_or_insert(now);
        if now.saturating_duration_since(first) < TOGETHER {
            Meaning::StopOnce
        } else {
            meaning
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_are_one() {
        let (mut stops, start) = (Stops::default(), Instant::now());
        let mut at = |after, meaning| stops.meaning(meaning, start + after);
        assert_eq!(at(Duration::ZERO, Meaning::Reopen), Meaning::Reopen);
        assert_eq!(at(Duration::ZERO, Meaning::Stop), Meaning::StopOnce);
        assert_eq!(at(TOGETHER / 2, Meaning::Stop), Meaning::StopOnce);
        // Each counts from the first: who repeats it all the time does kill.
        assert_eq!(at(TOGETHER, Meaning::Stop), Meaning::Stop);
        assert_eq!(at(TOGETHER, Meaning::StopOnce), Meaning::StopOnce);
        assert_eq!(at(TOGETHER, Meaning::Reopen), Meaning::Reopen);
    }
}
