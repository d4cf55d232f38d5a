//! `grpc.health.v1.Health/Check`, and whether the answer is SERVING.
//!
//! One message with one field each way, written and read by hand: a gRPC library would bring a code
//! generator and a runtime of its own for that.

use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper::{HeaderMap, Request, Response, header};
use hyper_util::rt::TokioIo;
use ostler_core::answer::MAX_HEAD;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// The method, and what a response is at most: a few bytes, by its definition.
const METHOD: &str = "/grpc.health.v1.Health/Check";
const LONGEST: usize = 4096;

/// The tag of field 1, as a length-delimited value and as a number (protobuf's wire format).
const FIELD_TEXT: u8 = 0x0a;
const FIELD_NUMBER: u8 = 0x08;

/// Whether the server says that this service is SERVING; the empty name asks for the server as a
/// whole.
///
/// # Errors
/// Why not, for people.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("grpc.health.v1: {error}");
    let request = Request::post(format!("http://{authority}{METHOD}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("ostler/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(request(service))))
        .map_err(|error| failed(&error))?;
    let (tasks, mut spawned) = mpsc::unbounded_channel();
    let mut running = FuturesUnordered::new();
    let asked = async {
        let (mut sender, connection) = http2::Builder::new(Tasks(tasks.clone()))
            .max_header_list_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let ended = async move { drop(connection.await) };
        drop(tasks.send(Box::pin(ended) as Task));
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        read(response).await.map_err(|error| failed(&error))
    };
    tokio::pin!(asked);
    // The connection's own tasks run here, and end here: nothing of a probe is left behind.
    let status = loop {
        tokio::select! {
            status = &mut asked => break status?,
            Some(task) = spawned.recv() => running.push(task),
            Some(()) = running.next(), if !running.is_empty() => {}
        }
    };
    match status {
        1 => Ok(()),
        2 => Err(failed(&"NOT_SERVING")),
        3 => Err(failed(&format_args!("the server has no service {service:?}"))),
        _ => Err(failed(&"UNKNOWN")),
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends tasks to the receiving end.
#[derive(Clone)]
struct Tasks(mpsc::UnboundedSender<Task>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        // Without the other end, the probe is over.
        drop(self.0.send(Box::pin(task)));
    }
}

/// `HealthCheckRequest { service }` in a gRPC frame.
fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(FIELD_TEXT);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame
}

/// The status in the response.
async fn read(response: Response<Incoming>) -> Result<u64, String> {
    if !response.status().is_success() {
        return Err(format!("answered with {}, and not by gRPC", response.status()));
    }
    fail(response.headers())?;
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    match body.trailers() {
        Some(trailers) => fail(trailers)?,
        None => return Err("the answer was cut off".to_owned()),
    }
    let frame = body.to_bytes();
    let message = frame.split_first_chunk::<5>().map(|(_, message)| message);
    message
        .and_then(status)
        .ok_or_else(|| "the answer is not a HealthCheckResponse".to_owned())
}

/// An error of the call itself.
fn fail(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some("12") => Err("the server has no grpc.health.v1.Health; add it, or use tcp".to_owned()),
        Some("5") => Err("the server does not know this service".to_owned()),
        Some(code) => Err(format!(
            "gRPC status {code}: {}",
            text("grpc-message").unwrap_or_default()
        )),
    }
}

/// The field `status` of a `HealthCheckResponse`; 0 when it is left out.
fn status(message: &[u8]) -> Option<u64> {
    match message {
        [] => Some(0),
        [FIELD_NUMBER, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_wire_format() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = request(&"s".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(status(&[]), Some(0));
        assert_eq!(status(&[8, 1]), Some(1));
        assert_eq!(status(&[8]), None);
        assert_eq!(status(b"hello"), None);
    }
}
