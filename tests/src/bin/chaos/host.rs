//! The host: a program that embeds Ostler and executes the observer's requests from its stdin.
//!
//! Requests, replies and events are lines of JSON. The end of stdin is a stop request, so that
//! nothing is left behind if the observer dies.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use ostler::{Ostler, Pool, PoolError};
use ostler_core::chain::chain;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::pools::{self, PoolKind};

/// The arguments of a host.
#[derive(Debug, Clone)]
pub(crate) struct HostArguments {
    pub(crate) app: String,
    pub(crate) state: PathBuf,
    pub(crate) tag: String,
    pub(crate) cgroups: bool,
}

/// Runs until asked to end.
pub(crate) fn run(arguments: &HostArguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio runtime");
    runtime.block_on(serve(arguments))
}

fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    // If the observer is gone, stdin has ended too.
    _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn serve(arguments: &HostArguments) -> ExitCode {
    let builder = Ostler::builder(&arguments.app)
        .state_dir(&arguments.state)
        .cgroups(arguments.cgroups);
    let mut events = builder.subscribe();
    let forwarder = tokio::spawn(async move {
        while let Some(item) = events.recv().await {
            let event = item.event().expect("the forwarder keeps up");
            say(&serde_json::to_value(&*event).expect("serialising an event"));
        }
    });
    let ostler = match builder.start().await {
        Ok(ostler) => Arc::new(ostler),
        Err(error) => {
            say(&json!({ "failed": chain(&error) }));
            return ExitCode::FAILURE;
        }
    };
    let swept = ostler.swept();
    say(&json!({ "started": {
        "run": ostler.run_id().to_string(), "swept_runs": swept.runs, "live": swept.live,
        "killed": swept.killed, "survivors": swept.survivors, "remarks": swept.remarks,
    }}));
    let end = obey(&ostler, &arguments.tag).await;
    finish(end, ostler, forwarder).await
}

/// How a host ends.
enum EndOrder {
    Stop {
        id: Value,
    },
    Return,
    /// The root gave up.
    Over(String),
}

async fn finish(end: EndOrder, ostler: Arc<Ostler>, forwarder: tokio::task::JoinHandle<()>) -> ExitCode {
    match end {
        EndOrder::Return => return ExitCode::SUCCESS,
        EndOrder::Over(how) => {
            _ = forwarder.await;
            say(&json!({ "over": how }));
        }
        EndOrder::Stop { id } => {
            // Tasks of other requests hold a handle until the stop completes them.
            let mut ostler = ostler;
            let ostler = loop {
                match Arc::try_unwrap(ostler) {
                    Ok(ostler) => break ostler,
                    Err(shared) => ostler = shared,
                }
                tokio::task::yield_now().await;
            };
            let stopped = ostler.stop().await;
            _ = forwarder.await;
            say(&match stopped {
                Ok(report) => json!({ "id": id, "ok": report.to_string(), "success": report.orphans.is_empty()
                    && report.root_gave_up.is_none() }),
                Err(error) => json!({ "id": id, "error": chain(&error) }),
            });
        }
    }
    ExitCode::SUCCESS
}

async fn obey(ostler: &Arc<Ostler>, tag: &str) -> EndOrder {
    let mut orders = orders();
    let pools = Arc::new(Pools {
        all: Mutex::default(),
        tag: tag.to_owned(),
    });
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            report = ostler.ended() => return EndOrder::Over(report.to_string()),
        };
        let Some(order) = order else {
            return EndOrder::Stop { id: Value::Null };
        };
        match order["do"].as_str() {
            Some("stop") => {
                return EndOrder::Stop {
                    id: order["id"].clone(),
                };
            }
            Some("return") => return EndOrder::Return,
            Some("abort") => std::process::abort(),
            _ => {}
        }
        let (ostler, pools) = (Arc::clone(ostler), Arc::clone(&pools));
        tokio::spawn(async move { say(&pools.carry_out(ostler, &order).await) });
    }
}

/// Reads requests on a separate thread, until stdin ends.
fn orders() -> mpsc::UnboundedReceiver<Value> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        for line in lines {
            let order = serde_json::from_str(&line).expect("parsing a request");
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    orders
}

struct Pools {
    all: Mutex<Vec<Pool>>,
    tag: String,
}

impl Pools {
    async fn carry_out(&self, ostler: Arc<Ostler>, order: &Value) -> Value {
        let outcome = match order["do"].as_str() {
            Some("status") => Ok(self.status(&ostler)),
            Some("begin") => self.begin(&ostler, order).await,
            Some("end") => self.end(order).await,
            Some("restart") => self.restart(order).await,
            Some("quit") => self.quit(ostler).await,
            _ => Err("unknown request".to_owned()),
        };
        match outcome {
            Ok(value) => json!({ "id": order["id"], "ok": value }),
            Err(error) => json!({ "id": order["id"], "error": error }),
        }
    }

    fn named(&self, order: &Value) -> Result<Pool, String> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let named = all.iter().find(|pool| order["pool"] == pool.name());
        named.cloned().ok_or_else(|| format!("no such pool: {}", order["pool"]))
    }

    /// Starts one pool, or all pools if `pool` is absent.
    async fn begin(&self, ostler: &Ostler, order: &Value) -> Result<Value, String> {
        let naked = order["naked"] == true;
        let selected = |kind: &&PoolKind| order["pool"].is_null() || order["pool"] == kind.name;
        for kind in pools::kinds(naked).filter(selected) {
            let pool = ostler.pool_from(kind.spec(&self.tag)).start().await;
            let pool = pool.map_err(|error: PoolError| chain(&error))?;
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|old| old.name() != kind.name);
            all.push(pool);
        }
        Ok(Value::Null)
    }

    async fn end(&self, order: &Value) -> Result<Value, String> {
        self.named(order)?.stop().await;
        Ok(Value::Null)
    }

    async fn restart(&self, order: &Value) -> Result<Value, String> {
        let index = order["index"].as_u64().and_then(|index| u32::try_from(index).ok());
        let pool = self.named(order)?;
        let restarted = pool.restart_worker(index.ok_or("missing index")?).await;
        restarted.map(|()| Value::Null).map_err(|error| chain(&error))
    }

    /// Starts a pool that gives up. Replies once it has.
    async fn quit(&self, ostler: Arc<Ostler>) -> Result<Value, String> {
        let pool = ostler.pool_from(pools::quitters(&self.tag)).start().await;
        // Only the last handle can stop the instance.
        drop(ostler);
        let phase = pool.map_err(|error| chain(&error))?.wait_stopped().await;
        Ok(json!(format!("{phase:?}")))
    }

    fn status(&self, ostler: &Ostler) -> Value {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let workers: Vec<Value> = all
            .iter()
            .flat_map(|pool| {
                let one = |(index, state): (usize, ostler::WorkerState)| {
                    json!({
                        "pool": pool.name(), "index": index, "pid": state.pid,
                        "incarnation": state.incarnation.map(|incarnation| incarnation.0),
                        "state": state.state.map(|state| format!("{state:?}")),
                        "gave_up": state.gave_up,
                    })
                };
                pool.workers().into_iter().enumerate().map(one).collect::<Vec<_>>()
            })
            .collect();
        json!({ "workers": workers, "records": ostler.table_len(), "guardian": ostler.guardian_pid() })
    }
}
