//! Checkouts and returns per second: 8 callers, 4 workers that are idle again at once. Beside it,
//! in the same run, what a bare channel does with the same number of tokens.
//!
//! `cargo bench -p ostler-serve --no-default-features --features redb --bench checkout`. Without
//! `--bench`, which `cargo bench` passes, it runs once, for a moment: a check for CI.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler::{Ostler, PoolSpec};
use ostler_serve::{ServeSpec, ServingPool};
use tokio::sync::Mutex;

const CALLERS: usize = 8;
const WORKERS: u32 = 4;
/// How long, and how often: in a measurement, and in a check.
const MEASURED: (Duration, usize) = (Duration::from_secs(2), 3);
const CHECKED: (Duration, usize) = (Duration::from_millis(50), 1);

/// Runs `CALLERS` tasks of `turn` for this long; turns per second.
async fn rate<F: Future<Output = ()> + Send>(
    time: Duration,
    turn: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> f64 {
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let turn = turn.clone();
            tokio::spawn(async move {
                let mut turns = 0u64;
                while start.elapsed() < time {
                    for _ in 0..64 {
                        turn().await;
                    }
                    turns += 64;
                    tokio::task::yield_now().await;
                }
                turns
            })
        })
        .collect();
    let mut turns = 0;
    for caller in callers {
        turns += caller.await.expect("no caller panics");
    }
    turns as f64 / start.elapsed().as_secs_f64()
}

async fn pool(serving: &ServingPool, time: Duration) -> f64 {
    let serving = serving.clone();
    rate(time, move || {
        let serving = serving.clone();
        async move { drop(serving.checkout().await.expect("a worker")) }
    })
    .await
}

async fn channel(time: Duration) -> f64 {
    let (sender, receiver) = tokio::sync::mpsc::channel(WORKERS as usize);
    for worker in 0..WORKERS {
        sender.send(worker).await.expect("there is room");
    }
    let receiver = Arc::new(Mutex::new(receiver));
    rate(time, move || {
        let (sender, receiver) = (sender.clone(), Arc::clone(&receiver));
        async move {
            let token = receiver.lock().await.recv().await.expect("the senders live");
            sender.send(token).await.expect("there is room");
        }
    })
    .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state = tempfile::tempdir()?;
    let ostler = Ostler::builder("bench").state_dir(state.path()).start().await?;
    let idle = PoolSpec::new("idle", ["sleep", "1000"]).workers(WORKERS);
    let idle = ostler.add_pool(idle).await?;
    idle.wait_ready().await?;
    let serving = ServingPool::new(idle, ServeSpec::default());
    let timed = std::env::args().any(|argument| argument == "--bench");
    let (time, rounds) = if timed { MEASURED } else { CHECKED };
    if timed {
        println!("{CALLERS} callers, {WORKERS} workers; per second: checkout + return | the same tokens in a channel");
    }
    for _ in 0..rounds {
        let (ours, bare) = (pool(&serving, time).await, channel(time).await);
        assert!(ours > 0.0 && bare > 0.0, "no turn was made");
        if timed {
            println!("{ours:>12.0} | {bare:>12.0}");
        }
    }
    drop(serving);
    ostler.stop().await?;
    Ok(())
}
