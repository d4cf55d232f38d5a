//! What became of the calls.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts requests, and the attempts of all of them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests that the example has to get answered.
    accepted: AtomicU64,
    answered: AtomicU64,
    /// Calls that were certainly not executed; they were made again.
    refused: AtomicU64,
    /// Calls whose worker was lost. Embedding twice does no harm, so they were made again.
    unknown: AtomicU64,
}

impl Tally {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// Prints it; whether no request was lost.
    pub(crate) fn summary(&self) -> bool {
        let [accepted, answered, refused, unknown] =
            [&self.accepted, &self.answered, &self.refused, &self.unknown].map(|count| count.load(Ordering::Relaxed));
        let lost = accepted - answered;
        println!("accepted {accepted}, answered {answered}, refused {refused}, unknown {unknown}, lost {lost}");
        lost == 0
    }
}
