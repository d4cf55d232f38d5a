//! What a call through a pool costs: unary gRPC over a Unix socket through `ServingPool::grpc`,
//! beside the same call to the same worker over a bare tonic channel; a call over stdin and stdout;
//! and the checkout and return of a worker without a call.
//!
//! `cargo bench -p ostler-tests --no-default-features --features redb --bench calls`
//!
//! Bare channel and pool take turns in short blocks, so that both meet the same machine. The bounds
//! are printed with the figures, and a bound that is missed is named.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler::{Ostler, Pool, PoolSpec, Port, Ready, Stdin};
use ostler_serve::{ServeSpec, ServingPool};
use ostler_tests::program;
use ostler_tests::route_guide::Point;
use ostler_tests::route_guide::route_guide_client::RouteGuideClient;
use serde_json::{Value, json};

/// Each subject's calls are timed in so many blocks of so many.
const BLOCKS: usize = 60;
const CALLS: usize = 500;
const WARM_UP: usize = 2_000;
/// Throughput: callers, turns of each subject, and the length of a turn.
const CALLERS: usize = 64;
const TURNS: usize = 4;
const TURN: Duration = Duration::from_secs(1);
/// Checkout: callers, workers that are idle again at once, and the bound.
const CHECKOUT_CALLERS: usize = 8;
const CHECKOUT_WORKERS: u32 = 4;
const CHECKOUTS: f64 = 300_000.0;
/// What a gRPC call through the pool may cost more than over the bare channel.
const MEDIAN: f64 = 10.0;
const P99: f64 = 25.0;
/// The share of the bare channel's throughput that the pool has to reach, in percent.
const SHARE: f64 = 90.0;

type Call = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What is measured, and its figures.
struct Subject {
    name: &'static str,
    call: Call,
    times: Vec<Duration>,
    per_second: Vec<f64>,
}

impl Subject {
    fn new<F: Future<Output = ()> + Send + 'static>(
        name: &'static str,
        call: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            call: Arc::new(move || Box::pin(call())),
            times: Vec::new(),
            per_second: Vec::new(),
        }
    }

    /// The share `part` of the calls took at most so many microseconds.
    fn micros(&self, part: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6
    }

    /// The median of its turns.
    fn rate(&self) -> f64 {
        let mut rates = self.per_second.clone();
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

/// Calls one after the other, in turns.
async fn time(subjects: &mut [Subject]) {
    for subject in subjects.iter() {
        for _ in 0..WARM_UP {
            (subject.call)().await;
        }
    }
    for _ in 0..BLOCKS {
        for subject in subjects.iter_mut() {
            for _ in 0..CALLS {
                let begun = Instant::now();
                (subject.call)().await;
                subject.times.push(begun.elapsed());
            }
        }
    }
}

/// As many calls as so many callers make, in turns.
async fn saturate(subjects: &mut [Subject], callers: usize) {
    for _ in 0..TURNS {
        for subject in subjects.iter_mut() {
            let rate = rate(&subject.call, callers).await;
            subject.per_second.push(rate);
        }
    }
}

async fn rate(call: &Call, callers: usize) -> f64 {
    let begun = Instant::now();
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let call = Arc::clone(call);
            tokio::spawn(async move {
                let mut calls = 0u64;
                while begun.elapsed() < TURN {
                    for _ in 0..16 {
                        call().await;
                    }
                    calls += 16;
                    tokio::task::yield_now().await;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("no caller panics");
    }
    calls as f64 / begun.elapsed().as_secs_f64()
}

fn worker(name: &str, protocol: &str, directory: &Path) -> PoolSpec {
    let worker = program("ostler-serve-worker").display().to_string();
    let record = directory.join(name).display().to_string();
    PoolSpec::new(name, [&*worker, protocol, &*record, "bench"])
}

async fn started(ostler: &Ostler, spec: PoolSpec) -> Pool {
    let pool = ostler.add_pool(spec).await.expect("the pool starts");
    pool.wait_ready().await.expect("it becomes ready");
    pool
}

/// The bare channel, the pool, and stdio.
async fn subjects(ostler: &Ostler, directory: &Path) -> Vec<Subject> {
    let serve = ServeSpec::default().concurrency(128);
    let called = worker("called", "grpc", directory)
        .port(Port::Unix)
        .ready(Ready::grpc());
    let called = started(ostler, called).await;
    let spoken_to = worker("spoken-to", "packet", directory).stdin(Stdin::Pipe);
    let spoken_to = started(ostler, spoken_to).await;
    let point = Point {
        latitude: 1,
        longitude: 0,
    };
    let socket = called.worker(0).expect("one worker").socket().expect("a socket");
    let channel = RouteGuideClient::connect(format!("unix://{}", socket.display())).await;
    let channel = channel.expect("it listens");
    let pool = RouteGuideClient::new(ServingPool::new(called, serve.clone()).grpc());
    let stdio = ServingPool::new(spoken_to, serve).stdio::<Value, Value>();
    vec![
        Subject::new("bare tonic channel", move || {
            let mut client = channel.clone();
            async move { drop(client.get_feature(point).await.expect("an answer")) }
        }),
        Subject::new("pool, gRPC", move || {
            let mut client = pool.clone();
            async move { drop(client.get_feature(point).await.expect("an answer")) }
        }),
        Subject::new("pool, stdio", move || {
            let client = stdio.clone();
            async move { drop(client.call(&json!({"key": 1})).await.expect("an answer")) }
        }),
    ]
}

async fn checkouts(ostler: &Ostler) -> Subject {
    let idle = PoolSpec::new("idle", ["sleep", "1000"]).workers(CHECKOUT_WORKERS);
    let serving = ServingPool::new(started(ostler, idle).await, ServeSpec::default());
    Subject::new("checkout and return", move || {
        let serving = serving.clone();
        async move { drop(serving.checkout().await.expect("a worker")) }
    })
}

/// Prints a bound with what was measured.
fn bound(what: &str, measured: f64, unit: &str, holds: bool, bound: &str) {
    let verdict = if holds { "held" } else { "MISSED" };
    println!("{what:<46} {measured:>10.1} {unit:<4} bound {bound:<10} {verdict}");
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let builder = Ostler::builder("bench-calls").state_dir(directory.path().join("state"));
    let ostler = builder.start().await.expect("it starts");
    let mut calls = subjects(&ostler, directory.path()).await;
    time(&mut calls).await;
    saturate(&mut calls, CALLERS).await;
    let mut checkout = [checkouts(&ostler).await];
    saturate(&mut checkout, CHECKOUT_CALLERS).await;

    println!(
        "| {:<20} | {:>11} | {:>11} | {:>10} |",
        "", "median, µs", "p99, µs", "calls/s"
    );
    println!("|---|--:|--:|--:|");
    for subject in &calls {
        let (median, p99) = (subject.micros(0.5), subject.micros(0.99));
        println!(
            "| {:<20} | {median:>11.1} | {p99:>11.1} | {:>10.0} |",
            subject.name,
            subject.rate()
        );
    }
    println!(
        "| {:<20} | {:>11} | {:>11} | {:>10.0} |",
        checkout[0].name,
        "",
        "",
        checkout[0].rate()
    );
    let [bare, pool, _] = &calls[..] else {
        unreachable!("three subjects")
    };
    let (median, p99) = (
        pool.micros(0.5) - bare.micros(0.5),
        pool.micros(0.99) - bare.micros(0.99),
    );
    let share = 100.0 * pool.rate() / bare.rate();
    bound(
        "gRPC through the pool: more at the median",
        median,
        "µs",
        median <= MEDIAN,
        "<= 10 µs",
    );
    bound("gRPC through the pool: more at p99", p99, "µs", p99 <= P99, "<= 25 µs");
    bound(
        "gRPC through the pool: share of throughput",
        share,
        "%",
        share >= SHARE,
        ">= 90 %",
    );
    let rate = checkout[0].rate();
    bound(
        "checkout and return, 8 callers, 4 workers",
        rate,
        "/s",
        rate > CHECKOUTS,
        "> 300000/s",
    );
    ostler.stop().await.expect("nothing is left");
}
