//! `grpc.health.v1.Health/Check` of the server as a whole, by hand: NOT_SERVING until
//! `HEALTH_AFTER_MS` have passed, and once a request has asked for it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;

#[derive(Clone)]
pub(crate) struct Health {
    from: Instant,
    unwell: Arc<AtomicBool>,
}

impl Health {
    pub(crate) fn new(unwell: &Arc<AtomicBool>) -> Self {
        let after = std::env::var("HEALTH_AFTER_MS").map_or(0, |text| text.parse().expect("milliseconds"));
        Self {
            from: Instant::now() + Duration::from_millis(after),
            unwell: Arc::clone(unwell),
        }
    }
}

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower_service::Service<Request<Body>> for Health {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let serving = Instant::now() >= self.from && !self.unwell.load(Ordering::Relaxed);
        let frame = vec![0, 0, 0, 0, 2, 8, if serving { 1 } else { 2 }];
        let trailers = async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            Some(Ok(trailers))
        };
        let mut response = Response::new(Body::new(Full::new(Bytes::from(frame)).with_trailers(trailers)));
        let content = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", content);
        ready(Ok(response))
    }
}
