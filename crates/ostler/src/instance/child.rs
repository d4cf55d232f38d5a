//! An instance as a child of an OTP supervisor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_core::spec::PoolSpec;

use super::builder::OstlerBuilder;
use super::handle::Ostler;
use crate::supervisor::{
    ChildId, ChildKind, ChildSpec, ExitFailure, ExitReason, NotStarted, StartContext, StartedChild,
};

/// The instance of the latest start, so that it can be stopped in order.
type Current = Arc<Mutex<Option<Ostler>>>;

impl Ostler {
    /// An instance as a child of a [`Supervisor`](crate::supervisor::Supervisor), like any other:
    /// each start calls `make` for a builder, starts the instance linked under the supervisor, and
    /// starts the pools. It is up when its pools are supervised, which is before their workers are
    /// ready. Its handle is the [`info`](crate::supervisor::RunningChild::info) of its start.
    ///
    /// The supervisor stops it in order and gives it all the time that its workers' specifications
    /// allow (shutdown: infinity). It is restarted with its pools when its root gave up
    /// ([`RunGaveUp`](crate::RunGaveUp)) or it was killed.
    ///
    /// ```no_run
    /// use ostler::supervisor::{Supervisor, SupervisorOptions};
    /// use ostler::{Ostler, PoolSpec};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let workers = Ostler::child_spec(
    ///     "workers",
    ///     || Ostler::builder("demo"),
    ///     [PoolSpec::new("web", ["python3", "-m", "http.server"])],
    /// );
    /// let supervisor = Supervisor::spawn(None, SupervisorOptions::new(), vec![workers]).await?;
    /// let child = supervisor.child("workers").await?.expect("it was specified");
    /// let ostler = child.info_as::<Ostler>().expect("it is up");
    /// ostler.pools()[0].wait_ready().await?;
    /// supervisor.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn child_spec<F>(id: impl Into<ChildId>, make: F, pools: impl IntoIterator<Item = PoolSpec>) -> ChildSpec
    where
        F: Fn() -> OstlerBuilder + Send + Sync + 'static,
    {
        let pools: Vec<PoolSpec> = pools.into_iter().collect();
        let current = Current::default();
        let stopping = Arc::clone(&current);
        let begin = move |context| start(context, make(), pools.clone(), Arc::clone(&current));
        ChildSpec::starting(id, begin)
            .kind(ChildKind::Supervisor)
            .stop_with(move |_| {
                if let Some(ostler) = &*lock(&stopping) {
                    ostler.request_stop();
                }
            })
    }
}

async fn start(
    mut context: StartContext,
    builder: OstlerBuilder,
    pools: Vec<PoolSpec>,
    current: Current,
) -> Result<StartedChild, NotStarted> {
    let ostler = builder.start_linked(context.parent().clone()).await.map_err(failed)?;
    *lock(&current) = Some(ostler.clone());
    for spec in pools {
        let added = tokio::select! {
            biased;
            () = context.cancelled() => Err(NotStarted::cancelled()),
            added = ostler.add_pool(spec) => added.map(drop).map_err(failed),
        };
        if let Err(error) = added {
            // What it could not release is in its events, and the next start sweeps it.
            drop(ostler.stop().await);
            return Err(error);
        }
    }
    let (cell, tree) = (ostler.cell(), Arc::clone(ostler.tree()));
    let actor = cell.clone();
    let over = tokio::spawn(async move {
        tree.stopped().await;
        // Then it ends at once.
        drop(actor.wait(None).await);
    });
    Ok(StartedChild::new(cell, over).with_info(Arc::new(ostler)))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> NotStarted {
    NotStarted::Failed(ExitReason::Failed(ExitFailure::new(error)).into())
}

fn lock(current: &Mutex<Option<Ostler>>) -> MutexGuard<'_, Option<Ostler>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}
