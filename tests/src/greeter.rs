//! A conversation with gRPC's helloworld, whatever language its worker is written in.

use futures_util::{StreamExt as _, stream};
use ostler_serve::grpc::GrpcService;

use crate::helloworld::HelloRequest;
use crate::helloworld::greeter_client::GreeterClient;

/// A greeting for this name.
pub fn named(name: &str) -> HelloRequest {
    HelloRequest { name: name.to_owned() }
}

/// Calls each of its methods.
///
/// # Panics
///
/// If an answer is missing or wrong.
pub async fn greet(client: &mut GreeterClient<GrpcService>) {
    let reply = client.say_hello(named("Ada")).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "Hello Ada");
    let replies = client.say_hello_stream_reply(named("Grace")).await.expect("replies");
    let replies: Vec<_> = replies
        .into_inner()
        .map(|reply| reply.expect("a reply").message)
        .collect()
        .await;
    assert_eq!(replies, ["Hello Grace"; 3]);
    let names = stream::iter(["Barbara", "Frances"].map(named));
    let replies = client.say_hello_bidi_stream(names).await.expect("replies").into_inner();
    let replies: Vec<_> = replies.map(|reply| reply.expect("a reply").message).collect().await;
    assert_eq!(replies, ["Hello Barbara", "Hello Frances"]);
}
