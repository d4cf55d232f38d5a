//! What a worker with the package `ostler-worker` says about itself: its memory, that of its GPUs,
//! and what it is doing.

use std::time::Duration;

use serde::Deserialize;

use crate::error::BoxError;
use crate::pool::ServingPool;

/// A worker at one moment, as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct WorkerFigures {
    /// Resident memory of its process, in bytes, without its children; 0 where it can't be read.
    /// That of the whole tree is [`Pool::resident_memory`](ostler::Pool::resident_memory).
    #[serde(rename = "rss")]
    pub resident: u64,
    /// The GPUs that it can use, with the package `ostler-worker[gpu]` and an NVIDIA driver; else
    /// none.
    #[serde(default, rename = "gpu")]
    pub gpus: Vec<GpuMemory>,
    /// Requests that it works on.
    #[serde(default)]
    pub in_flight: u64,
    /// Requests that it has answered.
    #[serde(default)]
    pub served: u64,
    /// Segments of shared memory that it lends, for results that have not arrived.
    #[serde(default)]
    pub lent: u64,
}

/// The memory of one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct GpuMemory {
    /// Its number, as in `CUDA_VISIBLE_DEVICES`.
    pub index: String,
    /// Bytes in use, by all processes.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Why a worker's figures are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FiguresError {
    /// No worker with this index is ready.
    #[error("no worker with the index {0} is ready")]
    NotReady(u32),
    /// It did not answer in time.
    #[error("the worker did not answer within {0:?}")]
    Timeout(Duration),
    /// It can't be asked, or its answer can't be read; workers without the package `ostler-worker`
    /// know no such question.
    #[error("the worker's figures are not known")]
    Unknown(#[source] BoxError),
}

impl ServingPool {
    /// Asks the worker with this index for its figures. It answers beside its handlers, also while
    /// they are busy; the question waits in no queue and counts as no call. `within` bounds the
    /// whole of it; zero: no time at all. Cancel safe.
    ///
    /// # Errors
    /// No such worker is ready, it has not answered in time, or it knows no such question.
    pub async fn figures(&self, index: u32, within: Duration) -> Result<WorkerFigures, FiguresError> {
        let worker = self.serving().worker(index).filter(|worker| worker.is_serving());
        let worker = worker.ok_or(FiguresError::NotReady(index))?;
        let asking = async {
            #[cfg(feature = "grpc")]
            if !self.serving().is_piped() {
                let methods = crate::grpc::methods::GrpcMethods::of(self.serving());
                return methods.ping(&worker).await;
            }
            crate::stdio::ping(self.serving(), &worker).await
        };
        let answer = tokio::time::timeout(within, asking).await;
        let answer = answer.map_err(|_| FiguresError::Timeout(within))?;
        let answer = answer.map_err(FiguresError::Unknown)?;
        rmp_serde::from_slice(&answer).map_err(|error| FiguresError::Unknown(error.into()))
    }
}
