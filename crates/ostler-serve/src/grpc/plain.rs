//! The service `ostler.worker.v1.Worker`: methods without a `.proto`, as MessagePack
//! (`docs/worker-protocol.md`, gRPC).

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, TE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Grpc, timeout};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::{BoxError, SharedError};
use crate::exception::is_refusal;
use crate::http::{self, RequestBody};
use crate::outcome::{CallError, Lost, Refused, Unknown, WorkerRef};
use crate::stdio::{self, StdioError};

/// The length of what precedes a message in gRPC.
const PREFIX: usize = 5;

const CALL: &str = "http://worker/ostler.worker.v1.Worker/Call";

/// A request as the service reads it. Its deadline and trace are in the headers.
#[derive(Serialize)]
struct Request<'a, T: ?Sized> {
    method: &'a str,
    body: &'a T,
}

pub(crate) async fn call<T, R>(
    client: &Client<Grpc>,
    timeout: Duration,
    method: &str,
    request: &T,
    options: &CallOptions,
) -> Result<R, StdioError>
where
    T: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let request = Request { method, body: request };
    let message = rmp_serde::to_vec_named(&request).map_err(StdioError::invalid)?;
    // One deadline for the queue and the whole answer.
    let mut options = options.clone();
    options.deadline = options.due(timeout);
    let request = ::http::Request::post(CALL)
        .extension(options)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(framed(&message)))
        .map_err(StdioError::invalid)?;
    let announce = |options: &mut CallOptions, request: &mut ::http::Request<RequestBody>| {
        timeout::announce(request.headers_mut(), options.deadline);
    };
    let begun = Instant::now();
    let response = http::send(client, request, announce).await?;
    let in_headers = Status::from_header_map(response.headers());
    let worker = response.body().sent_to().cloned();
    let body = response.into_body().collect().await;
    let body = body.map_err(|cut_off| CallError::from(cut_off.0))?;
    let status = body.trailers().and_then(Status::from_header_map).or(in_headers);
    let bad_answer = |error: BoxError| Lost::Answer(SharedError::new(error));
    let lost = match status {
        Some(status) if status.code() == Code::Ok => None,
        // The server keeps the deadline itself, and was the first to.
        Some(status) if status.code() == Code::DeadlineExceeded => Some(Lost::Deadline {
            sent_for: begun.elapsed(),
        }),
        Some(status) => Some(bad_answer(status.into())),
        None => Some(bad_answer("the response ended without a status".into())),
    };
    if let Some(cause) = lost {
        return Err(without_result(worker, cause));
    }
    let result = stdio::result_in(body.to_bytes().get(PREFIX..).unwrap_or_default());
    match (result, worker) {
        (Err(StdioError::Worker(refused)), Some(worker)) if is_refusal(&refused.code) => {
            Err(CallError::from(Refused::unreachable(&worker, *refused)).into())
        }
        (result, _) => result,
    }
}

/// The message in gRPC's frame: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(PREFIX + message.len());
    out.push(0);
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}

fn without_result(worker: Option<WorkerRef>, cause: Lost) -> StdioError {
    match worker {
        Some(worker) => CallError::from(Unknown {
            worker,
            cause,
            failure: None,
        })
        .into(),
        None => StdioError::Result(cause.into()),
    }
}
