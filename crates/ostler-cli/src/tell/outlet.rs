//! A writer on a thread of its own, behind a bounded queue: a reader that is slow, stuck or gone costs its own lines,
//! never the run.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How many pieces wait for a slow reader before the next is dropped.
pub(crate) const QUEUE: usize = 8_192;

/// The sending end.
#[derive(Debug)]
pub(crate) struct Outlet {
    queue: SyncSender<Vec<u8>>,
    /// Says how the writing ended: at the first error, or when everything is written.
    ended: Receiver<io::Result<()>>,
}

/// How the writing ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Everything is written.
    Written,
    /// It failed; nothing more was written after that.
    Failed(io::Error),
    /// Its reader did not take it in time.
    Stuck,
}

impl Outlet {
    /// Writes to `sink` from now on, at most `queue` pieces behind.
    pub(crate) fn new(name: &str, sink: impl Write + Send + 'static, queue: usize) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(queue);
        let (tell, ended) = channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let outcome = write_all(sink, pieces);
            // Nobody waits for it any more when this fails.
            let _ = tell.send(outcome);
        })?;
        Ok(Self { queue: sender, ended })
    }

    /// Has these bytes written, all of them or none. `false`: the queue is full, or the writing has failed.
    pub(crate) fn offer(&self, bytes: Vec<u8>) -> bool {
        match self.queue.try_send(bytes) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// The error that ended the writing, told once.
    pub(crate) fn error(&self) -> Option<io::Error> {
        match self.ended.try_recv() {
            Ok(Err(error)) => Some(error),
            _ => None,
        }
    }

    /// The same as [`Outlet::offer`], but waits for room until `deadline`. For the very last words only.
    pub(crate) fn insist(&self, mut bytes: Vec<u8>, deadline: Instant) -> bool {
        loop {
            match self.queue.try_send(bytes) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(back)) => bytes = back,
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// No more comes; waits until all is written, or until `deadline`.
    pub(crate) fn finish(self, deadline: Instant) -> Ending {
        drop(self.queue);
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

/// Each piece is written and flushed by itself. The first error ends it: half a line is worth nothing, and its reader is
/// gone. The queue is closed before the outcome is told, so that nothing is taken after that.
fn write_all(mut sink: impl Write, pieces: Receiver<Vec<u8>>) -> io::Result<()> {
    while let Ok(piece) = pieces.recv() {
        sink.write_all(&piece)?;
        sink.flush()?;
    }
    Ok(())
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
        let outlet = Outlet::new("test", page.clone(), QUEUE).unwrap();
        for n in 0..100 {
            assert!(outlet.offer(format!("{n}\n").into_bytes()));
        }
        assert!(matches!(outlet.finish(soon()), Ending::Written));
        let wanted: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(*page.0.lock().unwrap(), wanted.into_bytes());
    }

    #[test]
    fn a_reader_that_takes_nothing_holds_up_nobody() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let outlet = Outlet::new("test", ours, 4).unwrap();
        let refused = (0..1_000).filter(|_| !outlet.offer(vec![b'x'; 64 << 10])).count();
        assert!(refused > 0);
        let now = Instant::now();
        assert!(matches!(outlet.finish(now + Duration::from_millis(50)), Ending::Stuck));
        assert!(now.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_reader_that_is_gone_is_told_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let outlet = Outlet::new("test", ours, 4).unwrap();
        assert!(outlet.offer(b"x".to_vec()));
        let deadline = soon();
        let error = loop {
            if let Some(error) = outlet.error() {
                break error;
            }
            assert!(Instant::now() < deadline, "no error was told");
            thread::yield_now();
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(outlet.error().is_none());
        assert!(!outlet.insist(b"y".to_vec(), soon()));
    }
}
