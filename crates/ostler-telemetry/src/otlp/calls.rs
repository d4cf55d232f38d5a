//! Metrics of the calls to a pool's workers.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use super::instruments::{counter, histogram, listed, of_pool};
use crate::names::{Name, attribute, metric};
use crate::observe::{CallEnd, Clients, ClientsSnapshot};

/// What a gauge shows of a snapshot.
type Value = fn(&ClientsSnapshot) -> u64;

type Watched = Arc<Mutex<Vec<Weak<dyn Clients>>>>;

pub(super) struct Calls {
    ended: Counter<u64>,
    took: Histogram<f64>,
    waited: Histogram<f64>,
    watched: Watched,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    pub(super) fn new(meter: &Meter) -> Self {
        let watched = Watched::default();
        let gauges: [(&'static str, Value); 4] = [
            (metric::CALLS_IN_FLIGHT, |clients| clients.in_flight),
            (metric::CALLS_QUEUED, |clients| clients.queued),
            (metric::SESSIONS, |clients| clients.sessions),
            (metric::BREAKER_STATE, |clients| clients.breaker),
        ];
        for (name, value) in gauges {
            let (Name { unit, meaning, .. }, watched) = (listed(name), Arc::clone(&watched));
            // The provider keeps the instrument.
            let _ = meter
                .u64_observable_gauge(name)
                .with_unit(unit)
                .with_description(meaning)
                .with_callback(move |gauge| {
                    for clients in living(&watched) {
                        let seen = clients.snapshot();
                        gauge.observe(value(&seen), &of_pool(&seen.app, &seen.pool));
                    }
                })
                .build();
        }
        Self {
            ended: counter(meter, metric::CALLS),
            took: histogram(meter, metric::CALL_DURATION),
            waited: histogram(meter, metric::QUEUE_WAIT),
            watched,
        }
    }

    pub(super) fn ended(&self, call: &CallEnd<'_>) {
        let pool = of_pool(call.app, call.pool);
        self.waited.record(call.waited.as_secs_f64(), &pool);
        let mut attributes = pool.to_vec();
        attributes.push(KeyValue::new(attribute::OUTCOME, call.outcome));
        self.took.record(call.took.as_secs_f64(), &attributes);
        attributes.extend(call.reason.map(|reason| KeyValue::new(attribute::REASON, reason)));
        self.ended.add(1, &attributes);
    }

    pub(super) fn watch(&self, clients: Weak<dyn Clients>) {
        lock(&self.watched).push(clients);
    }
}

fn living(watched: &Watched) -> Vec<Arc<dyn Clients>> {
    let mut watched = lock(watched);
    watched.retain(|clients| clients.strong_count() > 0);
    watched.iter().filter_map(Weak::upgrade).collect()
}

fn lock(watched: &Watched) -> std::sync::MutexGuard<'_, Vec<Weak<dyn Clients>>> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}
