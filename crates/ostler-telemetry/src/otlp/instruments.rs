//! Metrics: counted from events, measured by Ostler, or read from snapshots at collection time.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter};

use super::calls::Calls;
use super::delivery::{Tallies, Undelivered};
use crate::event::{Event, EventKind};
use crate::names::{Name, attribute, metric};
use crate::observe::{Instance, Part, PoolSnapshot, Snapshot};

/// Bucket boundaries of the duration histograms, in seconds.
const SECONDS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The time limit of a snapshot of all workers, at each export: 2 s.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(2);

/// The instruments of one export are read one after another. They share a snapshot that is at most
/// this old.
const SNAPSHOT_AGE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Instruments {
    restarts: Counter<u64>,
    failures: Counter<u64>,
    gave_up: Counter<u64>,
    guardian_restarts: Counter<u64>,
    events_dropped: Counter<u64>,
    cleanup_success: Counter<u64>,
    cleanup_orphans: Counter<u64>,
    cleanup_kills: Counter<u64>,
    disagreements: Counter<u64>,
    output_dropped: Counter<u64>,
    output_limited: Counter<u64>,
    start: Histogram<f64>,
    stop: Histogram<f64>,
    release: Histogram<f64>,
    calls: Calls,
    watched: Arc<Watched>,
}

pub(super) fn listed(name: &str) -> Name {
    let found = metric::ALL.iter().find(|metric| metric.name == name);
    *found.unwrap_or(&Name {
        name: "",
        unit: "",
        meaning: "",
    })
}

pub(super) fn counter(meter: &Meter, name: &'static str) -> Counter<u64> {
    let Name { unit, meaning, .. } = listed(name);
    meter
        .u64_counter(name)
        .with_unit(unit)
        .with_description(meaning)
        .build()
}

pub(super) fn histogram(meter: &Meter, name: &'static str) -> Histogram<f64> {
    let Name { unit, meaning, .. } = listed(name);
    meter
        .f64_histogram(name)
        .with_unit(unit)
        .with_description(meaning)
        .with_boundaries(SECONDS.to_vec())
        .build()
}

impl Instruments {
    pub(super) fn new(meter: &Meter, tallies: &Tallies) -> Self {
        let watched = Arc::new(Watched::default());
        observe_instances(meter, &watched);
        observe_undelivered(meter, tallies.clone());
        Self {
            restarts: counter(meter, metric::RESTARTS),
            failures: counter(meter, metric::FAILURES),
            gave_up: counter(meter, metric::GAVE_UP),
            guardian_restarts: counter(meter, metric::GUARDIAN_RESTARTS),
            events_dropped: counter(meter, metric::EVENTS_DROPPED),
            cleanup_success: counter(meter, metric::CLEANUP_SUCCESS),
            cleanup_orphans: counter(meter, metric::CLEANUP_ORPHANS),
            cleanup_kills: counter(meter, metric::CLEANUP_KILLS),
            disagreements: counter(meter, metric::DISAGREEMENTS),
            output_dropped: counter(meter, metric::OUTPUT_DROPPED),
            output_limited: counter(meter, metric::OUTPUT_LIMITED),
            start: histogram(meter, metric::START_DURATION),
            stop: histogram(meter, metric::STOP_DURATION),
            release: histogram(meter, metric::RELEASE_DURATION),
            calls: Calls::new(meter),
            watched,
        }
    }

    /// Counts an event.
    pub(super) fn event(&self, event: &Event) {
        let count = event.facts.count.unwrap_or(0);
        match event.kind {
            EventKind::WorkerRestarting => self.restarts.add(1, &of_reason(event)),
            EventKind::WorkerFailed => self.failures.add(1, &of_reason(event)),
            EventKind::WorkerGaveUp => self
                .gave_up
                .add(1, &of_pool(&event.app, event.pool_name().unwrap_or_default())),
            EventKind::GuardianLost => self.guardian_restarts.add(1, &[app(&event.app)]),
            EventKind::EventsDropped => self.events_dropped.add(count, &[app(&event.app)]),
            EventKind::CleanupSuccess => self.cleanup_success.add(1, &of_run(event)),
            EventKind::CleanupOrphansFound => self.cleanup_orphans.add(count, &of_run(event)),
            EventKind::CleanupEmergencyKill => self.cleanup_kills.add(count, &of_run(event)),
            EventKind::RunStarted
            | EventKind::RunStopped
            | EventKind::WorkerReserved
            | EventKind::WorkerSpawned
            | EventKind::WorkerReady
            | EventKind::WorkerDraining
            | EventKind::WorkerUnhealthy
            | EventKind::BreakerOpened
            | EventKind::BreakerClosed
            | EventKind::WorkerStopping
            | EventKind::WorkerExited
            | EventKind::WorkerReleased
            | EventKind::WorkerFinished
            | EventKind::RunGaveUp
            | EventKind::PoolReady
            | EventKind::PoolDegraded
            | EventKind::PoolFinished
            | EventKind::PoolGaveUp
            | EventKind::PoolStopped
            | EventKind::SweepDone => {}
        }
    }

    pub(super) fn duration(&self, part: Part, app: &str, pool: &str, took: Duration) {
        let histogram = match part {
            Part::Start => &self.start,
            Part::Stop => &self.stop,
            Part::Release => &self.release,
        };
        histogram.record(took.as_secs_f64(), &of_pool(app, pool));
    }

    pub(super) fn output_dropped(&self, app: &str, pool: &str, lines: u64) {
        self.output_dropped.add(lines, &of_pool(app, pool));
    }

    pub(super) fn output_limited(&self, app: &str, pool: &str, records: u64) {
        self.output_limited.add(records, &of_pool(app, pool));
    }

    pub(super) fn disagreement(&self, name: &str, kind: &'static str) {
        let kind = KeyValue::new(attribute::DISAGREEMENT, kind);
        self.disagreements.add(1, &[app(name), kind]);
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    pub(super) fn watch(&self, instance: Weak<dyn Instance>) {
        self.watched.instances().push(instance);
    }
}

fn app(app: &str) -> KeyValue {
    KeyValue::new(attribute::APP, app.to_owned())
}

pub(super) fn of_pool(name: &str, pool: &str) -> [KeyValue; 2] {
    [app(name), KeyValue::new(attribute::POOL, pool.to_owned())]
}

fn of_run(event: &Event) -> [KeyValue; 2] {
    [app(&event.app), KeyValue::new(attribute::RUN, event.run.to_string())]
}

fn of_reason(event: &Event) -> Vec<KeyValue> {
    let mut list = of_pool(&event.app, event.pool_name().unwrap_or_default()).to_vec();
    list.extend(
        event
            .facts
            .reason
            .map(|reason| KeyValue::new(attribute::REASON, reason.name())),
    );
    list
}

/// The observed instances.
#[derive(Default)]
struct Watched {
    instances: Mutex<Vec<Weak<dyn Instance>>>,
    last: Mutex<Option<(Instant, Arc<Vec<Snapshot>>)>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Watched {
    fn instances(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn Instance>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes snapshots of all instances. Called on the reader's thread.
    fn look(&self) -> Arc<Vec<Snapshot>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, seen)) = &*last
            && at.elapsed() < SNAPSHOT_AGE
        {
            return Arc::clone(seen);
        }
        let living: Vec<Arc<dyn Instance>> = {
            let mut instances = self.instances();
            instances.retain(|instance| instance.strong_count() > 0);
            instances.iter().filter_map(Weak::upgrade).collect()
        };
        let deadline = Instant::now() + SNAPSHOT_LIMIT;
        let seen: Vec<_> = living.iter().map(|instance| instance.snapshot(deadline)).collect();
        let seen = Arc::new(seen);
        *last = Some((Instant::now(), Arc::clone(&seen)));
        seen
    }

    fn each_pool(&self, mut see: impl FnMut(&str, &PoolSnapshot)) {
        for snapshot in self.look().iter() {
            for pool in &snapshot.pools {
                see(&snapshot.app, pool);
            }
        }
    }
}

/// A gauge whose points come from `see`.
fn counts(
    meter: &Meter,
    name: &'static str,
    watched: &Arc<Watched>,
    see: impl Fn(&Watched, &dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    let (Name { unit, meaning, .. }, watched) = (listed(name), Arc::clone(watched));
    // The provider keeps the instrument.
    let _ = meter
        .u64_observable_gauge(name)
        .with_unit(unit)
        .with_description(meaning)
        .with_callback(move |gauge| see(&watched, gauge))
        .build();
}

fn observe_instances(meter: &Meter, watched: &Arc<Watched>) {
    counts(meter, metric::WORKERS, watched, |watched, gauge| {
        watched.each_pool(|name, pool| {
            for (state, count) in &pool.states {
                let [app, pool] = of_pool(name, &pool.pool);
                gauge.observe(*count, &[app, pool, KeyValue::new(attribute::STATE, state.name())]);
            }
        });
    });
    counts(meter, metric::STARTS_WAITING, watched, |watched, gauge| {
        watched.each_pool(|name, pool| gauge.observe(pool.waiting, &of_pool(name, &pool.pool)));
    });
    counts(meter, metric::MISSING, watched, |watched, gauge| {
        watched.each_pool(|name, pool| gauge.observe(pool.missing, &of_pool(name, &pool.pool)));
    });
    counts(meter, metric::TABLE_SIZE, watched, |watched, gauge| {
        for snapshot in watched.look().iter() {
            gauge.observe(snapshot.records, &[app(&snapshot.app)]);
        }
    });
    counts(meter, metric::MEMORY, watched, |watched, gauge| {
        watched.each_pool(|name, pool| {
            for usage in &pool.usage {
                gauge.observe(usage.resident, &of_worker(name, &pool.pool, &usage.worker.to_string()));
            }
        });
    });
    let Name { unit, meaning, .. } = listed(metric::INTENSITY_USED);
    let seen = Arc::clone(watched);
    let _ = meter
        .f64_observable_gauge(metric::INTENSITY_USED)
        .with_unit(unit)
        .with_description(meaning)
        .with_callback(move |gauge| {
            seen.each_pool(|name, pool| gauge.observe(pool.intensity_used, &of_pool(name, &pool.pool)));
        })
        .build();
    let Name { unit, meaning, .. } = listed(metric::CPU_TIME);
    let seen = Arc::clone(watched);
    let _ = meter
        .f64_observable_counter(metric::CPU_TIME)
        .with_unit(unit)
        .with_description(meaning)
        .with_callback(move |counter| {
            seen.each_pool(|name, pool| {
                for usage in &pool.usage {
                    let of = of_worker(name, &pool.pool, &usage.worker.to_string());
                    counter.observe(usage.cpu.as_secs_f64(), &of);
                }
            });
        })
        .build();
}

fn of_worker(name: &str, pool: &str, worker: &str) -> [KeyValue; 3] {
    let [app, pool] = of_pool(name, pool);
    [app, pool, KeyValue::new(attribute::WORKER, worker.to_owned())]
}

fn observe_undelivered(meter: &Meter, tallies: Tallies) {
    let Name { unit, meaning, .. } = listed(metric::UNDELIVERED);
    let _ = meter
        .u64_observable_counter(metric::UNDELIVERED)
        .with_unit(unit)
        .with_description(meaning)
        .with_callback(move |counter| {
            let Undelivered {
                spans,
                metrics,
                records,
            } = tallies.lost();
            for (signal, count) in [("traces", spans), ("metrics", metrics), ("logs", records)] {
                counter.observe(count, &[KeyValue::new(attribute::TELEMETRY_SIGNAL, signal)]);
            }
        })
        .build();
}
