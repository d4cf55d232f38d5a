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
    Http2(http2::SendRequest<RequestBody>),
}

/// HTTP/1.1 connections that are not in use.
type Idle = Arc<Mutex<Vec<http1::SendRequest<RequestBody>>>>;

/// An HTTP/1.1 connection whose response is being read. Dropped, it is idle: until then another
/// call would wait for the end of the response, which may never come.
#[derive(Debug, Clone)]
pub(super) struct InUse {
    _until_dropped: Arc<Returning>,
}

#[derive(Debug)]
struct Returning {
    sender: Option<http1::SendRequest<RequestBody>>,
    idle: Idle,
}

impl Drop for Returning {
    fn drop(&mut self) {
        let open = self.sender.take().filter(|sender| !sender.is_closed());
        lock(&self.idle).extend(open);
    }
}

impl HttpConnection {
    pub(super) async fn open(version: Version, endpoint: Endpoint) -> Result<Self, BoxError> {
        let wire = match version {
            Version::Http1 => Wire::Http1(Arc::new(Mutex::new(vec![http1(&endpoint).await?]))),
            Version::Http2 => Wire::Http2(http2(&endpoint).await?),
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
            Wire::Http2(sender) => !sender.is_closed(),
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
            Wire::Http2(sender) => {
                let mut sender = sender.clone();
                if let Err(error) = sender.ready().await {
                    let error = error.into();
                    return Err(Fault::NotSent { request, error });
                }
                attempt.sending();
                sender.try_send_request(request).await.map_err(fault)
            }
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
                Some(sender) if sender.is_closed() => continue,
                Some(sender) => sender,
                None => match http1(&self.endpoint).await {
                    Ok(sender) => sender,
                    Err(error) => return Err(Fault::NotSent { request, error }),
                },
            };
            if sender.ready().await.is_err() {
                continue;
            }
            attempt.sending();
            let mut sending: Sending = sender.try_send_request(request).await;
            // A worker may close an idle connection at any moment.
            if was_kept
                && let Err(error) = &mut sending
                && let Some(unsent) = error.take_message()
            {
                request = unsent;
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

async fn http1(endpoint: &Endpoint) -> Result<http1::SendRequest<RequestBody>, BoxError> {
    let io = connect(endpoint).await?;
    let (sender, connection) = http1::handshake(io).await?;
    // Its end shows in the requests that are on it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn http2(endpoint: &Endpoint) -> Result<http2::SendRequest<RequestBody>, BoxError> {
    let io = connect(endpoint).await?;
    let handshake = http2::Builder::new(TokioExecutor::new()).handshake(io);
    let (sender, connection) = handshake.await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
