//! The three pools, and how their workers are called.

use std::error::Error;
use std::path::Path;

use ostler::{Health, Ostler, Pool, PoolSpec, Port, Ready, Stdin};
use ostler_serve::stdio::{JsonLines, StdioClient};
use ostler_serve::{Client, ServeSpec, ServingPool, http::HttpService};
use serde::{Deserialize, Serialize};

use crate::line::Lines;

#[derive(Debug, Serialize)]
pub(crate) struct Text {
    pub(crate) text: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Words {
    pub(crate) words: usize,
}

/// What the front end calls. Clones share everything.
#[derive(Clone)]
pub(crate) struct Clients {
    /// Python workers over stdin and stdout.
    pub(crate) words: StdioClient<Text, Words, JsonLines>,
    /// Rust workers over HTTP: requests are passed on as they are.
    pub(crate) reverse: HttpService,
    /// Python workers over a line protocol of this example.
    pub(crate) shout: Client<Lines>,
    /// The pools, for what they say of themselves.
    pub(crate) pools: [ServingPool; 3],
}

/// Starts the pools, and waits until they are ready.
pub(crate) async fn start(ostler: &Ostler) -> Result<Clients, Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = |name: &str| here.join(name).display().to_string();
    let words = PoolSpec::new("words", ["python3", &script("words.py")])
        .stdin(Stdin::Pipe)
        .workers(4);
    let this_program = std::env::current_exe()?.display().to_string();
    let reverse = PoolSpec::new("reverse", [&this_program, "worker"])
        .port(Port::Unix)
        .ready(Ready::http("/healthz"))
        .health(Health::http("/healthz"))
        .workers(2);
    let shout = PoolSpec::new("shout", ["python3", &script("shout.py")])
        .port(Port::Any)
        .ready(Ready::tcp())
        .workers(2);
    let words = serve(ostler.add_pool(words).await?, 1);
    let reverse = serve(ostler.add_pool(reverse).await?, 8);
    let shout = serve(ostler.add_pool(shout).await?, 1);
    for pool in [&words, &reverse, &shout] {
        pool.pool().wait_ready().await?;
    }
    Ok(Clients {
        words: words.json_lines(),
        reverse: reverse.http(),
        shout: shout.client(Lines),
        pools: [words, reverse, shout],
    })
}

fn serve(pool: Pool, concurrency: u32) -> ServingPool {
    let spec = ServeSpec::default().concurrency(concurrency);
    ServingPool::new(pool, spec)
}
