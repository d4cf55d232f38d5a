//! Connections to one worker: one for each call in flight with HTTP/1.1, one for all with HTTP/2.

use std::io;
use std::sync::{Arc, Mutex};

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ostler::Endpoint;
use ostler_core::answer::{MAX_HEAD, MAX_HEADERS};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{RequestBody, Version};
use crate::adapter::{Attempt, Fault};
use crate::error::BoxError;
use crate::pool::lock;

type Requested = Request<RequestBody>;
type Sending = Result<Response<Incoming>, TrySendError<Requested>>;

/// What a worker is reached by.
#[derive(Debug)]
pub struct HttpConnection {
    endpoint: Endpoint,
    /// Where requests go that do not say so themselves.
    authority: Authority,
    wire: Wire,
}

#[derive(Debug)]
enum Wire {
    Http1(Idle),
    Http2(Shared),
}

/// The sending end of a connection.
///
/// hyper hands requests to a connection through a channel. If the connection is dropped while a
/// request is being put into it, that request is neither sent nor handed back, and its caller would
/// wait forever. So the two exclude each other by the gate.
#[derive(Debug, Clone)]
struct Sender<S> {
    requests: S,
    gate: Arc<Mutex<()>>,
}

type Http1Sender = Sender<http1::SendRequest<RequestBody>>;
type Http2Sender = Sender<http2::SendRequest<RequestBody>>;

impl<S> Sender<S> {
    /// Drives the connection to its end, which shows in the requests that are on it.
    fn driving(requests: S, connection: impl Future + Send + 'static) -> Self {
        let gate = Arc::<Mutex<()>>::default();
        let ends = Arc::clone(&gate);
        tokio::spawn(async move {
            let mut connection = Box::pin(connection);
            drop(connection.as_mut().await);
            end(&ends, connection);
        });
        Self { requests, gate }
    }

    /// Hands a request over. What waits for the answer waits outside the gate.
    fn hand<F>(&mut self, over: impl FnOnce(&mut S) -> F) -> F {
        let _exclusive = lock(&self.gate);
        over(&mut self.requests)
    }
}

/// Drops a connection. The requests that were handed over and not sent are handed back.
fn end<C>(gate: &Mutex<()>, connection: C) {
    let _exclusive = lock(gate);
    drop(connection);
}

/// HTTP/1.1 connections that are not in use.
type Idle = Arc<Mutex<Vec<Http1Sender>>>;

/// The HTTP/2 connection of all calls.
#[derive(Debug)]
struct Shared {
    now: Mutex<Numbered>,
    /// One call connects again; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

/// An HTTP/2 connection, and the how many-th it is.
type Numbered = (u64, Http2Sender);

impl Shared {
    fn new(sender: Http2Sender) -> Self {
        Self {
            now: Mutex::new((0, sender)),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    fn now(&self) -> Numbered {
        lock(&self.now).clone()
    }

    /// The connection after this one.
    async fn next(&self, number: u64, endpoint: &Endpoint) -> Result<Numbered, BoxError> {
        let _connecting = self.connecting.lock().await;
        let now = self.now();
        if now.0 != number {
            return Ok(now);
        }
        let next = (number + 1, http2(endpoint).await?);
        lock(&self.now).clone_from(&next);
        Ok(next)
    }
}

/// An HTTP/1.1 connection whose response is being read. Dropped, it is idle: until then another
/// call would wait for the end of the response, which may never come.
#[derive(Debug, Clone)]
pub(super) struct InUse {
    _until_dropped: Arc<Returning>,
}

#[derive(Debug)]
struct Returning {
    sender: Option<Http1Sender>,
    idle: Idle,
}

impl Drop for Returning {
    fn drop(&mut self) {
        let open = self.sender.take().filter(|sender| !sender.requests.is_closed());
        lock(&self.idle).extend(open);
    }
}

impl HttpConnection {
    pub(super) async fn open(version: Version, endpoint: Endpoint) -> Result<Self, BoxError> {
        let wire = match version {
            Version::Http1 => Wire::Http1(Arc::new(Mutex::new(vec![http1(&endpoint).await?]))),
            Version::Http2 => Wire::Http2(Shared::new(http2(&endpoint).await?)),
        };
        let authority = match &endpoint {
            Endpoint::Tcp(address) => Authority::try_from(address.to_string())?,
            _ => Authority::from_static("localhost"),
        };
        Ok(Self {
            endpoint,
            authority,
            wire,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        match &self.wire {
            Wire::Http1(_) => true,
            Wire::Http2(shared) => !shared.now().1.requests.is_closed(),
        }
    }

    pub(crate) async fn send(
        &self,
        mut request: Requested,
        attempt: &Attempt,
    ) -> Result<Response<Incoming>, Fault<Requested>> {
        self.address(&mut request);
        pass_on_trace(request.headers_mut(), attempt);
        match &self.wire {
            Wire::Http1(idle) => self.send_http1(idle, request, attempt).await,
            Wire::Http2(shared) => self.send_http2(shared, request, attempt).await,
        }
    }

    async fn send_http1(
        &self,
        idle: &Idle,
        mut request: Requested,
        attempt: &Attempt,
    ) -> Result<Response<Incoming>, Fault<Requested>> {
        loop {
            let kept = lock(idle).pop();
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) if sender.requests.is_closed() => continue,
                Some(sender) => sender,
                None => match http1(&self.endpoint).await {
                    Ok(sender) => sender,
                    Err(error) => return Err(Fault::NotSent { request, error }),
                },
            };
            if sender.requests.ready().await.is_err() {
                continue;
            }
            attempt.sending();
            let mut sending: Sending = sender.hand(|requests| requests.try_send_request(request)).await;
            // A worker may close an idle connection at any moment.
            if was_kept
                && let Err(error) = &mut sending
                && let Some(unsent) = error.take_message()
            {
                request = unsent;
                attempt.handed_back();
                continue;
            }
            if let Ok(response) = &mut sending {
                let (sender, idle) = (Some(sender), Arc::clone(idle));
                response.extensions_mut().insert(InUse {
                    _until_dropped: Arc::new(Returning { sender, idle }),
                });
            }
            return sending.map_err(fault);
        }
    }

    /// A worker may close its connections at any moment. A call that was not sent for that reason
    /// is sent on the next connection, once, and is no retry.
    async fn send_http2(
        &self,
        shared: &Shared,
        request: Requested,
        attempt: &Attempt,
    ) -> Result<Response<Incoming>, Fault<Requested>> {
        let (number, sender) = shared.now();
        let request = match on(sender, request, attempt).await {
            Err(Fault::NotSent { request, .. }) => request,
            sent => return sent,
        };
        attempt.handed_back();
        match shared.next(number, &self.endpoint).await {
            Ok((_, sender)) => on(sender, request, attempt).await,
            Err(error) => Err(Fault::NotSent { request, error }),
        }
    }

    /// Says where the request goes, where its caller did not.
    fn address(&self, request: &mut Requested) {
        match self.wire {
            Wire::Http1(_) => {
                let authority = request.uri().authority().unwrap_or(&self.authority);
                if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                    request.headers_mut().entry(HOST).or_insert(host);
                }
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
            }
            Wire::Http2(_) => {
                let mut parts = std::mem::take(request.uri_mut()).into_parts();
                parts.scheme = Some(Scheme::HTTP);
                parts.authority.get_or_insert_with(|| self.authority.clone());
                // Scheme, authority and path are there, which is all that it takes.
                *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
            }
        }
    }
}

/// Sends on this HTTP/2 connection.
async fn on(
    mut sender: Http2Sender,
    request: Requested,
    attempt: &Attempt,
) -> Result<Response<Incoming>, Fault<Requested>> {
    if let Err(error) = sender.requests.ready().await {
        let error = error.into();
        return Err(Fault::NotSent { request, error });
    }
    attempt.sending();
    let sending = sender.hand(|requests| requests.try_send_request(request));
    sending.await.map_err(fault)
}

/// The worker's spans belong below that of the call.
fn pass_on_trace(headers: &mut HeaderMap, attempt: &Attempt) {
    let Some((parent, state)) = attempt.trace() else { return };
    let state = state.unwrap_or_default();
    for (name, value) in [(super::TRACE_PARENT, parent), (super::TRACE_STATE, state)] {
        match HeaderValue::from_str(value) {
            Ok(value) if !value.is_empty() => drop(headers.insert(name, value)),
            _ => drop(headers.remove(name)),
        }
    }
}

fn fault(mut error: TrySendError<Requested>) -> Fault<Requested> {
    let request = error.take_message();
    let error = error.into_error();
    match request {
        Some(request) => Fault::NotSent {
            request,
            error: error.into(),
        },
        None if error.is_parse() => Fault::BadAnswer(error.into()),
        // An error of the request's own body.
        None if error.is_user() => Fault::Invalid(error.into()),
        None => Fault::Lost(error.into()),
    }
}

/// No connection could be made.
#[derive(Debug, thiserror::Error)]
#[error("{address} can't be connected to")]
struct NotConnected {
    address: String,
    source: io::Error,
}

fn not_connected(address: impl ToString, source: io::Error) -> NotConnected {
    let address = address.to_string();
    NotConnected { address, source }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects directly: no proxy variable is obeyed.
async fn connect(endpoint: &Endpoint) -> Result<TokioIo<Box<dyn Io>>, BoxError> {
    let io: Box<dyn Io> = match endpoint {
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|source| not_connected(address, source))?;
            // Where nothing listens, the kernel may connect a socket to itself.
            if stream.local_addr().is_ok_and(|local| local == *address) {
                return Err(not_connected(address, io::ErrorKind::ConnectionRefused.into()).into());
            }
            // Without it small requests wait for acknowledgements.
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            Box::new(stream.map_err(|source| not_connected(path.display(), source))?)
        }
        other => return Err(format!("{other:?} can't be connected to by HTTP").into()),
    };
    Ok(TokioIo::new(io))
}

/// Folded headers and spaces before the colon are read, as RFC 9112 (5.1, 5.2) asks of a user agent
/// or proxy. An invalid header line is a fault: where the next answer on the connection begins
/// could depend on it.
async fn http1(endpoint: &Endpoint) -> Result<Http1Sender, BoxError> {
    let io = connect(endpoint).await?;
    let handshake = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD as usize)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(io);
    let (sender, connection) = handshake.await?;
    Ok(Sender::driving(sender, connection))
}

async fn http2(endpoint: &Endpoint) -> Result<Http2Sender, BoxError> {
    let io = connect(endpoint).await?;
    let handshake = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(MAX_HEAD)
        .handshake(io);
    let (sender, connection) = handshake.await?;
    Ok(Sender::driving(sender, connection))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use http_body_util::Empty;
    use hyper::body::Bytes;
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::adapter::Sent;

    /// Answers on one connection, until it is aborted.
    async fn serve(listener: &TcpListener) -> JoinHandle<()> {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
            let connection = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
            drop(connection.await);
        })
    }

    async fn ask(connection: &HttpConnection) -> Result<Response<Incoming>, Fault<Requested>> {
        let attempt = Attempt {
            sent: Sent::default(),
            deadline: None,
            session: None,
            trace: None,
        };
        connection.send(Request::new(super::super::empty()), &attempt).await
    }

    async fn call(connection: &HttpConnection) -> u16 {
        let answer = ask(connection).await;
        answer.unwrap_or_else(|fault| panic!("{fault:?}")).status().as_u16()
    }

    /// The header `X` of an answer over HTTP/1.1 that has these lines. `None`: it is a fault.
    async fn header_of(lines: &str) -> Option<HeaderValue> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let endpoint = Endpoint::Tcp(listener.local_addr().expect("its address"));
        let connection = HttpConnection::open(Version::Http1, endpoint)
            .await
            .expect("an adapter");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.read_u8().await.expect("a request");
            let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("it is read");
            stream
        };
        let (answer, _stream) = tokio::join!(ask(&connection), server);
        answer.ok()?.headers_mut().remove("x")
    }

    #[tokio::test]
    async fn folded_and_spaced_headers_are_read_and_invalid_ones_are_a_fault() {
        for (lines, value) in [
            ("X: one\r\n two", Some("one two")),
            ("X:\r\n\tone", Some("one")),
            ("X : one", Some("one")),
            ("X \t: one", Some("one")),
            ("X: one\r\nno colon at all", None),
            ("X: one\r\nContent Length: 9", None),
        ] {
            let found = header_of(lines).await;
            assert_eq!(
                found.as_ref().map(HeaderValue::as_bytes),
                value.map(str::as_bytes),
                "{lines:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_call_that_meets_a_closed_http2_connection_goes_to_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let endpoint = Endpoint::Tcp(listener.local_addr().expect("its address"));
        let (connection, first) = tokio::join!(HttpConnection::open(Version::Http2, endpoint), serve(&listener));
        let connection = connection.expect("it is connected");
        assert_eq!(call(&connection).await, 200);
        first.abort();
        let closed = async {
            while connection.is_open() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closed)
            .await
            .expect("the end is seen");
        let (status, next) = tokio::join!(call(&connection), serve(&listener));
        assert_eq!(status, 200);
        assert!(connection.is_open(), "later calls use the new one");
        next.abort();
    }

    /// A race: a call that was handed to a connection that ended at that moment waited for its
    /// deadline.
    #[tokio::test]
    async fn a_request_that_meets_the_end_of_its_connection_is_handed_back() {
        const ROUNDS: u32 = 20_000;
        for round in 0..ROUNDS {
            let (io, _worker) = tokio::io::duplex(1024);
            let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(io));
            let (requests, connection) = handshake.await.expect("it needs no answer");
            let gate = Arc::<Mutex<()>>::default();
            let mut sender = Sender {
                requests,
                gate: Arc::clone(&gate),
            };
            let start = std::sync::Barrier::new(2);
            let sending = std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    end(&gate, connection);
                });
                start.wait();
                let request = Request::new(super::super::empty());
                sender.hand(|requests| requests.try_send_request(request))
            });
            // Without tokio's budget, which makes even what is ready wait now and then.
            let Some(Err(mut error)) = tokio::task::unconstrained(sending).now_or_never() else {
                panic!("round {round}: nothing will end it");
            };
            assert!(error.take_message().is_some(), "round {round}: it is lost");
        }
    }
}
