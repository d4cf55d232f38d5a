//! Pools of Python workers: start, memory, calls and stop of 100 workers over stdio and over gRPC,
//! beside one bare grpcio server and a bare `multiprocessing.Pool` in the same run; 1,000 workers
//! of five lines; and what 64 MiB to a worker and back cost.
//!
//! `cargo bench -p ostler-tests --no-default-features --features redb --bench python [-- WORKERS]`
//!
//! The first run fetches grpcio and numpy from PyPI. The pools of 100 run with a soft limit of
//! 1,024 descriptors.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ostler::{Ostler, PoolSpec, Stdin};
use ostler_python::{Python, Transport};
use ostler_serve::stdio::Blob;
use ostler_serve::{CallOptions, ServingPool};
use prost::bytes::{Buf as _, BufMut as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::codec::{DecodeBuf, EncodeBuf};
use tonic::codegen::http;
use tonic::transport::Endpoint;

/// How long calls are counted.
const TIME: Duration = Duration::from_secs(5);
const LARGE: usize = 64 << 20;
/// Calls are made by as many callers as there are workers, with the default deadline for none.
const NO_DEADLINE: Duration = Duration::ZERO;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/python")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The worker, with grpcio.
fn worker(transport: Transport) -> Python {
    Python::new(here().join("echo.py"))
        .requirements(repository().join("python/requirements-test.txt"))
        .env("PYTHONPATH", repository().join("python/src").display().to_string())
        .transport(transport)
}

#[tokio::main]
async fn main() {
    let workers = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(100);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limits");
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(1024), hard).expect("a lower soft limit");
    let python = tokio::task::spawn_blocking(|| worker(Transport::Stdio).prepare(&mut |line| println!("{line}")));
    let python = python.await.expect("no panic").expect("an environment");
    println!(
        "load before: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    println!("{workers} workers, descriptors {}, calls for {TIME:?}", soft.min(1024));
    println!("| | start | memory a worker (PSS) | calls/s | stop |\n|---|---|---|---|---|");
    for transport in [Transport::Stdio, Transport::Grpc] {
        pool_of_python(transport, workers).await;
    }
    bare_pool(&python, workers);
    bare_grpc(&python, workers).await;
    five_lines(&python).await;
    large(&python).await;
}

async fn instance(directory: &Path) -> Ostler {
    let builder = Ostler::builder("bench").state_dir(directory.join("state"));
    builder.start().await.expect("it starts")
}

async fn pool_of_python(transport: Transport, workers: u32) {
    let directory = tempfile::tempdir().expect("a directory");
    let ostler = instance(directory.path()).await;
    let mut spec = worker(transport)
        .workers(workers)
        .pool("echo", &mut |_| {})
        .expect("a spec");
    spec.worker.start_timeout = Duration::from_secs(300);
    spec.max_starting = 8;
    let begun = Instant::now();
    let pool = ostler.add_pool(spec).await.expect("it is added");
    pool.wait_ready().await.expect("it is ready");
    let start = begun.elapsed();
    let serving = ServingPool::of(pool.clone());
    let rate = rate(&serving, workers).await;
    let memory: u64 = pool.workers().iter().filter_map(|worker| worker.pid).map(pss).sum();
    let begun = Instant::now();
    let report = ostler.stop().await.expect("it stops");
    assert!(report.is_success(), "{report}");
    let name = format!("Ostler, {transport:?}");
    row(&name, start, memory / u64::from(workers), rate, Some(begun.elapsed()));
}

/// Calls a second by as many callers as there are workers.
async fn rate(pool: &ServingPool, callers: u32) -> f64 {
    let options = CallOptions::new().timeout(NO_DEADLINE);
    // Connections, and whatever a first call makes.
    for _ in 0..callers {
        pool.call_with::<_, Value>("echo", &1, &options)
            .await
            .expect("an answer");
    }
    let pool = pool.clone();
    let call = move || {
        let (pool, options) = (pool.clone(), options.clone());
        async move {
            drop(
                pool.call_with::<_, Value>("echo", &1, &options)
                    .await
                    .expect("an answer"),
            )
        }
    };
    calls_a_second(callers, call).await
}

/// How many calls a second so many callers make, one after the other each.
async fn calls_a_second<C, F>(callers: u32, call: C) -> f64
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let caller = |call: C| async move {
        let mut calls = 0u32;
        while begun.elapsed() < TIME {
            call().await;
            calls += 1;
        }
        calls
    };
    let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(call.clone()))).collect();
    let mut calls = 0;
    for task in tasks {
        calls += task.await.expect("no panic");
    }
    f64::from(calls) / begun.elapsed().as_secs_f64()
}

fn row(name: &str, start: Duration, memory_kib: u64, rate: f64, stop: Option<Duration>) {
    let stop = stop.map_or(String::new(), |stop| format!("{:.2} s", stop.as_secs_f64()));
    let memory = memory_kib as f64 / 1024.0;
    println!(
        "| {name} | {:.1} s | {memory:.1} MiB | {rate:.0} | {stop} |",
        start.as_secs_f64()
    );
}

fn pss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0)
}

fn bare_pool(python: &Path, workers: u32) {
    let mut command = Command::new(python);
    command
        .arg(here().join("bare_pool.py"))
        .arg(workers.to_string())
        .arg(TIME.as_secs().to_string());
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("it runs");
    let figures: Value = serde_json::from_slice(&output.stdout).expect("its figures");
    for method in ["fork", "spawn"] {
        let of = |name: &str| figures[method][name].as_f64().unwrap_or_default();
        let start = Duration::from_secs_f64(of("start_s"));
        let memory = of("memory_kib") as u64 / u64::from(workers);
        row(
            &format!("multiprocessing.Pool, {method}"),
            start,
            memory,
            of("calls_per_s"),
            None,
        );
    }
}

/// Killed with the benchmark, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// MessagePack as it is, in gRPC's frames.
#[derive(Clone, Copy)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

type Bare = tonic::client::Grpc<tonic::transport::Channel>;

/// A bare grpcio server, and a bare client with one connection to it.
async fn bare_server(python: &Path, directory: &Path) -> (Killed, Bare, Duration) {
    let begun = Instant::now();
    let socket = directory.join("socket");
    let mut command = Command::new(python);
    command
        .arg(here().join("bare_grpc.py"))
        .arg(format!("unix:{}", socket.display()));
    let mut server = Killed(command.stdout(std::process::Stdio::piped()).spawn().expect("it starts"));
    let mut line = String::new();
    let stdout = server.0.stdout.take().expect("its stdout");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "ready");
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("an address");
    let channel = endpoint.connect().await.expect("it listens");
    let client = Bare::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    (server, client, begun.elapsed())
}

async fn bare_call(client: &mut Bare, message: Vec<u8>) -> Vec<u8> {
    client.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/ostler.worker.v1.Worker/Call");
    let answer = client.unary(tonic::Request::new(message), path, Raw).await;
    answer.expect("an answer").into_inner()
}

async fn bare_grpc(python: &Path, callers: u32) {
    let directory = tempfile::tempdir().expect("a directory");
    let (server, client, start) = bare_server(python, directory.path()).await;
    let message = rmp_serde::to_vec_named(&json!({"body": 1})).expect("a message");
    let call = move || {
        let (mut client, message) = (client.clone(), message.clone());
        async move { drop(bare_call(&mut client, message).await) }
    };
    let rate = calls_a_second(callers, call).await;
    row("grpcio, one bare server", start, pss(server.0.id()), rate, None);
}

/// 1,000 workers of five lines, with all descriptors that this process may have.
async fn five_lines(python: &Path) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limits");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the hard limit");
    let directory = tempfile::tempdir().expect("a directory");
    let ostler = instance(directory.path()).await;
    let file = here().join("five_lines.py");
    let mut spec = PoolSpec::new(
        "five",
        [
            python.display().to_string(),
            "-SE".to_owned(),
            file.display().to_string(),
        ],
    );
    spec.workers = 1000;
    spec.worker.stdin = Stdin::Pipe;
    let begun = Instant::now();
    let pool = ostler.add_pool(spec).await.expect("it is added");
    pool.wait_ready().await.expect("it is ready");
    let ready = begun.elapsed();
    let serving = ServingPool::of(pool.clone());
    let options = CallOptions::new().timeout(NO_DEADLINE);
    let begun = Instant::now();
    // A lease each: every one of them answers.
    let mut leases = Vec::new();
    for _ in 0..1000 {
        leases.push(serving.checkout().await.expect("a worker"));
    }
    let answers = leases.iter().zip(0u32..).map(|(lease, n)| {
        let options = &options;
        async move {
            lease
                .json_lines::<u32, u32>()
                .call_with(&n, options)
                .await
                .expect("an answer")
                == n
        }
    });
    let answered = futures_util::future::join_all(answers)
        .await
        .into_iter()
        .filter(|right| *right)
        .count();
    let answer = begun.elapsed();
    drop(leases);
    let memory: u64 = pool.workers().iter().filter_map(|worker| worker.pid).map(pss).sum();
    let begun = Instant::now();
    let report = ostler.stop().await.expect("it stops");
    assert!(report.is_success() && answered == 1000, "{answered} answered; {report}");
    println!(
        "\n1,000 workers of five lines: exec'd after {:.1} s, all 1,000 answered {:.1} s later, {:.1} MiB each, stopped in {:.2} s",
        ready.as_secs_f64(),
        answer.as_secs_f64(),
        memory as f64 / 1024.0 / 1000.0,
        begun.elapsed().as_secs_f64()
    );
}

/// The median time of 64 MiB to a worker and back.
async fn large(python: &Path) {
    let data = vec![b'x'; LARGE];
    // Text always travels in the message.
    let text = "x".repeat(LARGE);
    println!("\n| 64 MiB to a worker and back | median of 9 |\n|---|---|");
    for (name, transport, shared) in [
        ("shared memory, over stdio", Transport::Stdio, true),
        ("in the message, over stdio", Transport::Stdio, false),
        ("in the message, over gRPC", Transport::Grpc, false),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let ostler = instance(directory.path()).await;
        let pool = worker(transport).start(&ostler, "echo").await.expect("it is ready");
        let mut times = Vec::new();
        for _ in 0..9 {
            let begun = Instant::now();
            let back = if shared {
                let blob = Blob::from(data.clone());
                pool.call::<_, Blob>("echo", &blob).await.expect("an answer").len()
            } else {
                pool.call::<_, String>("echo", &text).await.expect("an answer").len()
            };
            times.push(begun.elapsed());
            assert_eq!(back, LARGE);
        }
        ostler.stop().await.expect("it stops");
        median(name, times);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (_server, mut client, _) = bare_server(python, directory.path()).await;
    let mut times = Vec::new();
    for _ in 0..9 {
        let begun = Instant::now();
        let message = rmp_serde::to_vec_named(&json!({"body": text})).expect("a message");
        let answer = bare_call(&mut client, message).await;
        let answer: Answered = rmp_serde::from_slice(&answer).expect("a text");
        times.push(begun.elapsed());
        assert_eq!(answer.ok.len(), LARGE);
    }
    median("in the message, one bare grpcio server and tonic", times);
}

#[derive(Deserialize)]
struct Answered {
    ok: String,
}

fn median(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("| {name} | {:.0} ms |", times[times.len() / 2].as_secs_f64() * 1000.0);
}
