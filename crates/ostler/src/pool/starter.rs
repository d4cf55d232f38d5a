//! The specifications of starters and of the pool's supervisor. Neither has an actor type of its
//! own.
//!
//! A starter sits between pool and worker so that restarting a worker does not involve the pool,
//! and so that a worker and its resources end together (ADR 0001,
//! `ADR/0001-a-starter-between-pool-and-worker.md`).

use std::sync::Arc;

use futures_util::FutureExt;
use ostler_core::chain::chain;
use ostler_core::failure::Failure;
use ostler_core::pool::PoolInput;
use ostler_core::spec::PoolSpec;
use ostler_telemetry::{EventKind, Facts};

use super::shared::PoolShared;
use super::worker::{WorkerActor, WorkerArguments};
use crate::hub::About;
use crate::process::Slot;
use crate::supervisor::{
    AutoShutdown, ChildKind, ChildSpec, ChildStart, DynamicSupervisor, End, ExitFailure, ExitReason, NotStarted,
    Report, Restart, Shutdown, StartChildError, StartContext, StartedChild, Supervisor, SupervisorOptions,
};

/// The id of the worker in its starter.
pub(super) const WORKER: &str = "worker";

/// The pool's supervisor as a child of the root: dynamic, with one starter per slot. If it is
/// killed, it comes back with all starters that have neither finished nor given up. The new
/// incarnations wait for the release of the old ones, because slots outlive their actors.
pub(crate) fn pool_child(shared: &Arc<PoolShared>) -> ChildSpec {
    let (starting, stopping) = (Arc::clone(shared), Arc::clone(shared));
    let start = move |context| start_pool(Arc::clone(&starting), context);
    ChildSpec::starting(shared.child_id.as_str(), start)
        .kind(ChildKind::Supervisor)
        .restart(Restart::Transient)
        .stop_with(move |_| {
            stopping.stop_ahead();
            if let Some(supervisor) = stopping.supervisor() {
                supervisor.request_stop();
            }
        })
}

async fn start_pool(shared: Arc<PoolShared>, mut context: StartContext) -> Result<StartedChild, NotStarted> {
    let spec = &shared.spec;
    let reports = Arc::clone(&shared);
    // The events say what its reports would.
    let options = SupervisorOptions::new()
        .quiet()
        .intensity(spec.intensity.max(1), spec.period)
        .reporter(move |report| {
            if let Report::ReachedMaxRestartIntensity { child, reason, .. } = report {
                reports.give_up(format!("starter {child} itself ended too often: {}", chain(&reason)));
            }
        });
    let supervisor = DynamicSupervisor::spawn_linked(None, options, context.parent().clone())
        .await
        .map_err(not_started)?;
    shared.note_supervisor(supervisor.clone());
    let starting = async {
        // A change of the pool's size goes first, and this starts the slots that are there then.
        let _sizing = shared.sizing.lock().await;
        for slot in shared.slots.present().iter().filter(|slot| !slot.is_over()) {
            start_slot(&supervisor, slot, &shared).await?;
        }
        Ok::<(), StartChildError>(())
    };
    let started = tokio::select! {
        biased;
        () = context.cancelled() => Err(NotStarted::cancelled()),
        started = starting => started.map_err(not_started),
    };
    if let Err(error) = started {
        supervisor.stop().await;
        return Err(error);
    }
    let waited = supervisor.clone();
    let join = tokio::spawn(async move { drop(waited.wait().await) });
    Ok(StartedChild::new(supervisor.cell(), join))
}

/// Starts the slot's starter below the pool's supervisor.
pub(super) async fn start_slot(
    supervisor: &DynamicSupervisor,
    slot: &Arc<Slot>,
    shared: &Arc<PoolShared>,
) -> Result<(), StartChildError> {
    let child = match supervisor.start_child(starter_child(slot, shared)).await? {
        ChildStart::Started(running) => running.child,
        ChildStart::Ignored(child) => child,
    };
    shared.note_starter_key(slot.worker.index, child.key);
    Ok(())
}

/// A slot's starter as a child of the pool's supervisor. One that finished or gave up is not
/// started again; one that was killed is.
fn starter_child(slot: &Arc<Slot>, shared: &Arc<PoolShared>) -> ChildSpec {
    let (starting, stopping) = ((Arc::clone(slot), Arc::clone(shared)), Arc::clone(shared));
    let (index, released) = (slot.worker.index, Arc::clone(slot));
    let start = move |context| start_starter(Arc::clone(&starting.0), Arc::clone(&starting.1), context);
    ChildSpec::starting(slot.worker.to_string(), start)
        .kind(ChildKind::Supervisor)
        .restart(Restart::Transient)
        .gate(move |_| settled(Arc::clone(&released)))
        .stop_with(move |_| {
            if let Some(starter) = stopping.starter(index) {
                starter.request_stop();
            }
        })
}

async fn start_starter(
    slot: Arc<Slot>,
    shared: Arc<PoolShared>,
    context: StartContext,
) -> Result<StartedChild, NotStarted> {
    let spec = &shared.spec;
    let reports = (Arc::clone(&slot), Arc::clone(&shared));
    let mut options = SupervisorOptions::new()
        .quiet()
        .intensity(spec.intensity, spec.period)
        .reporter(move |report| tell(&reports.0, &reports.1, report));
    if spec.restart != Restart::Permanent {
        options = options.auto_shutdown(AutoShutdown::AnySignificant);
    }
    if let Some(backoff) = spec.restart_backoff() {
        options = options.backoff(backoff);
    }
    let worker = worker_child(&slot, &shared);
    let (starter, started) = Supervisor::spawn_child(context, options, vec![worker]).await?;
    shared.note_starter(slot.worker.index, starter.clone());
    Ok(started.then(move || {
        // Its worker has ended for good. An actor that was killed could not report it.
        if starter.wait().now_or_never().flatten() == Some(End::AutoShutdown) {
            finished(&slot, &shared);
        }
    }))
}

/// The worker as a child of its starter, without a timeout, because its own specification bounds
/// its stop. Its gate delays the next incarnation until this one is released.
pub(super) fn worker_child(slot: &Arc<Slot>, shared: &Arc<PoolShared>) -> ChildSpec {
    let (slot, pool, released) = (Arc::clone(slot), Arc::clone(shared), Arc::clone(slot));
    let restart = pool.spec.restart;
    let make = move || {
        (
            WorkerActor,
            WorkerArguments {
                slot: Arc::clone(&slot),
                pool: Arc::clone(&pool),
            },
        )
    };
    ChildSpec::actor(WORKER, make)
        .restart(restart)
        .significant(restart != Restart::Permanent)
        .shutdown(Shutdown::Infinity)
        .gate(move |_| settled(Arc::clone(&released)))
}

fn finished(slot: &Slot, shared: &PoolShared) {
    slot.note_finished();
    let about = About::worker(&slot.worker, None);
    shared
        .services
        .hub
        .emit_below(&slot.last_stop(), EventKind::WorkerFinished, about, Facts::default());
    shared.tell(PoolInput::Finished(slot.worker.index));
}

async fn settled(slot: Arc<Slot>) {
    slot.settled().await;
}

/// Translates OTP's reports about the worker to Ostler's events.
fn tell(slot: &Slot, shared: &PoolShared, report: Report) {
    let about = || About::worker(&slot.worker, slot.state().incarnation);
    match report {
        Report::RestartScheduled {
            attempt,
            delay,
            reason,
            intensity,
            at,
            ..
        } => {
            slot.note_intensity(intensity, at);
            let (index, last) = (slot.worker.index, failure(&reason));
            // The pause runs beside the backoff.
            let pause = slot.pause();
            shared.tell(match last.filter(|_| pause.is_some()) {
                Some(failure) => PoolInput::Waiting(index, failure.clone()),
                None => PoolInput::Restarting(index),
            });
            let facts = Facts::default()
                .with_attempt(attempt)
                .with_delay(delay.max(pause.unwrap_or_default()))
                .with_reason(last.map(|failure| failure.reason));
            shared
                .services
                .hub
                .emit_below(&slot.last_stop(), EventKind::WorkerRestarting, about(), facts);
        }
        Report::ReachedMaxRestartIntensity { reason, restarts, .. } => {
            slot.note_gave_up();
            shared.services.hub.emit_below(
                &slot.last_stop(),
                EventKind::WorkerGaveUp,
                about(),
                why(&shared.spec, restarts, &reason),
            );
            shared.tell(PoolInput::GaveUp(slot.worker.index, failure(&reason).cloned()));
        }
        Report::ChildTerminated { reason, .. } | Report::StartError { reason, .. }
            if reason.is_abnormal() && failure(&reason).is_none() =>
        {
            // Its process is ended and reported anyway.
            tracing::error!(target: "ostler", worker = %slot.worker, reason = %chain(&reason), "the actor of a worker has ended by itself");
        }
        _ => {}
    }
}

fn why(spec: &PoolSpec, restarts: usize, reason: &ExitReason) -> Facts {
    let last = failure(reason);
    let end = match last {
        Some(failure) => format!("the last failure: {}", failure.message),
        None => format!("its last end was {}", chain(reason)),
    };
    let message = format!(
        "this would be restart {restarts} within {:?}, and intensity allows {}; {end}",
        spec.period, spec.intensity
    );
    let facts = last.map(Facts::of_failure).unwrap_or_default();
    facts.with_message(message).with_count(restarts as u64)
}

/// The failure of a worker's process inside an exit reason.
fn failure(reason: &ExitReason) -> Option<&Failure> {
    match reason {
        ExitReason::Failed(failure) => failure.downcast_ref(),
        ExitReason::Normal | ExitReason::Shutdown(_) | ExitReason::Killed => None,
    }
}

fn not_started(error: impl std::error::Error + Send + Sync + 'static) -> NotStarted {
    NotStarted::Failed(ExitReason::Failed(ExitFailure::new(error)).into())
}
