//! HTTP/1.1 and HTTP/2: `POST /` with what to do as JSON, `POST /close` to close the connection
//! (HTTP/1.1) after the answer, `POST /early/KEY` to act before the request's body is read; `GET
//! /healthz`. Each answer has the request's `traceparent` as `traceparent-seen`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::act::{Actor, Answer};
use crate::listen::Listener;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) async fn serve(actor: Arc<Actor>) {
    let listener = Listener::bind().await;
    loop {
        let stream = listener.accept().await.expect("a connection");
        let actor = Arc::clone(&actor);
        let service = service_fn(move |request| answer(Arc::clone(&actor), request));
        tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(actor: Arc<Actor>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let trace = request.headers().get("traceparent").cloned();
    let mut response = act(actor, request).await?;
    if let Some(trace) = trace {
        response.headers_mut().insert("traceparent-seen", trace);
    }
    Ok(response)
}

async fn act(actor: Arc<Actor>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    if path == "/healthz" {
        return Ok(Response::new(text("well")));
    }
    if let Some(key) = path.strip_prefix("/early/") {
        actor.note(key.parse().expect("a key"));
    }
    let closes = path == "/close";
    let read = request.into_body().collect().await;
    let body: Value = match read {
        Ok(body) => serde_json::from_slice(&body.to_bytes()).expect("what to do"),
        // The caller has gone.
        Err(_) => return Ok(Response::new(text(""))),
    };
    if body["do"] == "drip" {
        return Ok(Response::new(drip(&actor, body)));
    }
    // What acts may block.
    let acted = tokio::task::spawn_blocking(move || actor.act(&body))
        .await
        .expect("no panics");
    let mut response = match acted {
        Answer::Ok(value) => Response::new(text(&value.to_string())),
        Answer::Error(error) => {
            let mut response = Response::new(text(&error.to_string()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        Answer::Half | Answer::Noise => Response::new(cut_off()),
    };
    if closes {
        let close = hyper::header::HeaderValue::from_static("close");
        response.headers_mut().insert(hyper::header::CONNECTION, close);
    }
    Ok(response)
}

fn text(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A piece every 20 ms, forever.
fn drip(actor: &Actor, body: Value) -> Body {
    let _ = actor.act(&serde_json::json!({"key": body["key"]}));
    let pieces = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"drop"))), ()))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// A body that ends in the end of the process.
fn cut_off() -> Body {
    let first = futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"half an ans"))) });
    let end = futures_util::stream::once(async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        eprintln!("it ends in the middle of an answer");
        std::process::exit(3)
    });
    StreamBody::new(first.chain(end)).boxed_unsync()
}
