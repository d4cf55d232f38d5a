//! One RPC of the worker protocol: what carries the frames of one request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, ready};

use ::http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::Uri;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, TE};
use ostler_core::chain::chain;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::{Code, Status};

use crate::adapter::{Attempt, Fault};
use crate::error::BoxError;
use crate::http::{HttpConnection, RequestBody};
use crate::pool::lock;
use crate::stdio::exchange::{Exchange, Outlet};
use crate::stdio::framing::{Message, Split, sealed::Sealed as _};
use crate::stdio::reading::hand_out;
use crate::stdio::routes::Closed;

/// The host's side of an RPC.
#[derive(Debug)]
pub(super) struct Rpc {
    /// Until the last message is sent.
    messages: Mutex<Option<mpsc::UnboundedSender<Part>>>,
    /// The request is the only message.
    unary: bool,
    /// Of a unary RPC: what its answer lends is mapped here.
    released: AtomicBool,
    /// Sends the messages, and reads the worker's.
    carrier: OnceLock<AbortHandle>,
}

/// A part of the body of a request. A body that ends without `End` is reset.
#[derive(Debug)]
enum Part {
    Message(Bytes),
    End,
}

impl Rpc {
    /// With the body of its request.
    pub(super) fn new(unary: bool) -> (Self, RequestBody) {
        let (sender, parts) = mpsc::unbounded_channel();
        let rpc = Self {
            messages: Mutex::new(Some(sender)),
            unary,
            released: AtomicBool::new(false),
            carrier: OnceLock::new(),
        };
        (rpc, Messages { parts, ended: false }.boxed_unsync())
    }

    pub(super) fn opened_by(&self, carrier: AbortHandle) {
        // It is opened once.
        let _ = self.carrier.set(carrier);
    }
}

impl Outlet for Rpc {
    fn write(&self, frame: Vec<u8>) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut messages = lock(&self.messages);
        let Some(sender) = messages.as_ref() else {
            // After its one message, a unary RPC only learns what was released.
            self.released.store(self.unary, Ordering::Relaxed);
            return Err(gone());
        };
        sender.send(Part::Message(frame.into())).map_err(|_| gone())?;
        if self.unary {
            // Under the same lock: the answer may come at once, and its release is no message.
            end(&mut messages);
        }
        Ok(())
    }

    /// The worker may end the RPC: nothing follows, and what was released is.
    fn request_ended(&self) {
        end(&mut lock(&self.messages));
    }

    fn reset(&self) -> bool {
        drop(lock(&self.messages).take());
        if let Some(carrier) = self.carrier.get() {
            carrier.abort();
        }
        true
    }
}

fn end(messages: &mut Option<mpsc::UnboundedSender<Part>>) {
    if let Some(messages) = messages.take() {
        // The RPC may have ended before.
        let _ = messages.send(Part::End);
    }
}

/// The body of the request.
struct Messages {
    parts: mpsc::UnboundedReceiver<Part>,
    ended: bool,
}

impl Body for Messages {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.parts.poll_recv(cx)) {
            Some(Part::Message(message)) => Some(Ok(Frame::data(message))),
            Some(Part::End) => {
                self.ended = true;
                None
            }
            // An end of the body would look like the end of what the caller sends.
            None => Some(Err("the call was cancelled".into())),
        })
    }
}

/// The request that opens an RPC.
pub(super) fn request(method: &'static str, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = ::http::Method::POST;
    *request.uri_mut() = Uri::from_static(method);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// The message of a unary response.
pub(super) fn only_message(bytes: &[u8]) -> Result<&[u8], BoxError> {
    match Message::split(bytes) {
        Split::Frame { begin, end, .. } => Ok(&bytes[begin..end]),
        Split::More => Err("the response has no whole message".into()),
        Split::Broken(why) => Err(why.into()),
    }
}

/// Carries the messages of an RPC in both directions until it ends. Aborted, it resets the RPC.
pub(super) async fn carry(
    connection: Arc<HttpConnection>,
    request: Request<RequestBody>,
    attempt: Attempt,
    (rpc, exchange): (Arc<Rpc>, Arc<Exchange<Message>>),
) {
    let why = match connection.send(request, &attempt).await {
        Ok(response) => read(response, &rpc, &exchange).await,
        Err(Fault::NotSent { error, .. }) => Closed::NotSent(chain(&*error)),
        Err(Fault::Invalid(error) | Fault::Lost(error)) => Closed::Ended(chain(&*error)),
        Err(Fault::BadAnswer(error)) => Closed::Broken(chain(&*error)),
    };
    exchange.close(&why);
}

async fn read(response: Response<Incoming>, rpc: &Rpc, exchange: &Arc<Exchange<Message>>) -> Closed {
    let mut status = Status::from_header_map(response.headers());
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                bytes.extend_from_slice(&data);
                if let Err(error) = hand_out(&mut bytes, exchange) {
                    return Closed::Broken(chain(&*error));
                }
                if rpc.released.load(Ordering::Relaxed) {
                    // The worker keeps what it lends until the RPC is reset, which the dropped body
                    // does.
                    return Closed::Ended("its answer is here".into());
                }
            }
            Ok(Err(frame)) => status = frame.trailers_ref().and_then(Status::from_header_map).or(status),
            Err(error) => return Closed::Ended(chain(&error)),
        }
    }
    closed_by(status)
}

/// What the end of an RPC means for a request that has no answer yet.
fn closed_by(status: Option<Status>) -> Closed {
    match status {
        None => Closed::Broken("the response ended without a status".into()),
        Some(status) => match status.code() {
            Code::Ok => Closed::Broken("the RPC ended without an answer".into()),
            // The server is about to end, or keeps the deadline itself and was the first to.
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => Closed::Ended(status.to_string()),
            _ => Closed::Broken(status.to_string()),
        },
    }
}
