//! What a call through a pool costs: unary gRPC over a Unix socket through `ServingPool::grpc`,
//! beside the same call to the same worker over a bare tonic channel, in one run; and a call over
//! stdin and stdout.
//!
//! `cargo bench -p ostler-tests --no-default-features --features redb --bench calls`
//!
//! Goals: at most 10 µs more at the median and 25 µs at p99, and 90 % of the channel's throughput.

use std::path::Path;
use std::time::{Duration, Instant};

use ostler::{Ostler, PoolSpec, Port, Ready, Stdin};
use ostler_serve::{ServeSpec, ServingPool};
use ostler_tests::program;
use ostler_tests::route_guide::Point;
use ostler_tests::route_guide::route_guide_client::RouteGuideClient;
use serde_json::{Value, json};

const CALLS: usize = 20_000;
const WARM_UP: usize = 2_000;
const CALLERS: usize = 64;
const TIME: Duration = Duration::from_secs(3);

struct Figures {
    median: Duration,
    p99: Duration,
    per_second: f64,
}

/// Times `CALLS` calls one after the other, and then as many as `CALLERS` callers make in `TIME`.
async fn measure<F: Future<Output = ()> + Send>(call: impl Fn() -> F + Clone + Send + 'static) -> Figures {
    for _ in 0..WARM_UP {
        call().await;
    }
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        call().await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let begun = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut calls = 0u64;
                while begun.elapsed() < TIME {
                    call().await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("no caller panics");
    }
    Figures {
        median: times[CALLS / 2],
        p99: times[CALLS * 99 / 100],
        per_second: calls as f64 / begun.elapsed().as_secs_f64(),
    }
}

fn worker(name: &str, protocol: &str, directory: &Path) -> PoolSpec {
    let worker = program("ostler-serve-worker").display().to_string();
    let record = directory.join(name).display().to_string();
    PoolSpec::new(name, [&*worker, protocol, &*record, "bench"])
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let builder = Ostler::builder("bench-calls").state_dir(directory.path().join("state"));
    let ostler = builder.start().await.expect("it starts");
    let serve = ServeSpec {
        concurrency: 128,
        ..ServeSpec::default()
    };
    let called = ostler.add_pool(
        worker("called", "grpc", directory.path())
            .port(Port::Unix)
            .ready(Ready::grpc()),
    );
    let called = called.await.expect("the pool starts");
    let spoken_to = ostler.add_pool(worker("spoken-to", "packet", directory.path()).stdin(Stdin::Pipe));
    let spoken_to = spoken_to.await.expect("the pool starts");
    called.wait_ready().await.expect("it becomes ready");
    spoken_to.wait_ready().await.expect("it becomes ready");

    let point = Point {
        latitude: 1,
        longitude: 0,
    };
    let socket = called.worker(0).expect("one worker").socket().expect("a socket");
    let channel = RouteGuideClient::connect(format!("unix://{}", socket.display())).await;
    let channel = channel.expect("it listens");
    let bare = measure(move || {
        let mut client = channel.clone();
        async move { drop(client.get_feature(point).await.expect("an answer")) }
    })
    .await;
    let pool = RouteGuideClient::new(ServingPool::new(called, serve.clone()).grpc());
    let pool = measure(move || {
        let mut client = pool.clone();
        async move { drop(client.get_feature(point).await.expect("an answer")) }
    })
    .await;
    let stdio = ServingPool::new(spoken_to, serve).stdio::<Value, Value>();
    let stdio = measure(move || {
        let client = stdio.clone();
        async move { drop(client.call(&json!({"key": 1})).await.expect("an answer")) }
    })
    .await;

    println!("{:<22} {:>10} {:>10} {:>10}", "unary call", "median", "p99", "calls/s");
    for (name, figures) in [
        ("bare tonic channel", &bare),
        ("pool, gRPC", &pool),
        ("pool, stdio", &stdio),
    ] {
        let Figures {
            median,
            p99,
            per_second,
        } = figures;
        println!("{name:<22} {median:>10.1?} {p99:>10.1?} {per_second:>10.0}");
    }
    let more = |pool: Duration, bare: Duration| pool.as_secs_f64() * 1e6 - bare.as_secs_f64() * 1e6;
    println!(
        "gRPC through the pool: {:+.1} µs at the median (goal: 10), {:+.1} µs at p99 (goal: 25), {:.0} % of the throughput (goal: 90)",
        more(pool.median, bare.median),
        more(pool.p99, bare.p99),
        100.0 * pool.per_second / bare.per_second
    );
    ostler.stop().await.expect("nothing is left");
}
