//! A worker's output: always drained, with the newest lines retained.
//!
//! A pipe that is not read fills up (64 KiB) and blocks its writer. Each stream therefore has a
//! task that reads everything at any time, whether or not there is a consumer. It keeps a bounded
//! ring and calls a hook synchronously for each line, so that no line is missed; nothing else can
//! slow it down. The read buffer belongs to the runtime's thread, not to the worker.
//!
//! A worker's exit does not end its output: a process that it left behind may hold the pipe open
//! indefinitely. Nothing therefore waits for the end of the pipe. What is in it when the exit is
//! observed is read ([`Capture::drain_after_exit`]); afterwards it is drained as before until its
//! owner closes it ([`Capture::close`]).

mod lines;
mod ring;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use lines::Lines;
use ring::Ring;

/// The size of a read: as much as a pipe holds.
const READ_SIZE: usize = 64 * 1024;

/// How much is read before yielding to other tasks. With a hook that logs short lines, even this
/// takes milliseconds.
const TURN: usize = READ_SIZE;

/// The maximum to read after an exit or at the close, if another process keeps writing.
const FINAL_READ: usize = 1024 * 1024;

/// The time limit for draining after an exit, for the same reason.
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// The maximum length of a line in a failure, in bytes.
const SHOWN_LINE: usize = 1024;

thread_local! {
    /// One per thread, so that a thousand silent workers need no buffers.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// Creates a pipe for a worker's output: (read end, write end), both close-on-exec. Only the read
/// end is non-blocking, because programs expect the worker's end to block.
///
/// # Errors
///
/// The error of pipe2(2) or fcntl(2), usually that no descriptor is left.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // The only flag of a fresh pipe's end that can be set this way.
    fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Called for each line.
pub type OnLine = Box<dyn FnMut(&str) + Send>;

/// The options of a capture.
pub struct CaptureOptions {
    /// The number of bytes retained of the newest lines. Default: 64 KiB; 0 retains nothing. A
    /// single line that is longer is cut and counted.
    pub ring: usize,
    /// Called for each line once it is complete, without its line ending, with U+FFFD in place of
    /// invalid UTF-8, and otherwise unchanged. It runs in the task that drains the stream, so it
    /// must not block, and must not call [`Capture::close`] or [`Capture::drain_after_exit`] of the
    /// same stream. It is dropped at the end of the stream. A line is cut at the size of the ring,
    /// or at 4 KiB if the ring is smaller. If the hook panics, it is not called again. Default:
    /// none.
    pub on_line: Option<OnLine>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            ring: 64 * 1024,
            on_line: None,
        }
    }
}

/// A stream that is being drained. Cheap to clone; clones are handles to the same capture. Dropping
/// the last one ends the draining and closes the pipe, so that the writer gets EPIPE.
#[derive(Clone)]
pub struct Capture {
    owner: Arc<Owner>,
}

/// Ends the task with the last handle.
struct Owner {
    stream: Arc<Stream>,
    task: AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state shared by task and handles.
struct Stream {
    /// The task owns the pipe, so it is closed when the task ends for any reason.
    pipe: Weak<AsyncFd<OwnedFd>>,
    /// Held from a read until its bytes are in the ring, so that their order is kept whichever task
    /// reads.
    lines: Mutex<Lines>,
    ring: Mutex<Ring>,
    bytes: AtomicU64,
}

/// The outcome of one read.
enum Pumped {
    Some(usize),
    Empty,
    Ended,
}

impl Capture {
    /// Starts draining this end of a pipe. The descriptor must be non-blocking, as created by
    /// [`pipe`]. Must be called within a tokio runtime; draining ends with the runtime.
    ///
    /// # Errors
    ///
    /// If the reactor cannot watch the descriptor (epoll_ctl(2): no memory, or no watch left).
    pub fn start(read: OwnedFd, options: CaptureOptions) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is one open descriptor for all its life, and ends with the `AsyncFd`
        // that owns it.
        let pipe = Arc::new(unsafe { AsyncFd::register_with_interest(read, Interest::READABLE) }?);
        let stream = Arc::new(Stream {
            pipe: Arc::downgrade(&pipe),
            lines: Mutex::new(Lines::new(options.ring, options.on_line)),
            ring: Mutex::new(Ring::new(options.ring)),
            bytes: AtomicU64::new(0),
        });
        let task = tokio::spawn(drain(pipe, Arc::clone(&stream))).abort_handle();
        Ok(Self {
            owner: Arc::new(Owner { stream, task }),
        })
    }

    /// The newest lines, oldest first, at most `lines` of them. For display: control characters are
    /// escaped, each line is cut at 1 KiB, and invalid UTF-8 is replaced by U+FFFD. An incomplete
    /// last line counts.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let mut ring = lock(&self.owner.stream.ring);
        let mut tail: Vec<String> = ring
            .newest(lines)
            .map(|line| lines::harmless(line, SHOWN_LINE))
            .collect();
        tail.reverse();
        tail
    }

    /// The complete lines that are kept, oldest first, and what `then` returns: no line reaches the
    /// hook in between. Lines have no line ending and U+FFFD in place of invalid UTF-8, and are
    /// otherwise unchanged. `then` must not use this capture.
    pub fn lines_and<T>(&self, then: impl FnOnce() -> T) -> (Vec<String>, T) {
        let stream = &self.owner.stream;
        // What reads the stream holds it until the hook has had every line that is in the ring.
        let _lines = lock(&stream.lines);
        let mut kept: Vec<String> = lock(&stream.ring)
            .complete()
            .map(|line| lines::lossy(line).into_owned())
            .collect();
        kept.reverse();
        (kept, then())
    }

    /// The number of lines dropped from the ring to make room for newer ones.
    pub fn dropped(&self) -> u64 {
        lock(&self.owner.stream.ring).dropped()
    }

    /// The number of lines that were longer than the ring and lost their end.
    pub fn cut(&self) -> u64 {
        lock(&self.owner.stream.ring).cut()
    }

    /// The number of bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.owner.stream.bytes.load(Ordering::Relaxed)
    }

    /// Reads what is in the pipe now, at most 1 MiB and for at most 100 ms, without waiting for the
    /// end of the pipe. Call it once the worker's exit has been observed, before reading the tail.
    /// Draining continues afterwards. Cancel safe.
    pub async fn drain_after_exit(&self) {
        let stream = &self.owner.stream;
        let Some(pipe) = stream.pipe.upgrade() else { return };
        let start = Instant::now();
        let mut read = 0;
        while read < FINAL_READ && start.elapsed() < DRAIN_TIME {
            match stream.pump(pipe.as_fd()) {
                Pumped::Some(count) => read += count,
                Pumped::Empty | Pumped::Ended => return,
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Reads what is in the pipe now, at most 1 MiB, passes an incomplete last line to the hook,
    /// and ends the draining: the descriptor is closed as soon as the runtime gets to it. What was
    /// captured is kept. Never waits; further calls do nothing.
    pub fn close(&self) {
        let stream = &self.owner.stream;
        if let Some(pipe) = stream.pipe.upgrade() {
            let mut read = 0;
            while read < FINAL_READ
                && let Pumped::Some(count) = stream.pump(pipe.as_fd())
            {
                read += count;
            }
            lock(&stream.lines).finish();
        }
        self.owner.task.abort();
    }
}

impl Stream {
    /// One read, without waiting.
    fn pump(&self, pipe: BorrowedFd<'_>) -> Pumped {
        BUFFER.with_borrow_mut(|buffer| {
            let mut lines = lock(&self.lines);
            match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut buffer[..])) {
                Ok(0) => {
                    lines.finish();
                    Pumped::Ended
                }
                Ok(count) => {
                    let bytes = &buffer[..count];
                    self.bytes.fetch_add(count as u64, Ordering::Relaxed);
                    lock(&self.ring).push(bytes);
                    lines.push(bytes);
                    Pumped::Some(count)
                }
                Err(Errno::AGAIN) => Pumped::Empty,
                Err(error) => {
                    tracing::warn!(target: "ostler", %error, "can no longer read a worker's output");
                    lines.finish();
                    Pumped::Ended
                }
            }
        })
    }
}

/// Reads everything for as long as the pipe has writers.
async fn drain(pipe: Arc<AsyncFd<OwnedFd>>, stream: Arc<Stream>) {
    // An error means that the runtime is shutting down.
    while let Ok(mut ready) = pipe.readable().await {
        let mut turn = 0;
        loop {
            match stream.pump(pipe.as_fd()) {
                Pumped::Some(count) => turn += count,
                Pumped::Empty => break ready.clear_ready(),
                Pumped::Ended => return,
            }
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The hook's panics are caught, so nothing is left inconsistent under a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
