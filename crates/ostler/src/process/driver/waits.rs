//! What a driver waits for, apart from its channels. None of these is ready while there is nothing
//! to wait for, and each is cancel safe.

use std::convert::Infallible;
use std::pin::Pin;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::protocol::{Done, Work};
use crate::instance::services::StopLevel;

/// Completes once, when the whole instance must be killed.
pub(super) async fn killed(stop_level: &mut Option<watch::Receiver<StopLevel>>) {
    let Some(level) = stop_level else {
        return std::future::pending().await;
    };
    let kill = level.wait_for(|level| *level == StopLevel::Kill).await.is_ok();
    *stop_level = None;
    if !kill {
        // The instance is gone, so no kill can come.
        std::future::pending().await
    }
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn listen(listening: &mut Option<Pin<Box<dyn Future<Output = Infallible> + Send>>>) -> Infallible {
    match listening {
        Some(listening) => listening.await,
        None => std::future::pending().await,
    }
}

/// Awaits the current watch, and clears it when it is done.
pub(super) async fn poll_watch(watching: &mut Option<Work>) -> Done {
    let Some(work) = watching else {
        return std::future::pending().await;
    };
    let done = work.await;
    *watching = None;
    done
}
