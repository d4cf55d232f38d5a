//! What is exchanged with a worker over one connection, whatever carries its frames: the pipes of a
//! process with all its requests, or one RPC with its one request.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::StreamExt as _;
use ostler_core::chain::chain;
use ostler_os::shared::Segment;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::framing::Framing;
use super::functions::Functions;
use super::message::{Field, Head};
use super::peer::{Peer, WINDOW};
use super::request::{Encoded, Input, StdioAnswer, StdioRequest};
use super::routes::{Closed, Delivery, Feed, Received, Route, Routes, To};
use super::stream::Items;
use crate::adapter::{Attempt, Fault};
use crate::error::BoxError;
use crate::pool::lock;

/// Where the frames of a connection go.
pub(crate) trait Outlet: fmt::Debug + Send + Sync {
    /// Takes a whole frame, which is sent now or later, and never in part, whatever becomes of its
    /// call.
    ///
    /// # Errors
    /// The worker no longer reads. Why it does not, its answers show.
    fn write(&self, frame: Vec<u8>) -> io::Result<()>;

    /// The last request of the connection has ended.
    fn request_ended(&self) {}

    /// Cancels the one request of the connection by the connection's own means. False: it has none,
    /// and a message cancels the request.
    fn reset(&self) -> bool {
        false
    }
}

/// One connection, shared by its calls and tasks.
#[derive(Debug)]
pub(crate) struct Exchange<F> {
    outlet: Arc<dyn Outlet>,
    routes: Mutex<Routes>,
    peer: OnceLock<Peer>,
    pub(super) functions: Functions,
    framing: PhantomData<fn() -> F>,
}

impl<F: Framing> Exchange<F> {
    pub(crate) fn new(outlet: Arc<dyn Outlet>, functions: Functions) -> Self {
        Self {
            outlet,
            routes: Mutex::default(),
            peer: OnceLock::new(),
            functions,
            framing: PhantomData,
        }
    }

    /// With a worker that has said hello before.
    #[cfg(feature = "grpc")]
    pub(crate) fn with(self, peer: Peer) -> Self {
        let peer = OnceLock::from(peer);
        Self { peer, ..self }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer.get().copied().unwrap_or_default()
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.routes).is_open()
    }

    /// The frame of a request.
    ///
    /// # Errors
    /// This worker can't read it.
    pub(crate) fn request(
        &self,
        id: u64,
        request: &StdioRequest,
        attempt: &Attempt,
    ) -> Result<Vec<u8>, Fault<StdioRequest>> {
        let frame = self.peer().request::<F>(id, request, attempt);
        frame.map_err(Fault::Invalid)
    }

    /// Sends a request by this frame, and returns its answer: all of it, or its first item and
    /// where the others come from. Dropped, it cancels the request.
    pub(crate) async fn call(
        self: &Arc<Self>,
        (id, frame): (u64, Vec<u8>),
        mut request: StdioRequest,
        attempt: &Attempt,
    ) -> Result<StdioAnswer, Fault<StdioRequest>> {
        let lent = Arc::clone(&request.body.lent);
        let (call, mut replies) = match self.open(id, request.streams, lent) {
            Ok(opened) => opened,
            Err(closed) => {
                let error = closed.why().into();
                return Err(Fault::NotSent { request, error });
            }
        };
        attempt.sending();
        // An error of the connection: its reading task has, or will have, a better reason.
        let _ = self.outlet.write(frame);
        let has_input = request.input.is_some();
        if let Some(input) = request.input.take() {
            self.feed(id, input);
        }
        let first = match replies.next().await {
            Some(Ok(first)) => first,
            Some(Err(Closed::NotSent(why))) if !has_input => {
                let error = why.into();
                return Err(Fault::NotSent { request, error });
            }
            Some(Err(Closed::Ended(why) | Closed::NotSent(why))) => return Err(Fault::Lost(why.into())),
            Some(Err(Closed::Broken(why))) => return Err(Fault::BadAnswer(why.into())),
            None => return Err(Fault::Lost("the connection was dropped".into())),
        };
        if let Some(why) = first.head.refusal().filter(|_| !has_input) {
            let error = why.into();
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

    /// Has the messages about this request delivered, until it has ended or is dropped.
    fn open(
        self: &Arc<Self>,
        id: u64,
        streams: bool,
        lent: Arc<Vec<Segment>>,
    ) -> Result<(InFlight<F>, Replies), Closed> {
        let (to, replies) = replies(streams);
        let route = Route {
            to,
            _lent: lent,
            input: None,
            calls: Vec::new(),
        };
        lock(&self.routes).insert(id, route)?;
        let exchange = Arc::clone(self);
        Ok((InFlight { exchange, id }, replies))
    }

    /// Asks the worker for its figures, beside its requests. Returns its `pong`.
    pub(super) async fn ping(self: &Arc<Self>, id: u64) -> Result<Vec<u8>, BoxError> {
        if !self.peer().answers_pings {
            return Err("it has not said that it answers a ping".into());
        }
        let opened = self.open(id, false, Arc::default());
        let (_asked, mut replies) = opened.map_err(Closed::why)?;
        self.notify("ping", id, &[("stats", Field::Truth(true))]);
        let pong = replies.next().await.ok_or("the connection was dropped")?;
        Ok(pong.map_err(Closed::why)?.frame)
    }

    /// Writes a message about a request. A connection that is gone needs none.
    pub(super) fn notify(&self, kind: &str, id: u64, more: &[(&str, Field<'_>)]) {
        let mut fields = vec![("type", Field::Text(kind)), ("id", Field::Number(id))];
        fields.extend(more.iter().copied());
        let _ = self.outlet.write(F::frame(&fields));
    }

    /// Has the worker stop a request whose answer is of no use any more.
    fn cancel(&self, id: u64) {
        if !self.outlet.reset() {
            self.notify("cancel", id, &[]);
        }
    }

    /// Sends the items of a request from a task, which ends with the request.
    fn feed(self: &Arc<Self>, id: u64, input: Input) {
        let credit = Arc::new(Semaphore::new(WINDOW as usize));
        let exchange = Arc::clone(self);
        let sending = Arc::clone(&credit);
        let mut routes = lock(&self.routes);
        let Some(route) = routes.get(id) else { return };
        let task = tokio::spawn(async move { exchange.send_items(id, input, &sending).await });
        route.input = Some(Feed {
            credit,
            lent: VecDeque::new(),
            task: task.abort_handle(),
        });
    }

    async fn send_items(&self, id: u64, mut input: Input, credit: &Semaphore) {
        while let Some(item) = input.next().await {
            if self.peer().gives_credit {
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
        let frame = self.peer().item::<F>(id, item)?;
        self.with_route(id, |route| {
            if let Some(feed) = &mut route.input {
                feed.lent.push_back(Arc::clone(&item.lent));
            }
        });
        self.outlet.write(frame)?;
        Ok(())
    }

    /// The worker has said hello: this side says hello, too.
    ///
    /// # Errors
    /// They speak different versions of the protocol.
    pub(super) fn greet(&self, head: &Head) -> Result<(), BoxError> {
        let peer = Peer::of::<F>(head)?;
        if self.peer.set(peer).is_ok() {
            let _ = self.outlet.write(peer.greeting::<F>(&self.functions));
        }
        Ok(())
    }

    pub(super) fn deliver(&self, id: u64, received: Received) {
        let (stop, ended) = {
            let mut routes = lock(&self.routes);
            (routes.deliver(id, received), routes.is_empty())
        };
        if stop {
            self.cancel(id);
        } else if ended {
            self.outlet.request_ended();
        }
    }

    /// Does something with a request in flight.
    pub(super) fn with_route<T>(&self, id: u64, act: impl FnOnce(&mut Route) -> T) -> Option<T> {
        lock(&self.routes).get(id).map(act)
    }

    /// Nothing more will come: everyone who waits learns why.
    pub(crate) fn close(&self, why: &Closed) {
        lock(&self.routes).close(why);
        self.outlet.reset();
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
    exchange: Arc<Exchange<F>>,
    id: u64,
}

/// What the reader of a stream needs of its request.
pub(super) trait Streaming: Send + Sync {
    /// An item was consumed: the worker may send another one.
    fn consumed(&self);
}

impl<F: Framing> Streaming for InFlight<F> {
    fn consumed(&self) {
        if self.exchange.peer().gives_credit {
            self.exchange.notify("credit", self.id, &[("n", Field::Number(1))]);
        }
    }
}

impl<F: Framing> Drop for InFlight<F> {
    fn drop(&mut self) {
        if lock(&self.exchange.routes).remove(self.id) {
            self.exchange.cancel(self.id);
        }
    }
}
