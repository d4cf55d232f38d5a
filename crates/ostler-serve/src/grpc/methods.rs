//! The service `ostler.worker.v1.Worker`: methods without a `.proto`, as MessagePack
//! (`docs/worker-protocol.md`, gRPC).
//!
//! An RPC is a connection with one request: what happens on it is [`Exchange`]'s, as on the pipes
//! of a worker over stdio.

use std::collections::HashMap;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde::Deserialize;
use tonic::{Code, Status};

use super::rpc::{self, Rpc};
use crate::adapter::{Adapter, Attempt, Fault, Sent};
use crate::connect::connection;
use crate::error::BoxError;
use crate::http::{Http, HttpConnection, Version};
use crate::observe::Description;
use crate::pool::Serving;
use crate::stdio::exchange::Exchange;
use crate::stdio::framing::{Framing, Message, ONLY_REQUEST, sealed::Sealed as _};
use crate::stdio::message::{Field, Head};
use crate::stdio::peer::{self, Peer};
use crate::stdio::{Functions, StdioAnswer, StdioRequest};
use crate::worker::Worker;

const HELLO: &str = "http://worker/ostler.worker.v1.Worker/Hello";
const CALL: &str = "http://worker/ostler.worker.v1.Worker/Call";
const PING: &str = "http://worker/ostler.worker.v1.Worker/Ping";
const STREAM: &str = "http://worker/ostler.worker.v1.Worker/Stream";

const NO_SERVICE: &str = "the worker does not serve ostler.worker.v1.Worker: call its own services by `grpc()`, or \
                          serve methods with the package ostler-worker";

/// The adapter for methods over gRPC, at the worker's one port.
#[derive(Debug, Clone)]
pub(crate) struct GrpcMethods {
    http: Http,
    functions: Functions,
}

impl GrpcMethods {
    pub(crate) fn of(serving: &Serving) -> Self {
        Self {
            http: Http::new(Version::Http2),
            functions: serving.functions.clone(),
        }
    }

    /// Says hello to a worker, and returns its own; `None`: it does not have this service.
    async fn hello(&self, http: &HttpConnection) -> Result<Option<Vec<u8>>, BoxError> {
        let message = peer::hello::<Message>(&self.functions, true);
        self.ask(http, HELLO, message).await
    }

    /// The worker's answer to a `ping`.
    pub(crate) async fn ping(&self, worker: &Arc<Worker>) -> Result<Vec<u8>, BoxError> {
        let connection = connection(self, worker, None).await?;
        let message = Message::frame(&[("type", Field::Text("ping")), ("stats", Field::Truth(true))]);
        let pong = self.ask(&connection.http, PING, message).await?;
        pong.ok_or_else(|| NO_SERVICE.into())
    }

    /// What a worker answers to a message that is no request; `None`: it does not have this
    /// service.
    async fn ask(
        &self,
        http: &HttpConnection,
        uri: &'static str,
        message: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, BoxError> {
        let body = Full::new(Bytes::from(message)).map_err(|never| match never {});
        let attempt = Attempt {
            sent: Sent::default(),
            deadline: None,
            session: None,
            trace: None,
        };
        let request = rpc::request(uri, body.boxed_unsync());
        let response = match self.http.call(http, request, &attempt).await {
            Ok(response) => response,
            Err(
                Fault::NotSent { error, .. } | Fault::Invalid(error) | Fault::Lost(error) | Fault::BadAnswer(error),
            ) => return Err(error),
        };
        let in_headers = Status::from_header_map(response.headers());
        let body = response.into_body().collect().await?;
        match body.trailers().and_then(Status::from_header_map).or(in_headers) {
            Some(status) if status.code() == Code::Ok => {}
            Some(status) if status.code() == Code::Unimplemented => return Ok(None),
            Some(status) => return Err(status.into()),
            None => return Err("the response ended without a status".into()),
        }
        let bytes = body.to_bytes();
        Ok(Some(rpc::only_message(&bytes)?.to_vec()))
    }
}

/// The connection to one worker, for all its RPCs.
#[derive(Debug)]
pub(crate) struct MethodsConnection {
    http: Arc<HttpConnection>,
    /// `None`: it does not have the service.
    worker: Option<Introduced>,
}

/// What is known of a worker since its hello.
#[derive(Debug)]
struct Introduced {
    peer: Peer,
    methods: Methods,
    /// Its handlers may call functions of the host.
    has_functions: bool,
}

/// The methods that a worker lists in its hello.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Methods {
    methods: HashMap<String, Shape>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Shape {
    output: String,
}

impl Methods {
    /// Whether this one, or the only one, is a generator.
    fn streams(&self, method: Option<&str>) -> bool {
        let shape = match method {
            Some(name) => self.methods.get(name),
            None => self.methods.values().next(),
        };
        shape.is_some_and(|shape| shape.output == "stream")
    }
}

impl Introduced {
    /// Whether all of a request is one message there and one back, which a unary RPC carries at
    /// less cost.
    fn is_unary(&self, request: &StdioRequest) -> bool {
        request.is_one_message() && !self.has_functions && !self.methods.streams(request.method.as_deref())
    }
}

impl Adapter for GrpcMethods {
    type Connection = MethodsConnection;
    type Request = StdioRequest;
    type Response = StdioAnswer;

    async fn connect(&self, worker: &Arc<Worker>) -> Result<MethodsConnection, BoxError> {
        let http = self.http.connect(worker).await?;
        let has_functions = !self.functions.names().is_empty();
        let introduce = |hello: Vec<u8>| -> Result<Introduced, BoxError> {
            let head: Head = Message::decode(&hello)?;
            Ok(Introduced {
                peer: Peer::of::<Message>(&head)?,
                methods: Message::decode(&hello)?,
                has_functions,
            })
        };
        let worker = self.hello(&http).await?.map(introduce).transpose()?;
        let http = Arc::new(http);
        Ok(MethodsConnection { http, worker })
    }

    fn is_open(&self, connection: &MethodsConnection) -> bool {
        self.http.is_open(&connection.http)
    }

    async fn call(
        &self,
        connection: &MethodsConnection,
        request: StdioRequest,
        attempt: &Attempt,
    ) -> Result<StdioAnswer, Fault<StdioRequest>> {
        let Some(worker) = &connection.worker else {
            return Err(Fault::Invalid(NO_SERVICE.into()));
        };
        let unary = worker.is_unary(&request);
        let (rpc, messages) = Rpc::new(unary);
        let rpc = Arc::new(rpc);
        let peer = if unary {
            worker.peer.asked_to_lend()
        } else {
            worker.peer
        };
        let exchange = Exchange::new(Arc::clone(&rpc) as _, self.functions.clone()).with(peer);
        let exchange = Arc::new(exchange);
        let frame = exchange.request(ONLY_REQUEST, &request, attempt)?;
        let sent = rpc::request(if unary { CALL } else { STREAM }, messages);
        let carried = rpc::carry(
            Arc::clone(&connection.http),
            sent,
            attempt.clone(),
            (Arc::clone(&rpc), Arc::clone(&exchange)),
        );
        rpc.opened_by(tokio::spawn(carried).abort_handle());
        exchange.call((ONLY_REQUEST, frame), request, attempt).await
    }

    fn describe(&self, request: &StdioRequest) -> Description {
        request.description()
    }

    fn copy(&self, request: &StdioRequest) -> Option<StdioRequest> {
        request.copy()
    }
}
