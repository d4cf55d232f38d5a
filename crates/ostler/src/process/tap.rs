//! A worker's output for those who read it as it comes: the lines that are kept, then the new ones.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{Stream, StreamExt};
use ostler_core::ids::Incarnation;
use ostler_os::output::Capture;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

/// How many lines a reader of a worker's output may be behind before it loses the oldest: 1,024.
pub const OUTPUT_BUFFER: usize = 1_024;

/// A line of a worker's output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputLine {
    /// The process that wrote it.
    pub incarnation: Incarnation,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// Without its line ending, with U+FFFD in place of invalid UTF-8, otherwise unchanged: control
    /// characters are in it. A line longer than the ring is cut.
    pub text: String,
}

/// What a reader of a worker's output gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputItem {
    /// A line.
    Line(OutputLine),
    /// The reader was too slow, and has lost this many lines.
    Lagged(u64),
}

/// The output of a worker, from [`Worker::output`](crate::Worker::output).
///
/// A reader that falls more than [`OUTPUT_BUFFER`] lines behind gets [`OutputItem::Lagged`] in the
/// place of those that it has lost. It never slows the worker down.
pub struct WorkerOutput {
    kept: VecDeque<OutputLine>,
    live: BroadcastStream<OutputLine>,
    /// Ready when no further line comes.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl WorkerOutput {
    /// The next line; `None` when the worker's slot is gone, or its pool has ended, and every line
    /// has been read. Cancel safe.
    pub async fn recv(&mut self) -> Option<OutputItem> {
        self.next().await
    }
}

impl Stream for WorkerOutput {
    type Item = OutputItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OutputItem>> {
        if let Some(line) = self.kept.pop_front() {
            return Poll::Ready(Some(OutputItem::Line(line)));
        }
        match Pin::new(&mut self.live).poll_next(context) {
            Poll::Ready(Some(Ok(line))) => Poll::Ready(Some(OutputItem::Line(line))),
            Poll::Ready(Some(Err(BroadcastStreamRecvError::Lagged(lines)))) => {
                Poll::Ready(Some(OutputItem::Lagged(lines)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.over.as_mut().poll(context).map(|()| None),
        }
    }
}

impl std::fmt::Debug for WorkerOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerOutput")
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

/// Where the output of a slot's workers can be read.
#[derive(Default)]
pub(crate) struct Tap {
    /// Made for the first reader: it has room for every line that a reader may be behind.
    lines: OnceLock<broadcast::Sender<OutputLine>>,
    /// Output of the latest process, or of the one before until the latest has some.
    captured: Mutex<Captured>,
}

#[derive(Default)]
struct Captured {
    incarnation: Option<Incarnation>,
    stdout: Option<Capture>,
    stderr: Option<Capture>,
}

impl Tap {
    /// A process is about to write to these.
    pub(super) fn attach(&self, incarnation: Incarnation, stdout: Option<Capture>, stderr: Option<Capture>) {
        *self.captured() = Captured {
            incarnation: Some(incarnation),
            stdout,
            stderr,
        };
    }

    /// A line was written.
    pub(super) fn line(&self, incarnation: Incarnation, stream: &'static str, text: &str) {
        if let Some(lines) = self.lines.get().filter(|lines| lines.receiver_count() > 0) {
            let line = OutputLine {
                incarnation,
                stream,
                text: text.to_owned(),
            };
            // The last reader may have gone meanwhile.
            let _ = lines.send(line);
        }
    }

    /// The last lines of the latest process's stderr, for display.
    pub(crate) fn stderr_tail(&self, lines: usize) -> Vec<String> {
        let stderr = self.captured().stderr.clone();
        stderr.map_or_else(Vec::new, |stderr| stderr.tail(lines))
    }

    /// The lines that are kept, then those that come, until `over`.
    pub(crate) fn read(&self, over: impl Future<Output = ()> + Send + 'static) -> WorkerOutput {
        let captured = self.captured();
        let sender = self.lines.get_or_init(|| broadcast::channel(OUTPUT_BUFFER).0);
        // No line of either stream comes between the copies and the subscription.
        let subscribe = || sender.subscribe();
        let (stdout, (stderr, live)) = with_kept(captured.stdout.as_ref(), || {
            with_kept(captured.stderr.as_ref(), subscribe)
        });
        let incarnation = captured.incarnation.unwrap_or(Incarnation(1));
        let of = |stream, lines: Vec<String>| {
            lines.into_iter().map(move |text| OutputLine {
                incarnation,
                stream,
                text,
            })
        };
        WorkerOutput {
            kept: of("stdout", stdout).chain(of("stderr", stderr)).collect(),
            live: BroadcastStream::new(live),
            over: Box::pin(over),
        }
    }

    fn captured(&self) -> MutexGuard<'_, Captured> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_kept<T>(capture: Option<&Capture>, then: impl FnOnce() -> T) -> (Vec<String>, T) {
    match capture {
        Some(capture) => capture.lines_and(then),
        None => (Vec::new(), then()),
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").finish_non_exhaustive()
    }
}
