//! A writer on its own thread, behind a bounded queue: a reader that is slow, stuck or gone loses
//! its own lines and never delays the run.
//!
//! The thread writes in batches. One that wakes up for each piece takes a processor away from the
//! workers that a burst is about.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How many pieces wait for a slow reader before the next one is dropped.
pub(crate) const QUEUE: usize = 8_192;

/// How many of them are written at once, at most.
const BATCH: usize = 256;

/// How long the first piece of a batch waits for others. Too short to notice, and a burst wakes the
/// thread once in this time.
const GATHER: Duration = Duration::from_millis(10);

/// How long a descriptor that someone else made non-blocking rests before the next attempt.
const FULL_PIPE: Duration = Duration::from_millis(5);

/// What the thread writes pieces to.
pub(crate) trait Sink<T>: Send + 'static {
    /// Writes these pieces, in their order. The first error ends the writing for good.
    fn write(&mut self, pieces: Vec<T>) -> io::Result<()>;
}

/// A stream of bytes, such as stderr.
#[derive(Debug)]
pub(crate) struct Stream<W>(pub(crate) W);

impl<W: Write + Send + 'static> Sink<Vec<u8>> for Stream<W> {
    fn write(&mut self, pieces: Vec<Vec<u8>>) -> io::Result<()> {
        write_whole(&mut self.0, &pieces.concat()).map_err(|(error, _)| error)
    }
}

/// Writes and flushes all of it, also to a descriptor that is non-blocking because it is shared
/// with a program that wants it so. An error comes with how many bytes were written before it.
pub(crate) fn write_whole(output: &mut dyn Write, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PIPE),
            Err(error) => return Err((error, written)),
        }
    }
    output.flush().map_err(|error| (error, written))
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    queue: SyncSender<T>,
    thread: Thread,
    /// Reports how the writing ended: at the first error, or when everything is written.
    ended: Receiver<io::Result<()>>,
}

/// How the writing ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Everything is written.
    Written,
    /// It failed; nothing was written after that.
    Failed(io::Error),
    /// The reader did not take it in time.
    Stuck,
}

impl<T: Send + 'static> Outlet<T> {
    /// Writes to `sink` from now on, at most `queue` pieces behind.
    pub(crate) fn new(name: &str, sink: impl Sink<T>, queue: usize) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(queue);
        let (report, ended) = channel();
        let writing = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let outcome = write_all(sink, pieces);
            // Fails when the outlet was dropped without `finish`.
            let _ = report.send(outcome);
        })?;
        Ok(Self {
            queue: sender,
            thread: writing.thread().clone(),
            ended,
        })
    }

    /// Queues this piece. `false`: the queue is full, or the writing has failed.
    pub(crate) fn offer(&self, piece: T) -> bool {
        match self.queue.try_send(piece) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// The error that ended the writing; `None` before and after.
    pub(crate) fn error(&self) -> Option<io::Error> {
        match self.ended.try_recv() {
            Ok(Err(error)) => Some(error),
            _ => None,
        }
    }

    /// Like [`Outlet::offer`], but waits for room until `deadline`. For the very last piece only.
    pub(crate) fn insist(&self, mut piece: T, deadline: Instant) -> bool {
        loop {
            match self.queue.try_send(piece) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(back)) => piece = back,
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes the queue, and waits until everything is written, at most until `deadline`.
    pub(crate) fn finish(self, deadline: Instant) -> Ending {
        drop(self.queue);
        // It may be gathering.
        self.thread.unpark();
        match self
            .ended
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(Ok(())) | Err(RecvTimeoutError::Disconnected) => Ending::Written,
            Ok(Err(error)) => Ending::Failed(error),
            Err(RecvTimeoutError::Timeout) => Ending::Stuck,
        }
    }
}

/// The queue is closed before the outcome is reported, so that nothing is accepted after that.
fn write_all<T>(mut sink: impl Sink<T>, pieces: Receiver<T>) -> io::Result<()> {
    let mut written = 0;
    while let Ok(first) = pieces.recv() {
        thread::park_timeout(gather_after(written));
        let mut batch = vec![first];
        batch.extend(pieces.try_iter().take(BATCH - 1));
        written = batch.len();
        sink.write(batch)?;
    }
    Ok(())
}

/// How long the next batch is gathered. After a full one more is waiting already, and the queue
/// would fill up.
fn gather_after(written: usize) -> Duration {
    if written < BATCH { GATHER } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn all_is_written_in_order() {
        let page = Page::default();
        let outlet = Outlet::new("test", Stream(page.clone()), QUEUE).unwrap();
        for n in 0..100 {
            assert!(outlet.offer(format!("{n}\n").into_bytes()));
        }
        assert!(matches!(outlet.finish(soon()), Ending::Written));
        let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(*page.0.lock().unwrap(), expected.into_bytes());
    }

    /// Counts the batches.
    struct Batches(Arc<Mutex<Vec<usize>>>);

    impl Sink<u8> for Batches {
        fn write(&mut self, pieces: Vec<u8>) -> io::Result<()> {
            self.0.lock().unwrap().push(pieces.len());
            Ok(())
        }
    }

    #[test]
    fn a_burst_is_written_in_batches() {
        let seen = Arc::default();
        let outlet = Outlet::new("test", Batches(Arc::clone(&seen)), QUEUE).unwrap();
        for _ in 0..2_000 {
            assert!(outlet.offer(0));
        }
        assert!(matches!(outlet.finish(soon()), Ending::Written));
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().sum::<usize>(), 2_000);
        assert!(seen.len() < 200, "{seen:?}");
        assert!(seen.iter().all(|batch| *batch <= BATCH), "{seen:?}");
    }

    #[test]
    fn a_queue_that_fills_up_is_not_waited_for() {
        assert_eq!(gather_after(0), GATHER);
        assert_eq!(gather_after(BATCH - 1), GATHER);
        assert_eq!(gather_after(BATCH), Duration::ZERO);
    }

    #[test]
    fn a_reader_that_takes_nothing_delays_nothing() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::new("test", Stream(ours), 4).unwrap();
        let refused = (0..1_000).filter(|_| !outlet.offer(vec![b'x'; 64 << 10])).count();
        assert!(refused > 0);
        let now = Instant::now();
        assert!(matches!(outlet.finish(now + Duration::from_millis(50)), Ending::Stuck));
        assert!(now.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_reader_that_is_gone_is_reported_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let outlet = Outlet::new("test", Stream(ours), 4).unwrap();
        assert!(outlet.offer(b"x".to_vec()));
        let deadline = soon();
        let error = loop {
            if let Some(error) = outlet.error() {
                break error;
            }
            assert!(Instant::now() < deadline, "no error was reported");
            thread::yield_now();
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(outlet.error().is_none());
        assert!(!outlet.insist(b"y".to_vec(), soon()));
    }

    #[test]
    fn a_descriptor_that_is_non_blocking_is_written_to_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let outlet = Outlet::new("test", Stream(ours), 4).unwrap();
        // More than a socket's buffer holds.
        assert!(outlet.offer(vec![b'x'; 4 << 20]));
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            io::Read::read_to_end(&mut theirs, &mut all).map(|_| all.len())
        });
        assert!(matches!(outlet.finish(soon()), Ending::Written));
        assert_eq!(reader.join().unwrap().unwrap(), 4 << 20);
    }
}
