//! The Rust worker: an HTTP server at the Unix socket that it is given, which answers a text in
//! reverse.

use std::convert::Infallible;
use std::error::Error;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

/// Serves until it is stopped.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let listener = UnixListener::bind(std::env::var("OSTLER_SOCKET")?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A connection that breaks off is its client's business.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await,
            );
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/healthz" {
        return Ok(Response::default());
    }
    let (status, body) = match request.into_body().collect().await {
        Ok(body) => {
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            (StatusCode::OK, text.chars().rev().collect::<String>())
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    Ok(response)
}
