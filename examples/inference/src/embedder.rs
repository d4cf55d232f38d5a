//! The client of the pool: texts in, vectors out.

use std::time::Duration;

use ostler::{Pool, chain};
use ostler_serve::stdio::{StdioClient, StdioError};
use ostler_serve::{CallError, CallOptions, Refused, ServeSpec, ServingPool};

use crate::tally::Tally;

/// A text's place among all texts; vectors of related texts point the same way.
pub(crate) type Vector = Vec<f32>;

/// How often a request is made at most: each attempt may meet a worker that is killed.
const ATTEMPTS: u32 = 1000;
/// The pause after an attempt that failed.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Embedder {
    client: StdioClient<Vec<String>, Vec<Vector>>,
    /// Requests that make sense at once.
    pub(crate) parallel: usize,
    pub(crate) tally: Tally,
}

impl Embedder {
    pub(crate) fn new(pool: Pool, workers: u32) -> Self {
        let mut spec = ServeSpec::default();
        // Workers that fail here are killed by the chaos, and not by their requests.
        spec.breaker.failures = 0;
        spec.poison = 0;
        let serving = ServingPool::new(pool, spec);
        Self {
            client: serving.stdio().method("embed"),
            parallel: 2 * workers as usize,
            tally: Tally::default(),
        }
    }

    /// The vector of a text; `None`: it was not to be had in [`ATTEMPTS`] attempts, or the worker
    /// raised an exception.
    pub(crate) async fn embed(&self, text: String) -> Option<Vector> {
        self.tally.accepted();
        let texts = vec![text];
        // Embedding twice does no harm.
        let options = CallOptions::new().idempotent();
        for _ in 0..ATTEMPTS {
            match self.client.call_with(&texts, &options).await {
                Ok(mut vectors) => {
                    self.tally.answered();
                    return vectors.pop();
                }
                Err(StdioError::Call(CallError::Refused(Refused::PoolOver { end, .. }))) => {
                    eprintln!("the pool is over: {}", chain(&*end));
                    return None;
                }
                Err(StdioError::Call(CallError::Refused(_))) => self.tally.refused(),
                Err(StdioError::Call(CallError::Unknown(_))) => self.tally.unknown(),
                Err(error) => {
                    eprintln!("{}", chain(&error));
                    return None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}
