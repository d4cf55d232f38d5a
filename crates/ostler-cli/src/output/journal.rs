//! `--events`: one JSON object a line, and an exact count of what could not be written.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use ostler_telemetry::Event;

use super::events_file::EventsFile;
use super::outlet::{Ending, Outlet, QUEUE, Sink, write_whole};
use super::text;

/// The events file of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    outlet: Outlet<Entry>,
    /// What `--events` says.
    name: String,
    /// Events that were lost since the last one that was queued.
    missing: u64,
    /// A rotation that found the queue full.
    rotate: bool,
    ended: bool,
    troubles: Receiver<String>,
    needs_reader: Arc<AtomicBool>,
}

/// What is queued for the thread that writes.
#[derive(Debug)]
enum Entry {
    /// An event, and how many before it were lost.
    Event { event: Arc<Event>, missing: u64 },
    /// Opens the file again.
    Rotate,
    /// Nothing comes after the event `last`.
    End { last: Arc<Event>, missing: u64 },
}

impl Journal {
    /// Opens the file, which is emptied; `-` is stdout. A FIFO without a reader is reported by the
    /// next [`Journal::troubles`], and its events wait for the reader.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::new("stdout", Target::Stream(Box::new(io::stdout())), QUEUE);
        }
        Self::new(
            &path.display().to_string(),
            Target::File(EventsFile::create(path)?),
            QUEUE,
        )
    }

    fn new(name: &str, target: Target, queue: usize) -> io::Result<Self> {
        let (report, troubles) = channel();
        let needs_reader = Arc::new(AtomicBool::new(target.needs_reader()));
        if target.needs_reader() {
            let note = format!("{name}: nothing reads this FIFO yet; the events wait for its reader");
            report.send(note).expect("the receiver is right here");
        }
        let writer = Writer {
            target,
            name: name.to_owned(),
            lost: 0,
            failing: false,
            report,
            needs_reader: Arc::clone(&needs_reader),
        };
        Ok(Self {
            outlet: Outlet::new("ostler-events", writer, queue)?,
            name: name.to_owned(),
            missing: 0,
            rotate: false,
            ended: false,
            troubles,
            needs_reader,
        })
    }

    /// Queues the event, or counts it as missing. Never blocks.
    pub(crate) fn write(&mut self, event: &Arc<Event>) {
        if self.ended {
            return;
        }
        if self.rotate {
            self.rotate = !self.outlet.offer(Entry::Rotate);
        }
        let entry = Entry::Event {
            event: Arc::clone(event),
            missing: self.missing,
        };
        self.missing = if self.outlet.offer(entry) { 0 } else { self.missing + 1 };
    }

    /// So many events before the next one were lost on their way here.
    pub(crate) fn miss(&mut self, events: u64) {
        self.missing += events;
    }

    /// Opens the file again, as after a log rotation.
    pub(crate) fn rotate(&mut self) {
        self.rotate = !self.outlet.offer(Entry::Rotate);
    }

    /// What has gone wrong, or right again, since the last call.
    pub(crate) fn troubles(&mut self) -> Vec<String> {
        let mut troubles: Vec<String> = self.troubles.try_iter().collect();
        if let Some(error) = self.outlet.error() {
            self.ended = true;
            troubles.push(format!("{}: {error}; no more events are written to it", self.name));
        }
        troubles
    }

    /// Waits until everything is written, at most until `deadline`. `last` is the run's last event.
    /// Returns what has gone wrong.
    pub(crate) fn finish(mut self, last: Option<&Arc<Event>>, deadline: Instant) -> Vec<String> {
        let mut troubles = self.troubles();
        if self.ended {
            return troubles;
        }
        if self.needs_reader.load(Ordering::Relaxed) {
            troubles.push(format!(
                "{}: nothing reads this FIFO; its last events are lost",
                self.name
            ));
            return troubles;
        }
        if let Some(last) = last {
            let end = Entry::End {
                last: Arc::clone(last),
                missing: self.missing,
            };
            self.outlet.insist(end, deadline);
        }
        let ending = self.outlet.finish(deadline);
        troubles.extend(self.troubles.try_iter());
        match ending {
            Ending::Written => {}
            Ending::Failed(error) => troubles.push(format!("{}: {error}; its last events are missing", self.name)),
            Ending::Stuck => troubles.push(format!(
                "{}: its reader does not take the last events; they are missing",
                self.name
            )),
        }
        troubles
    }
}

enum Target {
    /// It ends with its reader.
    Stream(Box<dyn Write + Send>),
    /// It can be opened again.
    File(EventsFile),
}

impl Target {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => write_whole(stream, bytes).map_err(|(error, _)| error),
            Self::File(file) => file.append(bytes),
        }
    }

    fn needs_reader(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::File(file) => file.needs_reader(),
        }
    }

    fn is_over(&self, error: &io::Error) -> bool {
        matches!(self, Self::Stream(_)) && error.kind() == io::ErrorKind::BrokenPipe
    }
}

/// The thread's part: it keeps trying, and counts what is lost meanwhile.
struct Writer {
    target: Target,
    name: String,
    /// Events that are not in the file, and that no `events.dropped` in it reports.
    lost: u64,
    /// The last attempt failed, and that has been reported.
    failing: bool,
    report: Sender<String>,
    needs_reader: Arc<AtomicBool>,
}

/// The events that are appended next, as one text.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    events: u64,
    /// Lost events that the text reports.
    reported: u64,
}

impl Sink<Entry> for Writer {
    fn write(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let mut batch = Batch::default();
        for entry in entries {
            match entry {
                Entry::Event { event, missing } => self.add(&mut batch, &event, missing),
                Entry::Rotate => {
                    self.append(std::mem::take(&mut batch))?;
                    self.rotate()?;
                }
                Entry::End { last, missing } => {
                    self.append(std::mem::take(&mut batch))?;
                    self.end(&last, missing)?;
                }
            }
        }
        self.append(batch)
    }
}

impl Writer {
    fn add(&mut self, batch: &mut Batch, event: &Event, missing: u64) {
        self.lost += missing;
        if self.lost > 0 {
            batch.text.extend(line(&self.dropped_before(event)));
            batch.reported += std::mem::take(&mut self.lost);
        }
        batch.text.extend(line(event));
        batch.events += 1;
    }

    fn rotate(&mut self) -> io::Result<()> {
        if let Target::File(file) = &mut self.target
            && let Err(error) = file.rotate()
        {
            self.failed(error)?;
        }
        Ok(())
    }

    fn end(&mut self, last: &Event, missing: u64) -> io::Result<()> {
        self.lost += missing;
        if self.lost == 0 {
            return Ok(());
        }
        let mut dropped = self.dropped_before(last);
        dropped.seq = last.seq;
        let lost = std::mem::take(&mut self.lost);
        self.append(Batch {
            text: line(&dropped),
            events: 0,
            reported: lost,
        })?;
        self.say(format!("{}: {lost} events at its end are missing", self.name));
        Ok(())
    }

    /// What can't be written is lost as a whole, and reported before the next event.
    fn append(&mut self, batch: Batch) -> io::Result<()> {
        if batch.text.is_empty() {
            return Ok(());
        }
        self.needs_reader.store(self.target.needs_reader(), Ordering::Relaxed);
        let outcome = self.target.append(&batch.text);
        self.needs_reader.store(self.target.needs_reader(), Ordering::Relaxed);
        if let Err(error) = outcome {
            self.lost += batch.events + batch.reported;
            return self.failed(error);
        }
        if std::mem::take(&mut self.failing) {
            self.say(format!(
                "{}: is written again; {} events are missing",
                self.name, batch.reported
            ));
        }
        Ok(())
    }

    /// Reports the first failure of a row.
    fn failed(&mut self, error: io::Error) -> io::Result<()> {
        if self.target.is_over(&error) {
            return Err(error);
        }
        if !std::mem::replace(&mut self.failing, true) {
            self.say(format!(
                "{}: {error}; events are dropped and counted until it can be written again",
                self.name
            ));
        }
        Ok(())
    }

    fn say(&self, trouble: String) {
        // Nothing listens any more once `finish` has stopped waiting.
        let _ = self.report.send(trouble);
    }

    /// What stands where events are missing before this one.
    fn dropped_before(&self, next: &Event) -> Event {
        let why = format!("{} could not take them in time", self.name);
        Event::dropped_before(next, self.lost, &why)
    }
}

/// The event as a line of its own.
fn line(event: &Event) -> Vec<u8> {
    let line = serde_json::to_string(event).expect("an event is strings and numbers: it has a JSON form");
    // stdout may be a terminal.
    let mut line = text::visible_json(line).into_bytes();
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

    fn event(seq: u64) -> Arc<Event> {
        let mut event = Event::new(
            seq,
            SystemTime::UNIX_EPOCH,
            EventKind::WorkerReady,
            "demo",
            RunId::from_u128(1),
        );
        event.facts = Facts::default().with_message("x".repeat(1 << 10));
        Arc::new(event)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn stream(stream: UnixStream) -> Journal {
        Journal::new("the test", Target::Stream(Box::new(stream)), 4).unwrap()
    }

    /// Writes until something is reported.
    fn first_trouble(journal: &mut Journal) -> String {
        let deadline = soon();
        loop {
            journal.write(&event(1));
            if let Some(trouble) = journal.troubles().pop() {
                return trouble;
            }
            assert!(Instant::now() < deadline, "nothing was reported");
        }
    }

    /// Every number is there, or counted in its place.
    fn assert_complete<'l>(lines: impl Iterator<Item = &'l str>, total: u64) {
        let mut next = 1;
        for read in lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
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
    fn what_a_slow_reader_misses_is_counted_where_it_is_missing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut journal = stream(ours);
        let total = 2_000;
        for seq in 1..=total {
            // Some are lost on their way here.
            match seq % 100 {
                0 => journal.miss(1),
                _ => journal.write(&event(seq)),
            }
        }
        assert!(journal.missing > 0, "the reader has read nothing yet");
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(theirs).lines();
            lines.map(Result::unwrap).collect::<Vec<_>>()
        });
        journal.finish(Some(&event(total)), soon());
        assert_complete(reader.join().unwrap().iter().map(String::as_str), total);
    }

    #[test]
    fn a_reader_that_is_gone_is_reported_once_and_delays_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut journal = stream(ours);
        let trouble = first_trouble(&mut journal);
        assert!(trouble.starts_with("the test: Broken pipe"), "{trouble}");
        journal.write(&event(2));
        assert_eq!(journal.finish(Some(&event(2)), soon()), [""; 0]);
    }

    #[test]
    fn a_full_disk_is_reported_once() {
        let mut journal = Journal::open(Path::new("/dev/full")).unwrap();
        let trouble = first_trouble(&mut journal);
        assert!(trouble.contains("No space left on device"), "{trouble}");
        journal.write(&event(2));
        let rest = journal.finish(Some(&event(2)), soon());
        assert!(!rest.concat().contains("No space"), "{rest:?}");
        assert!(rest.concat().contains("at its end are missing"), "{rest:?}");
    }

    /// A directory that is gone and comes back is a disk that was full and is not any more.
    #[test]
    fn events_go_on_with_a_count_when_the_file_can_be_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, away) = (folder.path().join("logs"), folder.path().join("away"));
        std::fs::create_dir(&inside).unwrap();
        let path = inside.join("events");
        let mut journal = Journal::open(&path).unwrap();
        std::fs::rename(&inside, &away).unwrap();
        let mut seq = 0;
        let mut write_until = |journal: &mut Journal, part: &str| {
            let deadline = soon();
            loop {
                seq += 1;
                journal.write(&event(seq));
                if let Some(trouble) = journal.troubles().into_iter().find(|trouble| trouble.contains(part)) {
                    return (seq, trouble);
                }
                assert!(Instant::now() < deadline, "{part} was not reported");
            }
        };
        write_until(&mut journal, "events are dropped and counted");
        std::fs::create_dir(&inside).unwrap();
        let (mut total, _) = write_until(&mut journal, "is written again");
        // This test writes as fast as it can, and the queue may be full. The last event is in it.
        while journal.missing > 0 {
            total += 1;
            journal.write(&event(total));
        }
        assert_eq!(journal.finish(Some(&event(total)), soon()), [""; 0]);
        let [before, after] = [away.join("events"), path].map(|path| std::fs::read_to_string(path).unwrap());
        assert_complete(before.lines().chain(after.lines()), total);
        assert!(after.lines().next().unwrap().contains("events.dropped"), "{after}");
    }

    #[test]
    fn a_fifo_without_a_reader_is_reported_and_the_end_does_not_wait_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.troubles().concat().contains("nothing reads this FIFO yet"));
        journal.write(&event(1));
        let begun = Instant::now();
        let troubles = journal.finish(Some(&event(1)), begun + Duration::from_secs(60));
        assert!(troubles.concat().contains("nothing reads this FIFO"), "{troubles:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
