//! `--events`: one JSON object a line, and an honest count of what could not be written.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use ostler_telemetry::Event;

use super::outlet::{Ending, Outlet, QUEUE};

/// The events file of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    outlet: Outlet,
    /// What `--events` said.
    name: String,
    /// Events that could not be written since the last one that could.
    missing: u64,
    failed: bool,
}

impl Journal {
    /// Opens the file, which is emptied first; `-` is stdout.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::new("stdout", io::stdout(), QUEUE);
        }
        Self::new(&path.display().to_string(), File::create(path)?, QUEUE)
    }

    fn new(name: &str, sink: impl Write + Send + 'static, queue: usize) -> io::Result<Self> {
        Ok(Self {
            outlet: Outlet::new("ostler-events", sink, queue)?,
            name: name.to_owned(),
            missing: 0,
            failed: false,
        })
    }

    /// Writes the event, or counts it as missing; says so once when the file has failed.
    pub(crate) fn write(&mut self, event: &Event) -> Option<String> {
        if self.failed {
            return None;
        }
        if self.missing > 0 && self.outlet.offer(line(&self.dropped_before(event))) {
            self.missing = 0;
        }
        if self.missing > 0 || !self.outlet.offer(line(event)) {
            self.missing += 1;
        }
        let error = self.outlet.error()?;
        self.failed = true;
        Some(self.trouble(&error))
    }

    /// Waits until all is written, at most until `deadline`. `last` is the event after which nothing came.
    pub(crate) fn finish(self, last: Option<&Event>, deadline: Instant) -> Option<String> {
        if self.failed {
            return None;
        }
        if let Some(last) = last.filter(|_| self.missing > 0) {
            let mut dropped = self.dropped_before(last);
            dropped.seq = last.seq;
            self.outlet.insist(line(&dropped), deadline);
        }
        let name = self.name.clone();
        let missing = self.missing;
        match self.outlet.finish(deadline) {
            Ending::Written if missing > 0 => Some(format!(
                "{name}: {missing} events at its end are missing: its reader was too slow"
            )),
            Ending::Written => None,
            Ending::Failed(error) => Some(format!("{name}: {error}; its last events are missing")),
            Ending::Stuck => Some(format!(
                "{name}: its reader does not take the last events; they are missing"
            )),
        }
    }

    fn trouble(&self, error: &io::Error) -> String {
        format!("{}: {error}; no more events are written to it", self.name)
    }

    /// What stands where events are missing before this one.
    fn dropped_before(&self, next: &Event) -> Event {
        let why = format!("{} took them too slowly", self.name);
        Event::dropped_before(next, self.missing, &why)
    }
}

/// The event as a line of its own, so that one write makes it whole.
fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("an event is strings and numbers: it has a JSON form");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, SystemTime};

    use ostler_core::ids::RunId;
    use ostler_telemetry::{EventKind, Facts};

    use super::*;

    fn event(seq: u64) -> Event {
        Event {
            seq,
            time: SystemTime::UNIX_EPOCH,
            kind: EventKind::WorkerReady,
            app: "demo".into(),
            run: RunId::from_u128(1),
            pool: None,
            worker: None,
            incarnation: None,
            facts: Facts {
                message: Some("x".repeat(1 << 10)),
                ..Facts::default()
            },
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn what_a_slow_reader_misses_is_counted_where_it_is_missing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut journal = Journal::new("the test", ours, 4).unwrap();
        let total = 2_000;
        for seq in 1..=total {
            assert_eq!(journal.write(&event(seq)), None);
        }
        assert!(journal.missing > 0, "the reader has read nothing yet");
        let reader = std::thread::spawn(move || {
            BufReader::new(theirs)
                .lines()
                .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
                .collect::<Vec<serde_json::Value>>()
        });
        journal.finish(Some(&event(total)), soon());
        let mut next = 1;
        for read in reader.join().unwrap() {
            match read["count"].as_u64() {
                Some(count) => next += count,
                None => {
                    assert_eq!(read["seq"], next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, total + 1, "every event was read or counted");
    }

    #[test]
    fn a_reader_that_is_gone_is_told_once_and_holds_up_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut journal = Journal::new("the test", ours, 4).unwrap();
        let deadline = soon();
        let told = loop {
            if let Some(told) = journal.write(&event(1)) {
                break told;
            }
            assert!(Instant::now() < deadline, "no error was told");
        };
        assert!(told.starts_with("the test: Broken pipe"), "{told}");
        assert_eq!(journal.write(&event(2)), None);
        assert_eq!(journal.finish(Some(&event(2)), soon()), None);
    }

    #[test]
    fn a_full_disk_is_told_once() {
        let mut journal = Journal::open(Path::new("/dev/full")).unwrap();
        let deadline = soon();
        let told = loop {
            if let Some(told) = journal.write(&event(1)) {
                break told;
            }
            assert!(Instant::now() < deadline, "no error was told");
        };
        assert!(told.contains("No space left on device"), "{told}");
    }
}
