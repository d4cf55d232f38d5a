//! A worker's pipes: requests go out as they come, answers find their callers by id.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::exchange::{Exchange, Outlet};
use super::framing::Framing;
use super::functions::Functions;
use super::reading;
use super::request::{StdioAnswer, StdioRequest};
use crate::adapter::{Attempt, Fault};
use crate::error::BoxError;
use crate::pool::lock;
use crate::worker::Worker;

/// The pipes of one worker.
#[derive(Debug)]
pub struct StdioConnection<F: Framing> {
    exchange: Arc<Exchange<F>>,
    ids: AtomicU64,
    tasks: [AbortHandle; 2],
}

impl<F: Framing> StdioConnection<F> {
    /// Takes the worker's pipes.
    pub(super) fn open(worker: &Worker, functions: &Functions) -> Result<Self, BoxError> {
        let stdio = worker
            .stdio()
            .ok_or("the pool's workers have no stdin to write to; set stdin = \"pipe\"")?;
        let pipes = stdio.take()?;
        let (stdin, stdout) = pipes.ok_or("its stdin and stdout are used by another client, or were lost")?;
        let stdin = Arc::new(Stdin::of(stdin)?);
        let exchange = Arc::new(Exchange::new(Arc::clone(&stdin) as _, functions.clone()));
        // A worker says hello before it is ready, so its hello is here, and the first request can
        // use what it offers.
        let begun = reading::what_is_here(&stdout, &exchange)?;
        let receiver = pipe::Receiver::from_owned_fd(stdout)?;
        let reads = tokio::spawn(reading::read(receiver, begun, Arc::clone(&exchange)));
        let writes = tokio::spawn(async move { stdin.write_backlog().await });
        Ok(Self {
            exchange,
            ids: AtomicU64::new(1),
            tasks: [reads.abort_handle(), writes.abort_handle()],
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.exchange.is_open()
    }

    pub(super) async fn call(
        &self,
        request: StdioRequest,
        attempt: &Attempt,
    ) -> Result<StdioAnswer, Fault<StdioRequest>> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let frame = self.exchange.request(id, &request, attempt)?;
        self.exchange.call((id, frame), request, attempt).await
    }
}

impl<F: Framing> StdioConnection<F> {
    /// The worker's answer to a `ping`.
    pub(super) async fn ping(&self) -> Result<Vec<u8>, BoxError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.exchange.ping(id).await
    }
}

impl<F: Framing> Drop for StdioConnection<F> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A worker's stdin. It is tried first by the call itself: as a rule, that is all.
#[derive(Debug)]
struct Stdin {
    pipe: pipe::Sender,
    /// What is not written yet.
    backlog: Mutex<VecDeque<u8>>,
    more: Notify,
}

impl Outlet for Stdin {
    /// Leaves what the pipe does not take to the writing task.
    fn write(&self, frame: Vec<u8>) -> io::Result<()> {
        let mut backlog = lock(&self.backlog);
        let mut written = 0;
        while backlog.is_empty() && written < frame.len() {
            match self.pipe.try_write(&frame[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if written < frame.len() {
            backlog.extend(&frame[written..]);
            self.more.notify_one();
        }
        Ok(())
    }
}

impl Stdin {
    fn of(stdin: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: pipe::Sender::from_owned_fd(stdin)?,
            backlog: Mutex::default(),
            more: Notify::new(),
        })
    }

    /// Writes of the backlog what the pipe takes now. True: nothing is left.
    fn flush(&self) -> io::Result<bool> {
        let mut backlog = lock(&self.backlog);
        loop {
            let (front, _) = backlog.as_slices();
            if front.is_empty() {
                return Ok(true);
            }
            match self.pipe.try_write(front) {
                Ok(count) => drop(backlog.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    async fn write_backlog(&self) {
        loop {
            match self.flush() {
                Ok(true) => self.more.notified().await,
                Ok(false) => {
                    if self.pipe.writable().await.is_err() {
                        return;
                    }
                }
                // The worker has closed its stdin, or has ended: the reading task will see which.
                Err(_) => return,
            }
        }
    }
}
