//! What a worker's lines are used for besides being kept: readiness, the log, telemetry records.
//!
//! The hook runs in the task that drains the stream, so nothing in it waits.

mod paragraph;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use ostler_core::ids::{self, WorkerId};
use ostler_os::output::OnLine;
use ostler_telemetry::{Observer, Output};

use super::incarnation::Incarnation;
use super::tap::Tap;
use super::watch::LineWatch;
use crate::hub::Hub;
use paragraph::Paragraph;

/// The sustained number of log records per second and stream. Further records are counted and
/// dropped.
pub const RECORDS_A_SECOND: u32 = 100;
/// How many records a stream may send in one burst.
pub const RECORDS_AT_ONCE: u32 = 200;

/// How long a line waits for lines that may belong to it: 100 ms.
const HOLD: Duration = Duration::from_millis(100);

/// The hook that is called for each line of one stream.
pub(super) fn on_line(
    incarnation: &Incarnation,
    hub: &Arc<Hub>,
    watch: Option<LineWatch>,
    tap: Arc<Tap>,
    stream: &'static str,
) -> OnLine {
    let log = incarnation.spec().output.log;
    let mut recorder = log.then(|| Recorder::new(incarnation, hub, stream)).flatten();
    let (worker, number) = (incarnation.worker.to_string(), incarnation.number);
    Box::new(move |line| {
        tap.line(number, stream, line);
        if let Some(watch) = &watch {
            watch.see(line);
        }
        if log {
            tracing::info!(target: "ostler::output", worker, incarnation = number.0, stream, "{line}");
        }
        if let Some(recorder) = &mut recorder {
            recorder.line(line);
        }
    })
}

/// Turns one stream's lines into records. When it is dropped with the hook, it emits what it still
/// holds.
struct Recorder(Arc<Stream>);

struct Stream {
    observer: Arc<dyn Observer>,
    hub: Arc<Hub>,
    worker: WorkerId,
    incarnation: ids::Incarnation,
    stream: &'static str,
    gathered: Mutex<Gathered>,
}

struct Gathered {
    paragraph: Paragraph,
    since: SystemTime,
    last_line: Instant,
    allowance: Allowance,
    /// Records dropped since the last one that was sent.
    limited: u64,
    timer: bool,
}

impl Recorder {
    /// `None` if there is no observer.
    fn new(incarnation: &Incarnation, hub: &Arc<Hub>, stream: &'static str) -> Option<Self> {
        let now = Instant::now();
        Some(Self(Arc::new(Stream {
            observer: Arc::clone(hub.observer()?),
            hub: Arc::clone(hub),
            worker: incarnation.worker.clone(),
            incarnation: incarnation.number,
            stream,
            gathered: Mutex::new(Gathered {
                paragraph: Paragraph::default(),
                since: SystemTime::now(),
                last_line: now,
                allowance: Allowance::new(now),
                limited: 0,
                timer: false,
            }),
        })))
    }

    fn line(&mut self, line: &str) {
        let Self(stream) = self;
        let mut gathered = stream.gathered();
        if let Some(text) = gathered.paragraph.push(line) {
            stream.give(&mut gathered, &text);
            gathered.since = SystemTime::now();
        }
        gathered.last_line = Instant::now();
        // During shutdown there is no runtime, and `drop` sends what is still held.
        if !gathered.timer
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            gathered.timer = true;
            gathered.since = SystemTime::now();
            runtime.spawn(give_when_silent(Arc::downgrade(stream)));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0.give_rest(&mut self.0.gathered());
    }
}

impl Stream {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_rest(&self, gathered: &mut Gathered) {
        if let Some(text) = gathered.paragraph.take() {
            self.give(gathered, &text);
        }
    }

    fn give(&self, gathered: &mut Gathered, text: &str) {
        let app = self.hub.app();
        if !gathered.allowance.take(Instant::now()) {
            gathered.limited += 1;
            self.observer.output_limited(app, &self.worker.pool, 1);
            return;
        }
        let (since, limited) = (gathered.since, std::mem::take(&mut gathered.limited));
        let mut output = Output::new(app, &self.worker, self.incarnation, self.stream, since, text);
        output.limited = limited;
        self.observer.output(&output);
    }
}

/// Sends what is held when no line has come for a while, then ends. Also ends with its stream.
async fn give_when_silent(stream: Weak<Stream>) {
    loop {
        tokio::time::sleep(HOLD).await;
        let Some(stream) = stream.upgrade() else { return };
        let mut gathered = stream.gathered();
        if gathered.last_line.elapsed() >= HOLD {
            stream.give_rest(&mut gathered);
            gathered.timer = false;
            return;
        }
    }
}

/// How many records a stream may send: a bucket with a maximum, refilled at a constant rate.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            left: f64::from(RECORDS_AT_ONCE),
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(RECORDS_A_SECOND);
        self.left = (self.left + refill).min(f64::from(RECORDS_AT_ONCE));
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gives_so_many_at_once_and_so_many_a_second() {
        let begun = Instant::now();
        let mut allowance = Allowance::new(begun);
        let mut given = |after| (0..1_000).filter(|_| allowance.take(begun + after)).count();
        assert_eq!(given(Duration::ZERO), RECORDS_AT_ONCE as usize);
        assert_eq!(given(Duration::from_millis(500)), RECORDS_A_SECOND as usize / 2);
        assert_eq!(given(Duration::from_secs(60)), RECORDS_AT_ONCE as usize);
    }
}
