//! The HTTP front end: each path is served by one pool.
//!
//! | request | |
//! |---|---|
//! | `POST /words` | how many words the text has, by Python over stdin and stdout |
//! | `POST /reverse` | the text in reverse, by Rust over HTTP: the request itself goes to a worker |
//! | `POST /shout` | the text in capitals, by Python over a protocol of this example |
//! | `GET /` | the pools at this moment, as JSON |

use std::convert::Infallible;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ostler::chain;
use ostler_serve::CallError;
use ostler_serve::stdio::StdioError;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::pools::{Clients, Text};
use crate::tally::Tallies;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, clients: Clients, tallies: Tallies) {
    // An error of one connection, such as too many open files, passes.
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (clients, tallies) = (clients.clone(), tallies.clone());
        let service = service_fn(move |request| answer(clients.clone(), tallies.clone(), request));
        tokio::spawn(async move {
            let server = http1::Builder::new();
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(clients: Clients, tallies: Tallies, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let response = match (request.method(), path.as_str()) {
        (&Method::GET, "/") => text(StatusCode::OK, tallies.snapshot(&clients.pools).to_string()),
        (&Method::POST, "/words") => words(&clients, request).await,
        (&Method::POST, "/reverse") => reverse(&clients, request).await,
        (&Method::POST, "/shout") => shout(&clients, request).await,
        _ => text(
            StatusCode::NOT_FOUND,
            "POST /words, /reverse or /shout; GET /\n".to_owned(),
        ),
    };
    Ok(response)
}

async fn words(clients: &Clients, request: Request<Incoming>) -> Response<Body> {
    match clients
        .words
        .call(&Text {
            text: read(request).await,
        })
        .await
    {
        Ok(words) => text(StatusCode::OK, json!(words).to_string()),
        Err(StdioError::Call(error)) => failed(&error),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
    }
}

/// The body is streamed to the worker, and the worker's to the client.
async fn reverse(clients: &Clients, request: Request<Incoming>) -> Response<Body> {
    match clients.reverse.send(request).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(error) => failed(&error),
    }
}

async fn shout(clients: &Clients, request: Request<Incoming>) -> Response<Body> {
    match clients.shout.call(read(request).await).await {
        Ok(answer) => text(StatusCode::OK, answer),
        Err(error) => failed(&error),
    }
}

async fn read(request: Request<Incoming>) -> String {
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&body).replace('\n', " ")
}

/// 503: certainly not executed. 502: perhaps executed.
fn failed(error: &CallError) -> Response<Body> {
    let (status, outcome) = match error {
        CallError::Refused(_) => (StatusCode::SERVICE_UNAVAILABLE, "refused"),
        CallError::Unknown(_) => (StatusCode::BAD_GATEWAY, "unknown"),
    };
    let problem: Value = json!({"outcome": outcome, "detail": chain(error)});
    let mut response = text(status, problem.to_string());
    if let Some(wait) = error.retry_after() {
        let seconds = wait.as_secs_f64().ceil();
        if let Ok(seconds) = format!("{seconds}").parse() {
            response.headers_mut().insert(hyper::header::RETRY_AFTER, seconds);
        }
    }
    response
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::from(text).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}
