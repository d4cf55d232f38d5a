//! Semantic search over the project's own documentation: a pool of Python workers turns each
//! passage into a vector, and the passages nearest to a question's vector answer it.
//!
//! `cargo run -p inference -- "how do I stop a worker?"`

mod chaos;
mod embedder;
mod passages;
mod search;
mod tally;
mod traces;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ostler::{Ostler, Pool, PoolSpec, Restart};
use ostler_python::PythonPool as _;

use embedder::Embedder;

/// Answers questions with the best pages of a folder of Markdown.
#[derive(Debug, Parser)]
struct Arguments {
    /// The questions. Default: three that the documentation can answer.
    questions: Vec<String>,
    /// The folder with the pages.
    #[arg(long, default_value_os_t = repository().join("docs"))]
    docs: PathBuf,
    /// How many Python processes.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Embeds at most this many passages; 0: all.
    #[arg(long, default_value_t = 0)]
    passages: usize,
    /// Kills a ready worker every 200 ms, as long as another one is ready.
    #[arg(long)]
    chaos: bool,
    /// The pause between two kills, in milliseconds.
    #[arg(long, default_value_t = 200)]
    every: u64,
}

const QUESTIONS: [&str; 3] = [
    "Which restart strategies of OTP are there, and how is intensity counted?",
    "How do I install and run Jaeger?",
    "How does a Python worker receive requests over stdin?",
];

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("inference: {}", ostler::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    let passages = passages::read(&arguments.docs, arguments.passages)?;
    let telemetry = traces::start()?;
    let traced = telemetry.is_some();
    let spec = tokio::task::spawn_blocking(move || pool_spec(arguments.workers, traced)).await??;
    let mut builder = Ostler::builder("inference");
    if let Some(telemetry) = &telemetry {
        builder = builder.observer(telemetry.clone());
    }
    let ostler = builder.start().await?;
    let outcome = serve(&ostler, spec, passages, &arguments).await;
    let report = ostler.stop().await?;
    traces::finish(telemetry).await;
    Ok(outcome? && report.is_clean())
}

/// The worker's virtual environment, made on the first run, and the pool. `traced`: with what
/// exports the handlers' spans.
fn pool_spec(workers: u32, traced: bool) -> Result<PoolSpec, ostler_python::PythonError> {
    let requirements = if traced {
        "requirements-traces.txt"
    } else {
        "requirements.txt"
    };
    let worker = Pool::python("worker.py")
        .base(Path::new(env!("CARGO_MANIFEST_DIR")))
        .requirements(requirements)
        .locked()
        .workers(workers)
        .start_timeout(Duration::from_secs(120))
        // The SDK of this checkout; an app of your own has `ostler-worker` in its requirements.
        .env("PYTHONPATH", repository().join("python/src").display().to_string())
        .env("OTEL_SERVICE_NAME", "inference-worker");
    let mut spec = worker.pool("minilm", &mut |line| eprintln!("{line}"))?;
    spec.restart = Restart::Permanent;
    // The chaos kills five workers a second, which is no fault of theirs.
    spec.intensity = 100_000;
    Ok(spec)
}

async fn serve(
    ostler: &Ostler,
    spec: PoolSpec,
    passages: Vec<passages::Passage>,
    arguments: &Arguments,
) -> Result<bool, Box<dyn Error>> {
    let pool: Pool = ostler.add_pool(spec).await?;
    pool.wait_ready().await?;
    let embedder = Arc::new(Embedder::new(pool.clone(), arguments.workers));
    let chaos = arguments
        .chaos
        .then(|| tokio::spawn(chaos::kill_workers(pool, Duration::from_millis(arguments.every))));
    let index = search::Index::build(&embedder, passages).await;
    let default = QUESTIONS.map(str::to_owned);
    let questions = match arguments.questions.as_slice() {
        [] => &default,
        asked => asked,
    };
    for question in questions {
        search::answer(&index, &embedder, question).await;
    }
    if let Some(chaos) = chaos {
        chaos.abort();
        println!("kills: {}", chaos::kills());
    }
    Ok(embedder.tally.summary())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
