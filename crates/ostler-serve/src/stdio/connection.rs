//! A worker's pipes: requests go out as they come, answers find their callers by id.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use ostler_core::chain::chain;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::framing::{Framing, MAX_FRAME};
use super::functions::Functions;
use super::large::SHARED_MIN;
use super::message::{Field, Head};
use super::reading;
use super::request::{Encoded, Input, Lending, StdioAnswer, StdioRequest};
use super::routes::{Closed, Delivery, Feed, Received, Route, Routes, To};
use super::stream::Items;
use crate::adapter::{Attempt, Fault};
use crate::error::BoxError;
use crate::pool::lock;
use crate::worker::Worker;

/// The version of the protocol that is spoken here.
pub(super) const PROTOCOL: u64 = 1;

/// Items of one stream that may be on their way to their reader.
const WINDOW: u64 = 16;

/// A worker that enforces deadlines itself is given this share less, at most
/// [`LONGEST_HEAD_START`], so that its own error arrives before the call is given up and the worker
/// with it.
const HEAD_START: u32 = 10;
const LONGEST_HEAD_START: Duration = Duration::from_millis(50);

/// The pipes of one worker.
#[derive(Debug)]
pub struct StdioConnection<F: Framing> {
    shared: Arc<Shared<F>>,
    ids: AtomicU64,
    tasks: [AbortHandle; 2],
}

/// What calls and tasks share.
#[derive(Debug)]
pub(super) struct Shared<F> {
    writing: Mutex<Writing>,
    more: Notify,
    routes: Mutex<Routes>,
    peer: OnceLock<Peer>,
    pub(super) functions: Functions,
    framing: PhantomData<fn() -> F>,
}

/// What the worker has said about itself in its `hello`.
#[derive(Debug)]
struct Peer {
    shares_memory: bool,
    gives_credit: bool,
    max_frame: usize,
}

/// What is not written yet. The pipe is tried first by the call itself: as a rule, that is all.
#[derive(Debug)]
struct Writing {
    pipe: Arc<pipe::Sender>,
    backlog: VecDeque<u8>,
}

impl<F: Framing> StdioConnection<F> {
    /// Takes the worker's pipes.
    pub(super) fn open(worker: &Worker, functions: &Functions) -> Result<Self, BoxError> {
        let stdio = worker
            .stdio()
            .ok_or("the pool's workers have no stdin to write to; set stdin = \"pipe\"")?;
        let pipes = stdio.take()?;
        let (stdin, stdout) = pipes.ok_or("its stdin and stdout are used by another client, or were lost")?;
        let sender = pipe::Sender::from_owned_fd(stdin)?;
        let shared = Arc::new(Shared {
            writing: Mutex::new(Writing {
                pipe: Arc::new(sender),
                backlog: VecDeque::new(),
            }),
            more: Notify::new(),
            routes: Mutex::default(),
            peer: OnceLock::new(),
            functions: functions.clone(),
            framing: PhantomData,
        });
        // A worker says hello before it is ready, so its hello is here, and the first request can
        // use what it offers.
        let begun = reading::what_is_here(&stdout, &shared)?;
        let receiver = pipe::Receiver::from_owned_fd(stdout)?;
        let reads = tokio::spawn(reading::read(receiver, begun, Arc::clone(&shared)));
        let writes = tokio::spawn(write(Arc::clone(&shared)));
        Ok(Self {
            shared,
            ids: AtomicU64::new(1),
            tasks: [reads.abort_handle(), writes.abort_handle()],
        })
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.shared.routes).is_open()
    }

    pub(super) async fn call(
        &self,
        mut request: StdioRequest,
        attempt: &Attempt,
    ) -> Result<StdioAnswer, Fault<StdioRequest>> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let frame = self
            .shared
            .request_frame(id, &request, attempt)
            .map_err(Fault::Invalid)?;
        let (to, mut replies) = replies(request.streams);
        let route = Route {
            to,
            _lent: Arc::clone(&request.body.lent),
            input: None,
            calls: Vec::new(),
        };
        if let Err(Closed::Ended(why) | Closed::Broken(why)) = lock(&self.shared.routes).insert(id, route) {
            let error = why.into();
            return Err(Fault::NotSent { request, error });
        }
        let call = InFlight {
            shared: Arc::clone(&self.shared),
            id,
        };
        attempt.sending();
        // An error of the pipe: the reading task has, or will have, a better reason.
        let _ = self.shared.write(&frame);
        let has_input = request.input.is_some();
        if let Some(input) = request.input.take() {
            self.shared.feed(id, input);
        }
        let first = match replies.next().await {
            Some(Ok(first)) => first,
            Some(Err(Closed::Ended(why))) => return Err(Fault::Lost(why.into())),
            Some(Err(Closed::Broken(why))) => return Err(Fault::BadAnswer(why.into())),
            None => return Err(Fault::Lost("the connection was dropped".into())),
        };
        if first.head.is_refusal() && !has_input {
            let error = first.head.error.unwrap_or_default();
            let error = format!("{}: {}", error.code, error.message).into();
            return Err(Fault::NotSent { request, error });
        }
        Ok(match (replies, first.head.kind.as_deref()) {
            (Replies::Stream(rest), Some("item")) => StdioAnswer::stream(
                first,
                Items {
                    rest,
                    call: Box::new(call),
                },
            ),
            _ => StdioAnswer::whole(first),
        })
    }
}

impl<F: Framing> Drop for StdioConnection<F> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Where a call receives its messages.
enum Replies {
    One(Option<oneshot::Receiver<Delivery>>),
    Stream(mpsc::UnboundedReceiver<Delivery>),
}

fn replies(streams: bool) -> (To, Replies) {
    if streams {
        let (sender, receiver) = mpsc::unbounded_channel();
        (To::Stream(sender), Replies::Stream(receiver))
    } else {
        let (sender, receiver) = oneshot::channel();
        (To::Answer(sender), Replies::One(Some(receiver)))
    }
}

impl Replies {
    async fn next(&mut self) -> Option<Delivery> {
        match self {
            Self::One(receiver) => receiver.take()?.await.ok(),
            Self::Stream(receiver) => receiver.recv().await,
        }
    }
}

/// A request that the worker works on. Dropped before its last message, it is cancelled.
struct InFlight<F: Framing> {
    shared: Arc<Shared<F>>,
    id: u64,
}

/// What the reader of a stream needs of its request.
pub(super) trait Streaming: Send + Sync {
    /// An item was consumed: the worker may send another one.
    fn consumed(&self);
}

impl<F: Framing> Streaming for InFlight<F> {
    fn consumed(&self) {
        if self.shared.peer.get().is_some_and(|peer| peer.gives_credit) {
            self.shared.notify("credit", self.id, &[("n", Field::Number(1))]);
        }
    }
}

impl<F: Framing> Drop for InFlight<F> {
    fn drop(&mut self) {
        if lock(&self.shared.routes).remove(self.id) {
            self.shared.notify("cancel", self.id, &[]);
        }
    }
}

impl<F: Framing> Shared<F> {
    fn request_frame(&self, id: u64, request: &StdioRequest, attempt: &Attempt) -> Result<Vec<u8>, BoxError> {
        let peer = self.peer.get();
        let mut fields = vec![("type", Field::Text("request")), ("id", Field::Number(id))];
        if let Some(method) = &request.method {
            fields.push(("method", Field::Text(method)));
        }
        // A stream may last longer than the pool's timeout, which is for its beginning.
        let deadline = if request.streams {
            request.deadline
        } else {
            attempt.deadline()
        };
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let head_start = peer.map_or(Duration::ZERO, |_| (left / HEAD_START).min(LONGEST_HEAD_START));
            let left = u64::try_from((left - head_start).as_millis()).unwrap_or(u64::MAX);
            fields.push(("deadline_ms", Field::Number(left)));
        }
        if let Some(session) = attempt.session() {
            fields.push(("session", Field::Text(session)));
        }
        if let Some((parent, state)) = attempt.trace() {
            fields.push(("traceparent", Field::Text(parent)));
            fields.extend(state.map(|state| ("tracestate", Field::Text(state))));
        }
        if request.input.is_some() {
            fields.push(("stream", Field::Truth(true)));
        }
        self.encoded(
            &mut fields,
            if request.input.is_some() { "args" } else { "body" },
            &request.body,
        )?;
        self.whole(F::frame(&fields))
    }

    /// Adds a value, if the worker can read what it lends.
    fn encoded<'a>(
        &self,
        fields: &mut Vec<(&'a str, Field<'a>)>,
        name: &'a str,
        value: &'a Encoded,
    ) -> Result<(), BoxError> {
        let shares_memory = self.peer.get().is_some_and(|peer| peer.shares_memory);
        if !value.lent.is_empty() && !shares_memory {
            return Err("it has large data in shared memory, which this worker has not said that it can read".into());
        }
        if !value.bytes.is_empty() {
            fields.push((name, Field::Encoded(&value.bytes)));
        }
        Ok(())
    }

    /// The frame, if it is not too long for the worker.
    fn whole(&self, frame: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        let longest = self.peer.get().map_or(MAX_FRAME, |peer| peer.max_frame);
        if frame.len() > longest {
            let size = frame.len();
            let why = format!(
                "it takes {size} bytes, and a message has at most {longest}: send bytes as Blob, arrays as Array"
            );
            return Err(why.into());
        }
        Ok(frame)
    }

    /// Writes a message about a request. A pipe that is gone needs none.
    pub(super) fn notify(&self, kind: &str, id: u64, more: &[(&str, Field<'_>)]) {
        let mut fields = vec![("type", Field::Text(kind)), ("id", Field::Number(id))];
        fields.extend(more.iter().copied());
        let _ = self.write(&F::frame(&fields));
    }

    /// Sends the items of a request from a task, which ends with the request.
    fn feed(self: &Arc<Self>, id: u64, input: Input) {
        let credit = Arc::new(Semaphore::new(WINDOW as usize));
        let shared = Arc::clone(self);
        let sending = Arc::clone(&credit);
        let mut routes = lock(&self.routes);
        let Some(route) = routes.get(id) else { return };
        let task = tokio::spawn(async move { shared.send_items(id, input, &sending).await });
        route.input = Some(Feed {
            credit,
            lent: VecDeque::new(),
            task: task.abort_handle(),
        });
    }

    async fn send_items(&self, id: u64, mut input: Input, credit: &Semaphore) {
        while let Some(item) = input.next().await {
            if self.peer.get().is_some_and(|peer| peer.gives_credit) {
                // Never closed.
                let Ok(permit) = credit.acquire().await else { return };
                permit.forget();
            }
            if let Err(error) = item.and_then(|item| self.send_item(id, &item)) {
                self.notify("cancel", id, &[("reason", Field::Text(&chain(&*error)))]);
                return;
            }
        }
        self.notify("end", id, &[]);
    }

    fn send_item(&self, id: u64, item: &Encoded) -> Result<(), BoxError> {
        let mut fields = vec![("type", Field::Text("item")), ("id", Field::Number(id))];
        self.encoded(&mut fields, "value", item)?;
        let frame = self.whole(F::frame(&fields))?;
        self.with_route(id, |route| {
            if let Some(feed) = &mut route.input {
                feed.lent.push_back(Arc::clone(&item.lent));
            }
        });
        self.write(&frame)?;
        Ok(())
    }

    /// The worker has said hello: this side says hello, too.
    pub(super) fn greet(&self, head: &Head) {
        let can = |feature: &str| head.features.iter().any(|name| name == feature);
        let shares_memory = can("shm") && F::LENDING == Lending::SharedMemory;
        let peer = Peer {
            shares_memory,
            gives_credit: can("credit"),
            max_frame: head.max_frame.unwrap_or(MAX_FRAME),
        };
        if self.peer.set(peer).is_err() {
            return;
        }
        let features: &[&str] = if shares_memory { &["shm"] } else { &[] };
        // Lists of strings can be encoded.
        let features = F::encode(&features).unwrap_or_default();
        let functions = F::encode(&self.functions.names()).unwrap_or_default();
        let hello = F::frame(&[
            ("type", Field::Text("hello")),
            ("protocol", Field::Number(PROTOCOL)),
            ("host", Field::Text(concat!("ostler ", env!("CARGO_PKG_VERSION")))),
            ("features", Field::Encoded(&features)),
            ("shm_min", Field::Number(SHARED_MIN as u64)),
            ("functions", Field::Encoded(&functions)),
            ("max_frame", Field::Number(MAX_FRAME as u64)),
            ("window", Field::Number(WINDOW)),
        ]);
        let _ = self.write(&hello);
    }

    pub(super) fn deliver(&self, id: u64, received: Received) {
        let stop = lock(&self.routes).deliver(id, received);
        if stop {
            self.notify("cancel", id, &[]);
        }
    }

    /// Does something with a request in flight.
    pub(super) fn with_route<T>(&self, id: u64, act: impl FnOnce(&mut Route) -> T) -> Option<T> {
        lock(&self.routes).get(id).map(act)
    }

    /// Writes a frame, or leaves what the pipe does not take to the writing task. A frame is never
    /// cut off, whatever becomes of its call.
    pub(super) fn write(&self, frame: &[u8]) -> io::Result<()> {
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

    pub(super) fn close(&self, why: &Closed) {
        lock(&self.routes).close(why);
    }
}

async fn write<F: Framing>(shared: Arc<Shared<F>>) {
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
