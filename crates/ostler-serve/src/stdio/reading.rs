//! Reads what a worker writes, and gives each message to the call that waits for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::chain::chain;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::exchange::Exchange;
use super::framing::{Framing, Split};
use super::functions::{HostCall, HostFailure};
use super::large::Segments;
use super::message::{Field, Head};
use super::routes::{Closed, Received};
use crate::error::BoxError;

/// Takes what the worker has written already. Returns the beginning of the next message.
///
/// Not by tokio's pipe, which only learns of what is there when its reactor has run.
pub(super) fn what_is_here<F: Framing>(stdout: &OwnedFd, exchange: &Arc<Exchange<F>>) -> Result<Vec<u8>, BoxError> {
    let failed = |error: rustix::io::Errno| format!("its stdout can't be read: {error}");
    let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let mut polled = [PollFd::new(stdout, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).map_err(failed)?;
        if !polled[0].revents().contains(PollFlags::IN) {
            return Ok(bytes);
        }
        let count = rustix::io::read(stdout, &mut chunk).map_err(failed)?;
        bytes.extend_from_slice(&chunk[..count]);
        hand_out(&mut bytes, exchange)?;
        if count == 0 {
            // What the end means is for the reading task.
            return Ok(bytes);
        }
    }
}

/// Reads until the worker's stdout ends.
pub(super) async fn read<F: Framing>(mut pipe: pipe::Receiver, mut bytes: Vec<u8>, exchange: Arc<Exchange<F>>) {
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
                if let Err(error) = hand_out(&mut bytes, &exchange) {
                    break Closed::Broken(chain(&*error));
                }
            }
            Err(error) => break Closed::Ended(format!("its stdout can't be read: {error}")),
        }
    };
    exchange.close(&why);
}

/// Takes each whole frame, and leaves the beginning of the next one.
///
/// # Errors
/// What came is not the protocol.
pub(crate) fn hand_out<F: Framing>(bytes: &mut Vec<u8>, exchange: &Arc<Exchange<F>>) -> Result<(), BoxError> {
    let mut at = 0;
    loop {
        match F::split(&bytes[at..]) {
            Split::More => break,
            Split::Broken(why) => return Err(why.into()),
            Split::Frame { begin, end, taken } => {
                let frame = &bytes[at + begin..at + end];
                take(frame, F::head(frame)?, exchange)?;
                at += taken;
            }
        }
    }
    bytes.drain(..at);
    Ok(())
}

fn take<F: Framing>(frame: &[u8], head: Head, exchange: &Arc<Exchange<F>>) -> Result<(), BoxError> {
    match (head.kind.as_deref(), head.id) {
        (Some("response" | "item" | "end" | "pong") | None, Some(id)) => deliver(id, frame, head, exchange),
        (Some("response") | None, None) => Err("a response has no id".into()),
        (Some("hello"), _) => exchange.greet(&head),
        (Some("credit"), Some(id)) => {
            exchange.with_route(id, |route| {
                if let Some(feed) = &mut route.input {
                    feed.consumed(head.n.unwrap_or(1));
                }
            });
            Ok(())
        }
        (Some("call"), Some(id)) => {
            call(id, frame, head, exchange);
            Ok(())
        }
        // Unknown messages are for other clients.
        (Some(_), _) => Ok(()),
    }
}

/// Maps what the message refers to, so that it is there whatever becomes of the worker, and has the
/// worker release it.
fn deliver<F: Framing>(id: u64, frame: &[u8], head: Head, exchange: &Arc<Exchange<F>>) -> Result<(), BoxError> {
    let segments = Segments::open(&head.segments)?;
    if !head.segments.is_empty() {
        let mapped: Vec<u64> = head.segments.iter().map(|reference| reference.ino).collect();
        // A list of numbers can be encoded.
        let mapped = F::encode(&mapped).unwrap_or_default();
        exchange.notify("release", id, &[("inos", Field::Encoded(&mapped))]);
    }
    let frame = frame.to_vec();
    exchange.deliver(id, Received { head, frame, segments });
    Ok(())
}

/// Runs a function of the host for a handler. It ends with the handler's request.
fn call<F: Framing>(id: u64, frame: &[u8], head: Head, exchange: &Arc<Exchange<F>>) {
    let (Some(request), name) = (head.request, head.function.unwrap_or_default()) else {
        return;
    };
    let remaining = head.deadline_ms.map(Duration::from_millis);
    let host_call = HostCall {
        remaining,
        traceparent: head.traceparent,
    };
    let work = match exchange.functions.find(&name) {
        Ok(function) => function(F::KIND, frame, host_call),
        Err(failure) => return answer(id, Err(failure), exchange),
    };
    let answering = Arc::clone(exchange);
    let task = async move {
        let result = match remaining {
            None => work.await,
            Some(remaining) => tokio::time::timeout(remaining, work).await.unwrap_or_else(|_| {
                Err(HostFailure {
                    code: "deadline_exceeded",
                    kind: String::new(),
                    message: format!("{name} did not return before the deadline of the request"),
                })
            }),
        };
        answer(id, result, &answering);
    };
    // A request that has ended needs no answer.
    exchange.with_route(request, |route| route.calls.push(tokio::spawn(task).abort_handle()));
}

fn answer<F: Framing>(id: u64, result: Result<Vec<u8>, HostFailure>, exchange: &Exchange<F>) {
    match result {
        Ok(value) => exchange.notify("return", id, &[("ok", Field::Encoded(&value))]),
        Err(failure) => {
            // A struct of strings can be encoded.
            let error = F::encode(&failure).unwrap_or_default();
            exchange.notify("return", id, &[("error", Field::Encoded(&error))]);
        }
    }
}
