//! An HTTP front end whose requests are served by pools of Rust and Python workers, with callers of
//! its own.
//!
//! `cargo run -p serve --no-default-features --features redb -- --chaos`

mod front;
mod line;
mod load;
mod pools;
mod tally;
mod worker;

use std::error::Error;
use std::time::{Duration, Instant};

use ostler::Ostler;
use ostler::otlp::{FLUSH_LIMIT, Settings, Telemetry};
use tokio::net::TcpListener;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::tally::{PATHS, Tallies};

const USAGE: &str = "usage: serve [--chaos] [--listen ADDRESS] [--seconds N] [--callers N]
  --chaos            kill a worker every 200 ms
  --listen ADDRESS   where the front end listens; default 127.0.0.1:0, any free port
  --seconds N        how long the callers call; default 10
  --callers N        how many call each path; default 8, 0: none
With OTEL_EXPORTER_OTLP_ENDPOINT set, traces, metrics and log records go there.";

struct Options {
    chaos: bool,
    listen: String,
    seconds: u64,
    callers: usize,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            chaos: false,
            listen: "127.0.0.1:0".to_owned(),
            seconds: 10,
            callers: 8,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))
            };
            let number = |text: String| {
                text.parse::<u32>()
                    .map_err(|error| format!("{argument} {text}: {error}"))
            };
            match argument.as_str() {
                "--chaos" => options.chaos = true,
                "--listen" => options.listen = value()?,
                "--seconds" => options.seconds = number(value()?)?.into(),
                "--callers" => options.callers = number(value()?)? as usize,
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "worker").is_some() {
        return worker::run().await;
    }
    let options = Options::read(arguments).unwrap_or_else(|message| {
        eprintln!("{message}");
        std::process::exit(2)
    });
    let exported = std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
    let telemetry = match exported {
        true => Telemetry::start(&Settings::default())?,
        false => None,
    };
    let layer = telemetry.as_ref().map(Telemetry::layer);
    tracing_subscriber::registry().with(layer).init();
    let mut builder = Ostler::builder("serve-example");
    if let Some(telemetry) = &telemetry {
        builder = builder.observer(telemetry.clone());
    }
    let ostler = builder.start().await?;
    let served = serve(&ostler, &options).await;
    println!("{}", ostler.stop().await?);
    if let Some(telemetry) = telemetry {
        tokio::task::spawn_blocking(move || telemetry.shutdown(FLUSH_LIMIT)).await?;
    }
    served
}

async fn serve(ostler: &Ostler, options: &Options) -> Result<(), Box<dyn Error>> {
    let clients = pools::start(ostler).await?;
    let listener = TcpListener::bind(&options.listen).await?;
    let address = listener.local_addr()?;
    println!("http://{address} serves POST /words, /reverse and /shout, and GET /");
    let tallies = Tallies::default();
    let front = tokio::spawn(front::serve(listener, clients.clone(), tallies.clone()));
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut tasks = Vec::new();
    for path in 0..PATHS.len() {
        tasks.extend((0..options.callers).map(|_| tokio::spawn(load::call(address, path, tallies.clone(), end))));
    }
    if options.chaos {
        tasks.push(tokio::spawn(load::kill_workers(clients.pools.clone(), end)));
    }
    let mut before = tallies.answered();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = tallies.answered();
        println!("{}", tallies.line(std::array::from_fn(|path| now[path] - before[path])));
        before = now;
    }
    for task in tasks {
        task.await?;
    }
    front.abort();
    let seconds = options.seconds.max(1);
    println!(
        "in all: {}",
        tallies.line(tallies.answered().map(|answered| answered / seconds))
    );
    Ok(())
}
