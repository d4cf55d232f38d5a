//! Setters of what clients of a pool go by.

use std::time::Duration;

use crate::spec::{
    Affinity, Breaker, Codel, FailureRate, OnCancel, QueueOrder, QueueSpec, Recycle, ServeSpec, Sessions,
};

impl ServeSpec {
    settings! {
        /// Calls in flight per worker. Default 1; zero is invalid.
        concurrency: u32 => concurrency;
        /// Calls that wait for a worker. Default: up to 1,000, first in, first out.
        queue: QueueSpec => queue;
        /// The deadline of a call that brings none. Default 30 s; zero: none.
        timeout: Duration => timeout;
        /// How sessions keep to their workers.
        sessions: Sessions => sessions;
        /// When a worker is replaced by a fresh one. Default: never.
        recycle: Recycle => recycle;
        /// How long a worker that drains may take. Default 30 s; zero: not at all.
        drain_timeout: Duration => drain_timeout;
        /// When calls are refused because the workers fail. Default: after 5 failures in a row.
        breaker: Breaker => breaker;
        /// Retries as a share of calls. Default 0.1; zero: none.
        retry_budget: f64 => retry_budget;
        /// What happens to a worker whose caller gave up. Default: it is replaced.
        on_cancel: OnCancel => on_cancel;
        /// A request is refused after this many workers crashed on it. Default 2; zero: never.
        poison: u32 => poison;
    }
}

impl QueueSpec {
    settings! {
        /// How many calls may wait. Default 1,000; zero: none.
        max: usize => max;
        /// Their order. Default first in, first out.
        order: QueueOrder => order;
    }

    /// Shortens a queue that stays long. Default: not.
    #[must_use]
    pub fn codel(mut self, codel: Codel) -> Self {
        self.codel = Some(codel);
        self
    }
}

impl Codel {
    settings! {
        /// The wait that is acceptable. Default 50 ms.
        target: Duration => target;
        /// How long every call has to wait longer before some are refused. Default 2 s; zero is
        /// invalid.
        interval: Duration => interval;
    }
}

impl Sessions {
    settings! {
        /// How strictly a session keeps to its worker. Default: a hint.
        affinity: Affinity => affinity;
        /// A session that is unused for this long is forgotten. Default 1 h; zero is invalid.
        ttl: Duration => ttl;
        /// The largest number of sessions. Default 10,000; zero is invalid.
        max: usize => max;
    }
}

impl Recycle {
    settings! {
        /// The random share by which each worker's limits are smaller. Default 0.2; zero: none.
        jitter: f64 => jitter;
        /// Workers that are started beside the pool's before one drains: 0 or 1. Default 1.
        surge: u32 => surge;
    }

    /// Replaces a worker this long after it became ready. Default: never; zero is invalid.
    #[must_use]
    pub fn age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// Replaces a worker after this many calls. Default: never; zero is invalid.
    #[must_use]
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Replaces a worker whose tree's resident memory exceeds this many bytes. Default: never; zero
    /// is invalid.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }
}

impl Breaker {
    settings! {
        /// Failures in a row that open it. Default 5; zero: this does not open it.
        failures: u32 => failures;
        /// How long it stays open before one call is let through. Default 30 s; zero is invalid.
        open: Duration => open;
    }

    /// A share of failures that opens it. Default: none does.
    #[must_use]
    pub fn rate(mut self, rate: FailureRate) -> Self {
        self.rate = Some(rate);
        self
    }
}

impl FailureRate {
    settings! {
        /// The share, above 0 and up to 1. Default 0.5.
        share: f64 => share;
        /// The window. Default 10 s; zero is invalid.
        window: Duration => window;
        /// Counts only with at least this many calls in the window. Default 20; zero is invalid.
        calls: u32 => calls;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setters_of_a_serving_pool_set_what_they_name() {
        let second = Duration::from_secs(1);
        let serve = ServeSpec::default()
            .concurrency(2)
            .queue(
                QueueSpec::default()
                    .max(3)
                    .order(QueueOrder::Lifo)
                    .codel(Codel::default().target(second)),
            )
            .timeout(second * 4)
            .sessions(
                Sessions::default()
                    .affinity(Affinity::StrictQueue)
                    .ttl(second * 5)
                    .max(6),
            )
            .recycle(
                Recycle::default()
                    .age(second * 7)
                    .requests(8)
                    .memory(9)
                    .jitter(0.1)
                    .surge(0),
            )
            .drain_timeout(second * 10)
            .breaker(
                Breaker::default()
                    .failures(11)
                    .open(second * 12)
                    .rate(FailureRate::default().calls(13)),
            )
            .retry_budget(0.2)
            .on_cancel(OnCancel::Reuse)
            .poison(14);
        let expected = ServeSpec {
            concurrency: 2,
            queue: QueueSpec {
                max: 3,
                order: QueueOrder::Lifo,
                codel: Some(Codel {
                    target: second,
                    ..Codel::default()
                }),
            },
            timeout: second * 4,
            sessions: Sessions {
                affinity: Affinity::StrictQueue,
                ttl: second * 5,
                max: 6,
            },
            recycle: Recycle {
                age: Some(second * 7),
                requests: Some(8),
                memory: Some(9),
                jitter: 0.1,
                surge: 0,
            },
            drain_timeout: second * 10,
            breaker: Breaker {
                failures: 11,
                rate: Some(FailureRate {
                    calls: 13,
                    ..FailureRate::default()
                }),
                open: second * 12,
            },
            retry_budget: 0.2,
            on_cancel: OnCancel::Reuse,
            poison: 14,
        };
        assert_eq!(serve, expected);
        let rate = FailureRate::default().share(0.9).window(second);
        assert_eq!((rate.share, rate.window), (0.9, second));
        assert_eq!(Codel::default().interval(second).interval, second);
    }
}
