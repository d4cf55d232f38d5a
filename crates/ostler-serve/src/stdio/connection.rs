//! A worker's pipes: requests go out as they come, answers find their callers by id.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::StdioRequest;
use super::framing::{Framing, Split};
use super::message::{Field, Head};
use crate::adapter::{Attempt, Fault};
use crate::pool::lock;
use crate::worker::Worker;

/// The version of the protocol that is spoken here.
const PROTOCOL: u64 = 1;

/// How a call ends.
type End = Result<Vec<u8>, Closed>;

/// Why a connection is over.
#[derive(Debug, Clone)]
enum Closed {
    /// The pipe ended, between two frames.
    Ended(String),
    /// What came is not the protocol.
    Broken(String),
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct StdioConnection<F> {
    shared: Arc<Shared>,
    ids: AtomicU64,
    tasks: [AbortHandle; 2],
    framing: PhantomData<fn() -> F>,
}

/// What calls and the two tasks share.
#[derive(Debug)]
struct Shared {
    writing: Mutex<Writing>,
    more: Notify,
    pending: Mutex<Pending>,
}

/// What is not written yet. The pipe is tried first by the call itself: as a rule, that is all.
#[derive(Debug)]
struct Writing {
    pipe: Arc<pipe::Sender>,
    backlog: VecDeque<u8>,
}

#[derive(Debug, Default)]
struct Pending {
    calls: HashMap<u64, oneshot::Sender<End>>,
    closed: Option<Closed>,
}

impl<F: Framing> StdioConnection<F> {
    /// Takes the worker's pipes.
    pub(super) fn open(worker: &Worker) -> Result<Self, String> {
        let stdio = worker
            .stdio()
            .ok_or("the pool's workers have no stdin to write to; set stdin = \"pipe\"")?;
        let pipes = stdio.take().map_err(|error| error.to_string())?;
        let (stdin, stdout) = pipes.ok_or("its stdin and stdout are used by another client, or were lost")?;
        let sender = pipe::Sender::from_owned_fd(stdin).map_err(|error| error.to_string())?;
        let receiver = pipe::Receiver::from_owned_fd(stdout).map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared {
            writing: Mutex::new(Writing {
                pipe: Arc::new(sender),
                backlog: VecDeque::new(),
            }),
            more: Notify::new(),
            pending: Mutex::default(),
        });
        let reads = tokio::spawn(read::<F>(receiver, Arc::clone(&shared)));
        let writes = tokio::spawn(write(Arc::clone(&shared)));
        Ok(Self {
            shared,
            ids: AtomicU64::new(1),
            tasks: [reads.abort_handle(), writes.abort_handle()],
            framing: PhantomData,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.shared.pending).closed.is_none()
    }

    pub(super) async fn call(&self, request: StdioRequest, attempt: &Attempt) -> Result<Vec<u8>, Fault<StdioRequest>> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut pending = lock(&self.shared.pending);
            if let Some(Closed::Ended(why) | Closed::Broken(why)) = pending.closed.clone() {
                return Err(Fault::NotSent { request, why });
            }
            pending.calls.insert(id, sender);
        }
        let call = Call::<F> { connection: self, id };
        attempt.sending();
        let frame = request_frame::<F>(id, &request, attempt);
        let end = match self.shared.write(&frame) {
            // An error of the pipe: the reading task has, or will have, a better reason.
            Ok(()) | Err(_) => receiver.await,
        };
        call.end();
        let frame = match end {
            Ok(Ok(frame)) => frame,
            Ok(Err(Closed::Ended(why))) => return Err(Fault::Lost(why)),
            Ok(Err(Closed::Broken(why))) => return Err(Fault::BadAnswer(why)),
            Err(_) => return Err(Fault::Lost("the connection was dropped".into())),
        };
        match F::head(&frame).ok().and_then(|head| head.error) {
            // The handler did not run, and another worker may take it.
            Some(error) if matches!(error.code.as_str(), "draining" | "busy") => Err(Fault::NotSent {
                request,
                why: format!("{}: {}", error.code, error.message),
            }),
            _ => Ok(frame),
        }
    }
}

impl<F> Drop for StdioConnection<F> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A call that waits for its answer. Dropped before, it is cancelled.
struct Call<'a, F: Framing> {
    connection: &'a StdioConnection<F>,
    id: u64,
}

impl<F: Framing> Call<'_, F> {
    fn end(self) {
        std::mem::forget(self);
    }
}

impl<F: Framing> Drop for Call<'_, F> {
    fn drop(&mut self) {
        let waited = lock(&self.connection.shared.pending).calls.remove(&self.id);
        if waited.is_some() {
            let fields = [("type", Field::Text("cancel")), ("id", Field::Number(self.id))];
            // A pipe that is gone needs no cancel.
            let _ = self.connection.shared.write(&F::frame(&fields));
        }
    }
}

fn request_frame<F: Framing>(id: u64, request: &StdioRequest, attempt: &Attempt) -> Vec<u8> {
    let mut fields = vec![("type", Field::Text("request")), ("id", Field::Number(id))];
    if let Some(method) = &request.method {
        fields.push(("method", Field::Text(method)));
    }
    if let Some(deadline) = attempt.deadline() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        fields.push(("deadline_ms", Field::Number(left)));
    }
    if let Some(session) = attempt.session() {
        fields.push(("session", Field::Text(session)));
    }
    if let Some((parent, state)) = attempt.trace() {
        fields.push(("traceparent", Field::Text(parent)));
        fields.extend(state.map(|state| ("tracestate", Field::Text(state))));
    }
    fields.push(("body", Field::Encoded(&request.body)));
    F::frame(&fields)
}

impl Shared {
    /// Writes a frame, or leaves what the pipe does not take to the writing task. A frame is never
    /// cut off, whatever becomes of its call.
    fn write(&self, frame: &[u8]) -> io::Result<()> {
        let mut writing = lock(&self.writing);
        let mut written = 0;
        while writing.backlog.is_empty() && written < frame.len() {
            match writing.pipe.try_write(&frame[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if written < frame.len() {
            writing.backlog.extend(&frame[written..]);
            self.more.notify_one();
        }
        Ok(())
    }

    /// Writes of the backlog what the pipe takes now. True: nothing is left.
    fn flush(&self) -> io::Result<bool> {
        let mut writing = lock(&self.writing);
        loop {
            let (front, _) = writing.backlog.as_slices();
            if front.is_empty() {
                return Ok(true);
            }
            match writing.pipe.try_write(front) {
                Ok(count) => drop(writing.backlog.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn close(&self, why: &Closed) {
        let calls = {
            let mut pending = lock(&self.pending);
            pending.closed.get_or_insert_with(|| why.clone());
            std::mem::take(&mut pending.calls)
        };
        for call in calls.into_values() {
            drop(call.send(Err(why.clone())));
        }
    }
}

async fn write(shared: Arc<Shared>) {
    let pipe = Arc::clone(&lock(&shared.writing).pipe);
    loop {
        match shared.flush() {
            Ok(true) => shared.more.notified().await,
            Ok(false) => {
                if pipe.writable().await.is_err() {
                    return;
                }
            }
            // The worker has closed its stdin, or has ended: the reading task will see which.
            Err(_) => return,
        }
    }
}

async fn read<F: Framing>(mut pipe: pipe::Receiver, shared: Arc<Shared>) {
    let mut bytes = Vec::with_capacity(16 * 1024);
    let why = loop {
        match pipe.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => break Closed::Ended("the worker closed its stdout".into()),
            Ok(0) => {
                break Closed::Broken(format!(
                    "its stdout ended within a frame, after {} bytes of it",
                    bytes.len()
                ));
            }
            Ok(_) => {
                if let Err(why) = hand_out::<F>(&mut bytes, &shared) {
                    break Closed::Broken(why);
                }
            }
            Err(error) => break Closed::Ended(format!("its stdout can't be read: {error}")),
        }
    };
    shared.close(&why);
}

/// Gives each whole frame to the call that it answers.
fn hand_out<F: Framing>(bytes: &mut Vec<u8>, shared: &Shared) -> Result<(), String> {
    let mut at = 0;
    loop {
        match F::split(&bytes[at..]) {
            Split::More => break,
            Split::Broken(why) => return Err(why),
            Split::Frame { begin, end, taken } => {
                answer(
                    &bytes[at + begin..at + end],
                    F::head(&bytes[at + begin..at + end])?,
                    shared,
                )?;
                at += taken;
            }
        }
    }
    bytes.drain(..at);
    Ok(())
}

fn answer(frame: &[u8], head: Head, shared: &Shared) -> Result<(), String> {
    match (head.kind.as_deref(), head.id) {
        (Some("response") | None, Some(id)) => {
            // A call that was cancelled is not waited for any more.
            if let Some(call) = lock(&shared.pending).calls.remove(&id) {
                drop(call.send(Ok(frame.to_vec())));
            }
            Ok(())
        }
        (Some("response") | None, None) => Err("a response has no id".into()),
        (Some("hello"), _) => match head.protocol {
            None | Some(PROTOCOL) => Ok(()),
            Some(other) => Err(format!(
                "the worker speaks version {other} of the protocol, and this is version {PROTOCOL}; upgrade the older side"
            )),
        },
        (Some("item" | "end"), Some(id)) if lock(&shared.pending).calls.contains_key(&id) => {
            Err("the method answers with a stream, which this client does not read".into())
        }
        // Unknown messages are for other clients.
        (Some(_), _) => Ok(()),
    }
}
