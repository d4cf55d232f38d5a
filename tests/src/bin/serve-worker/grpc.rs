//! The public helloworld and route_guide services. In the latter, a point's latitude is the key of
//! the request, and its longitude says what to do: 0 answers, a positive number answers after so
//! many milliseconds, -1 crashes, -2 never answers and writes down key + 1,000,000 when it is
//! cancelled, -3 makes the server unwell.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use ostler_tests::helloworld::greeter_server::{Greeter, GreeterServer};
use ostler_tests::helloworld::{HelloReply, HelloRequest};
use ostler_tests::route_guide::route_guide_server::{RouteGuide, RouteGuideServer};
use ostler_tests::route_guide::{Feature, Point, Rectangle, RouteNote, RouteSummary};
use serde_json::json;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::act::Actor;
use crate::health::Health;
use crate::listen::Listener;

pub(crate) async fn serve(actor: Arc<Actor>) {
    let listener = Listener::bind().await;
    let incoming =
        futures_util::stream::unfold(listener, |listener| async { Some((listener.accept().await, listener)) });
    let unwell = Arc::new(AtomicBool::new(false));
    let health = Health::new(&unwell);
    let guide = RouteGuideServer::new(Guide { actor, unwell });
    let server = Server::builder()
        .add_service(guide)
        .add_service(GreeterServer::new(Polite))
        .add_service(health);
    server.serve_with_incoming(incoming).await.expect("it serves");
}

struct Guide {
    actor: Arc<Actor>,
    unwell: Arc<AtomicBool>,
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Guide {
    async fn act(&self, point: &Point) {
        let what = match point.longitude {
            -1 => "crash",
            _ => "echo",
        };
        let _ = self.actor.act(&json!({"key": point.latitude, "do": what}));
        match point.longitude {
            -2 => {
                let _cancelled = Cancelled(&self.actor, point.latitude);
                std::future::pending().await
            }
            -3 => self.unwell.store(true, Ordering::Relaxed),
            // A timer of zero takes a millisecond.
            0 => {}
            ms => tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).await,
        }
    }
}

/// A call that never ends by itself.
struct Cancelled<'a>(&'a Actor, i32);

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        self.0.note(u64::from(self.1.unsigned_abs()) + 1_000_000);
    }
}

/// The public helloworld service.
struct Polite;

fn greeting(request: HelloRequest) -> HelloReply {
    let message = format!("Hello {}", request.name);
    HelloReply { message }
}

#[tonic::async_trait]
impl Greeter for Polite {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(greeting(request.into_inner())))
    }

    type SayHelloStreamReplyStream = Items<HelloReply>;

    async fn say_hello_stream_reply(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<Items<HelloReply>>, Status> {
        let reply = greeting(request.into_inner());
        let replies = futures_util::stream::iter((0..3).map(move |_| Ok(reply.clone())));
        Ok(Response::new(Box::pin(replies)))
    }

    type SayHelloBidiStreamStream = Items<HelloReply>;

    async fn say_hello_bidi_stream(
        &self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Items<HelloReply>>, Status> {
        let replies = request.into_inner().map(|request| request.map(greeting));
        Ok(Response::new(Box::pin(replies)))
    }
}

fn feature(point: Point) -> Feature {
    Feature {
        name: std::process::id().to_string(),
        location: Some(point),
    }
}

#[tonic::async_trait]
impl RouteGuide for Guide {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        let seen = |name| request.metadata().get(name).cloned();
        let (left, trace) = (seen("grpc-timeout"), seen("traceparent"));
        let point = request.into_inner();
        self.act(&point).await;
        let mut response = Response::new(feature(point));
        if let Some(left) = left {
            response.metadata_mut().insert("timeout-seen", left);
        }
        if let Some(trace) = trace {
            response.metadata_mut().insert("traceparent-seen", trace);
        }
        Ok(response)
    }

    type ListFeaturesStream = Items<Feature>;

    /// As many features as the rectangle's upper latitude says; a negative number: the worker exits
    /// after so many.
    async fn list_features(&self, request: Request<Rectangle>) -> Result<Response<Self::ListFeaturesStream>, Status> {
        let Rectangle { lo, hi } = request.into_inner();
        let (lo, hi) = (lo.unwrap_or_default(), hi.unwrap_or_default());
        self.act(&lo).await;
        let count = hi.latitude.unsigned_abs();
        let features = futures_util::stream::iter(0..count).map(move |_| Ok(feature(lo)));
        if hi.latitude < 0 {
            let end = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                std::process::exit(3)
            });
            return Ok(Response::new(Box::pin(features.chain(end))));
        }
        Ok(Response::new(Box::pin(features)))
    }

    async fn record_route(&self, request: Request<Streaming<Point>>) -> Result<Response<RouteSummary>, Status> {
        let mut points = request.into_inner();
        let mut summary = RouteSummary::default();
        while let Some(point) = points.message().await? {
            self.act(&point).await;
            summary.point_count += 1;
        }
        Ok(Response::new(summary))
    }

    type RouteChatStream = Items<RouteNote>;

    async fn route_chat(
        &self,
        request: Request<Streaming<RouteNote>>,
    ) -> Result<Response<Self::RouteChatStream>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}
