//! What is logged of a crash: one line for an operator, the steps at level debug.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ostler::{EventKind, Ostler, PoolEnd, PoolSpec};
use ostler_tests::survivors;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::scene::{Place, in_time, start, stop};

/// A line of the log.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    level: Level,
    target: String,
    fields: String,
}

/// Keeps the lines of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A String takes everything.
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
        self.0.lock().unwrap().push(Line {
            level,
            target,
            fields: fields.0,
        });
    }
}

impl Log {
    /// The lines that are not only for developers.
    fn shown(&self) -> Vec<Line> {
        let lines = self.0.lock().unwrap();
        let shown = lines.iter().filter(|line| line.level <= Level::INFO);
        shown
            .filter(|line| line.target.starts_with("ostler"))
            .cloned()
            .collect()
    }
}

/// A pool of this name whose worker crashes until it gives up.
async fn crash(ostler: &Ostler, name: &str, restarts: u32) {
    let mut spec = PoolSpec::new(name, ["sh", "-c", "exit 7"]).intensity(restarts, Duration::from_secs(3600));
    spec.worker.output.log = false;
    let pool = ostler.add_pool(spec).await.unwrap();
    assert!(matches!(in_time(pool.wait_stopped()).await, PoolEnd::GaveUp(_)));
}

/// Everything of an instance that logs here runs on the test's own thread.
#[tokio::test]
async fn a_crash_loop_logs_one_line_for_each_crash() {
    const RESTARTS: u32 = 5;
    let log = Log::default();
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    // The first lines may come while another test makes them known to `tracing`, which then takes
    // them for disabled.
    crash(&ostler, "first", 0).await;
    tracing::callsite::rebuild_interest_cache();
    crash(&ostler, "loop", RESTARTS).await;
    stop(&place, ostler, &mut seen).await;
    assert_eq!(survivors(&place.tag), []);

    let failed = seen.events.iter().filter(|event| event.kind == EventKind::WorkerFailed);
    let crashes = failed.filter(|event| event.pool_name() == Some("loop")).count();
    assert_eq!(crashes, RESTARTS as usize + 1);
    let lines = log.shown();
    let of_worker: Vec<&Line> = lines.iter().filter(|line| line.fields.contains("loop/0")).collect();
    let (failed, others): (Vec<&Line>, Vec<&Line>) = of_worker
        .into_iter()
        .partition(|line| line.fields.contains("event=\"worker.failed\""));
    assert_eq!(failed.len(), crashes, "one line for each crash: {lines:#?}");
    for line in failed {
        assert_eq!((line.level, line.target.as_str()), (Level::WARN, "ostler"));
        for field in [
            "who=\"loop/0\"",
            "incarnation=",
            "pid=",
            "reason=\"exited\"",
            "message=",
            "suggestion=",
        ] {
            assert!(line.fields.contains(field), "no {field}: {line:?}");
        }
    }
    // And one line for the end of the slot.
    assert_eq!(others.len(), 1, "{others:#?}");
    assert!(others[0].fields.contains("event=\"worker.gave_up\""), "{others:?}");
    let of_supervisors = lines.iter().filter(|line| line.target == "ostler::supervisor");
    assert_eq!(of_supervisors.count(), 0, "the events say it: {lines:#?}");
    // The steps are there at level debug.
    let all = log.0.lock().unwrap();
    let steps = all.iter().filter(|line| line.level == Level::DEBUG);
    let of_loop = steps.filter(|line| line.fields.contains("who=\"loop/0\""));
    let released = of_loop.filter(|line| line.fields.contains("event=\"worker.released\""));
    assert_eq!(released.count(), crashes);
}
