//! Calls two pools of Python workers: one over stdin and stdout, and one by a protocol of its own.
//!
//! `cargo run -p serve --no-default-features --features redb -- --chaos`

mod line;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler::{Ostler, Pool, PoolSpec, Port, Ready, Stdin};
use ostler_serve::stdio::StdioError;
use ostler_serve::{CallError, ServeSpec, ServingPool};
use serde::{Deserialize, Serialize};

const CALLERS: u64 = 16;
const TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
struct Text {
    text: String,
}

#[derive(Debug, Deserialize)]
struct Words {
    words: usize,
}

/// How the calls to one pool ended.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

impl Tally {
    fn count(&self, outcome: Result<(), &CallError>) {
        let counter = match outcome {
            Ok(()) => &self.answered,
            Err(CallError::Refused(_)) => &self.refused,
            Err(CallError::Unknown(_)) => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn summary(&self) -> String {
        let [answered, refused, unknown] =
            [&self.answered, &self.refused, &self.unknown].map(|counter| counter.load(Ordering::Relaxed));
        format!("{answered} answered, {refused} refused, {unknown} unknown")
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chaos = std::env::args().any(|argument| argument == "--chaos");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = |name: &str| here.join(name).display().to_string();
    let ostler = Ostler::builder("serve-example").start().await?;

    let words = PoolSpec::new("words", ["python3", &script("words.py")])
        .stdin(Stdin::Pipe)
        .workers(4);
    let words = ostler.add_pool(words).await?;
    let shout = PoolSpec::new("shout", ["python3", &script("shout.py")])
        .port(Port::Any)
        .ready(Ready::tcp())
        .workers(2);
    let shout = ostler.add_pool(shout).await?;
    words.wait_ready().await?;
    shout.wait_ready().await?;
    println!("4 workers count words over stdin and stdout, 2 shout over a line protocol of this example");

    let (by_words, by_shout) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let end = Instant::now() + TIME;
    let mut tasks = call_words(&ServingPool::new(words.clone(), ServeSpec::default()), &by_words, end);
    tasks.extend(call_shout(
        &ServingPool::new(shout.clone(), ServeSpec::default()),
        &by_shout,
        end,
    ));
    if chaos {
        tasks.push(tokio::spawn(kill_workers([words, shout], end)));
    }
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("words: {}; shout: {}", by_words.summary(), by_shout.summary());
    }
    for task in tasks {
        task.await?;
    }
    let rate = by_words.answered.load(Ordering::Relaxed) / TIME.as_secs();
    println!(
        "words: {}, {rate} per second\nshout: {}",
        by_words.summary(),
        by_shout.summary()
    );
    println!("{}", ostler.stop().await?);
    Ok(())
}

type Tasks = Vec<tokio::task::JoinHandle<()>>;

fn call_words(serving: &ServingPool, tally: &Arc<Tally>, end: Instant) -> Tasks {
    let caller = |_| {
        let client = serving.json_lines::<Text, Words>();
        let tally = Arc::clone(tally);
        tokio::spawn(async move {
            while Instant::now() < end {
                let text = "how many words are there".to_owned();
                match client.call(&Text { text }).await {
                    Ok(answer) => {
                        assert_eq!(answer.words, 5);
                        tally.count(Ok(()));
                    }
                    Err(StdioError::Call(error)) => failed(&tally, &error, end).await,
                    Err(error) => eprintln!("{error}"),
                }
            }
        })
    };
    (0..CALLERS).map(caller).collect()
}

fn call_shout(serving: &ServingPool, tally: &Arc<Tally>, end: Instant) -> Tasks {
    let caller = |_| {
        let client = serving.client(line::Lines);
        let tally = Arc::clone(tally);
        tokio::spawn(async move {
            while Instant::now() < end {
                match client.call("hello".to_owned()).await {
                    Ok(answer) => {
                        assert_eq!(answer, "HELLO");
                        tally.count(Ok(()));
                    }
                    Err(error) => failed(&tally, &error, end).await,
                }
            }
        })
    };
    (0..CALLERS).map(caller).collect()
}

/// Counts a call without an answer. While the circuit breaker is open, the caller waits for as long
/// as it says instead of asking again and again.
async fn failed(tally: &Tally, error: &CallError, end: Instant) {
    tally.count(Err(error));
    if let Some(wait) = error.retry_after() {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(wait.min(left)).await;
    }
}

/// Kills one of the workers every 200 ms.
async fn kill_workers(pools: [Pool; 2], end: Instant) {
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pids: Vec<u32> = pools
            .iter()
            .flat_map(Pool::workers)
            .filter_map(|worker| worker.pid)
            .collect();
        let chosen = fastrand::choice(&pids).and_then(|pid| i32::try_from(*pid).ok());
        if let Some(pid) = chosen {
            // It may have just ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
