//! A worker's output: always drained, of which the newest lines are kept.
//!
//! A pipe that nobody reads fills up (64 KiB) and stops its writer. So each stream has a task that reads all there is
//! at any time, whoever listens. It keeps a bounded ring and calls a hook for each line, in place, so that no line is
//! missed; nobody else can slow it. The buffer that it reads into belongs to the runtime's thread, not to the worker.
//!
//! The end of a worker is not the end of its output: a process that it left behind may hold the pipe open for ever. So
//! nobody waits for the pipe's end. What is in it when the exit is seen is read ([`Capture::drain_after_exit`]), then
//! it is drained as before until its owner closes it ([`Capture::close`]).

mod lines;
mod ring;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use lines::Lines;
use ring::Ring;

/// How much one read takes: as much as a pipe holds.
const READ_SIZE: usize = 64 * 1024;

/// How much is read before other tasks get their turn. A hook that logs short lines makes even this milliseconds.
const TURN: usize = READ_SIZE;

/// The most that is read after an exit or at the close, when somebody goes on writing.
const LAST_WORDS: usize = 1024 * 1024;

/// The longest that a drain after an exit takes, likewise.
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// A line in a failure is cut here, in bytes.
const SHOWN_LINE: usize = 1024;

thread_local! {
    /// One a thread, so that a thousand silent workers cost no buffers.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into_boxed_slice());
}

/// A pipe for a worker's output: (read end, write end), both close-on-exec. Only the read end is non-blocking: the
/// worker's end must behave as any program expects.
///
/// # Errors
/// What pipe2(2) or fcntl(2) says, as a rule that no descriptor is left.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&read, fcntl_getfl(&read)? | OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Called for each line.
pub type OnLine = Box<dyn FnMut(&str) + Send>;

/// How a stream is captured.
pub struct CaptureOptions {
    /// How many bytes of the newest lines are kept. Default 64 KiB; 0 keeps none. A line that is longer by itself is
    /// cut and counted.
    pub ring: usize,
    /// Called for each line as it ends, without its line end, with U+FFFD for what is not UTF-8, otherwise as the
    /// worker wrote it. It runs in the task that drains the stream, so it must not block, and must not call
    /// [`Capture::close`] or [`Capture::drain_after_exit`] of the same stream. A line is cut at the size of the ring,
    /// or at 4 KiB where the ring is smaller. If it panics, it is not called again. Default: none.
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

/// A stream that is being drained. A cheap handle: the clones are the same capture. When the last is dropped, draining
/// ends and the pipe is closed, so its writer gets EPIPE.
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

/// What task and handles share.
struct Stream {
    /// The task owns the pipe, so that it is closed when the task ends, however that comes about.
    pipe: Weak<AsyncFd<OwnedFd>>,
    /// Held from a read until its bytes are in the ring: whoever reads, their order stays.
    lines: Mutex<Lines>,
    ring: Mutex<Ring>,
    bytes: AtomicU64,
}

/// What one read found.
enum Pumped {
    Some(usize),
    Empty,
    Ended,
}

impl Capture {
    /// Drains this end of a pipe from now on. The descriptor must be non-blocking, as [`pipe`] makes it. Must be called
    /// within a tokio runtime; when that ends, draining ends.
    ///
    /// # Errors
    /// The reactor can't watch the descriptor (epoll_ctl(2): no memory, or no watch left).
    pub fn start(read: OwnedFd, options: CaptureOptions) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is one open descriptor for all its life, and ends with the `AsyncFd` that owns it.
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

    /// The newest lines, oldest first, at most so many. For people: control characters are escaped, each line is cut
    /// at 1 KiB, and what is not UTF-8 is U+FFFD. An unfinished last line counts.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let mut ring = lock(&self.owner.stream.ring);
        let mut tail: Vec<String> = ring
            .newest(lines)
            .map(|line| lines::harmless(line, SHOWN_LINE))
            .collect();
        tail.reverse();
        tail
    }

    /// Lines that were dropped from the ring, the newer ones having taken their room.
    pub fn dropped(&self) -> u64 {
        lock(&self.owner.stream.ring).dropped()
    }

    /// Lines that were longer than the ring and lost their end.
    pub fn cut(&self) -> u64 {
        lock(&self.owner.stream.ring).cut()
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.owner.stream.bytes.load(Ordering::Relaxed)
    }

    /// Call it when the worker's exit has been seen, and before its tail is read: reads what is in the pipe now, at
    /// most 1 MiB and for at most 100 ms, without waiting for the pipe's end. Draining goes on then as before.
    /// Cancel-safe.
    pub async fn drain_after_exit(&self) {
        let stream = &self.owner.stream;
        let Some(pipe) = stream.pipe.upgrade() else { return };
        let start = Instant::now();
        let mut read = 0;
        while read < LAST_WORDS && start.elapsed() < DRAIN_TIME {
            match stream.pump(pipe.as_fd()) {
                Pumped::Some(count) => read += count,
                Pumped::Empty | Pumped::Ended => return,
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Reads what is in the pipe now, at most 1 MiB, gives an unfinished last line to the hook, and ends the draining:
    /// the descriptor is closed as soon as the runtime gets to it. What was captured stays. Never waits; a second call
    /// does nothing.
    pub fn close(&self) {
        let stream = &self.owner.stream;
        if let Some(pipe) = stream.pipe.upgrade() {
            let mut read = 0;
            while read < LAST_WORDS
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
                    tracing::warn!(%error, "a worker's output can't be read any more");
                    lines.finish();
                    Pumped::Ended
                }
            }
        })
    }
}

/// Reads all there is, for as long as there is somebody who may write.
async fn drain(pipe: Arc<AsyncFd<OwnedFd>>, stream: Arc<Stream>) {
    // An error means that the runtime is being shut down.
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

/// The hook's panics are caught, so nothing is left half done under a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
