//! How the calls end, as the front end's clients see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use ostler_serve::ServingPool;
use serde_json::{Value, json};

/// The paths of the front end, and the pools behind them.
pub(crate) const PATHS: [&str; 3] = ["words", "reverse", "shout"];

/// One path's calls.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

/// Those of all paths. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tallies(Arc<[Tally; 3]>);

impl Tallies {
    pub(crate) fn count(&self, path: usize, status: StatusCode) {
        let tally = &self.0[path];
        let counter = match status {
            StatusCode::SERVICE_UNAVAILABLE => &tally.refused,
            status if status.is_server_error() => &tally.unknown,
            _ => &tally.answered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were answered on each path.
    pub(crate) fn answered(&self) -> [u64; 3] {
        std::array::from_fn(|path| self.0[path].answered.load(Ordering::Relaxed))
    }

    /// A line for each second: how many are answered now, and how all have ended.
    pub(crate) fn line(&self, rates: [u64; 3]) -> String {
        let part = |path: usize| {
            let tally = &self.0[path];
            let [answered, refused, unknown] =
                [&tally.answered, &tally.refused, &tally.unknown].map(|counter| counter.load(Ordering::Relaxed));
            let (name, rate) = (PATHS[path], rates[path]);
            format!("{name} {rate}/s ({answered} answered, {refused} refused, {unknown} unknown)")
        };
        [part(0), part(1), part(2)].join("; ")
    }

    /// The same with the state of the pools, for `GET /`.
    pub(crate) fn snapshot(&self, pools: &[ServingPool; 3]) -> Value {
        let of = |path: usize| {
            let (tally, state) = (&self.0[path], pools[path].state());
            json!({
                "answered": tally.answered.load(Ordering::Relaxed),
                "refused": tally.refused.load(Ordering::Relaxed),
                "unknown": tally.unknown.load(Ordering::Relaxed),
                "usable": state.usable, "in_flight": state.in_flight, "queued": state.queued,
                "breaker": format!("{:?}", state.breaker),
            })
        };
        json!({PATHS[0]: of(0), PATHS[1]: of(1), PATHS[2]: of(2)})
    }
}
