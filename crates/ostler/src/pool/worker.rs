//! The worker actor: one incarnation of a worker. It starts the process, and ends when the process
//! has ended.
//!
//! It only holds a handle to the process's driver. However the actor ends, the handle is dropped,
//! and the driver ends and releases the process. Its release gate (see `starter`) delays the next
//! incarnation until then.

use std::sync::Arc;

use ostler_core::exit::{ExitReason, Failure as ExitFailure};
use ostler_core::failure::Failure;
use ostler_core::lifecycle::Outcome;
use ostler_core::pool::PoolInput;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::shared::PoolShared;
use crate::process::{Notice, Process, Slot, begin};
use crate::supervisor::Exit;

/// One incarnation of a worker.
pub(super) struct WorkerActor;

/// The arguments of a worker actor.
pub(super) struct WorkerArguments {
    pub(super) slot: Arc<Slot>,
    pub(super) pool: Arc<PoolShared>,
}

/// The state of a worker actor.
pub(super) struct WorkerActorState {
    slot: Arc<Slot>,
    pool: Arc<PoolShared>,
    process: Process,
}

impl Actor for WorkerActor {
    type Msg = WorkerMessage;
    type State = WorkerActorState;
    type Arguments = WorkerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<WorkerMessage>,
        arguments: WorkerArguments,
    ) -> Result<WorkerActorState, ActorProcessingErr> {
        let WorkerArguments { slot, pool } = arguments;
        let index = slot.worker.index;
        let setup = Arc::clone(&pool.setup);
        let shared = Arc::clone(&pool);
        let owner = move |notice| match notice {
            // Directly, and not through the actor: if the actor was killed, its pool would
            // otherwise believe that the worker is ready.
            Notice::Ready => pool.tell(PoolInput::Ready(index)),
            Notice::NotReady => pool.tell(PoolInput::NotReady(index)),
            // A message to an actor that has ended is lost, which is fine.
            Notice::Ended(outcome) => drop(myself.cast(WorkerMessage::Ended(outcome))),
            Notice::Overdue(failure) => drop(myself.cast(WorkerMessage::Overdue(failure))),
        };
        let process = begin(&setup, &slot, Box::new(owner)).ok_or("its slot was removed")?;
        Ok(WorkerActorState {
            slot,
            pool: shared,
            process,
        })
    }

    // Waits for nothing. An async function would keep room for its message for as long as the actor
    // lives.
    fn handle(
        &self,
        myself: ActorRef<WorkerMessage>,
        message: WorkerMessage,
        state: &mut WorkerActorState,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        std::future::ready(match message {
            WorkerMessage::Overdue(failure) => Err(failed(failure).into()),
            WorkerMessage::Ended(outcome) => state.ended(&myself, outcome),
            #[cfg(test)]
            WorkerMessage::Panic => panic!("requested by a test"),
        })
    }

    /// A requested stop: asks the process to end and waits for it. The process's own deadlines
    /// bound the wait.
    async fn post_stop(
        &self,
        _: ActorRef<WorkerMessage>,
        state: &mut WorkerActorState,
    ) -> Result<(), ActorProcessingErr> {
        let cause = state.slot.take_stop_cause();
        state
            .process
            .stop(cause.unwrap_or_else(|| state.pool.services.stop_cause()));
        state.process.settled().await;
        Ok(())
    }
}

impl WorkerActorState {
    fn ended(&self, myself: &ActorRef<WorkerMessage>, outcome: Outcome) -> Result<(), ActorProcessingErr> {
        match outcome {
            // The pool or the instance is being stopped, and its workers were asked before their
            // supervisors, which end this actor in turn. If it ended by itself now, it would be
            // restarted, and counted, until then.
            Outcome::Stopped { .. } if self.pool.ends_for_good() => {}
            Outcome::Stopped { .. } => myself.stop(Some("shutdown".to_owned())),
            Outcome::Finished { .. } => myself.stop(None),
            Outcome::Failed(failure) => return Err(failed(failure).into()),
        }
        Ok(())
    }
}

/// A failure as an exit. Failures that are not the worker's fault are not counted.
fn failed(failure: Failure) -> Exit {
    let counted = failure.reason.is_counted();
    Exit {
        reason: ExitReason::Failed(ExitFailure::new(failure)),
        counted,
    }
}

/// Messages from the process's driver about its end.
#[derive(Debug)]
pub(crate) enum WorkerMessage {
    /// Everything it held is released.
    Ended(Outcome),
    /// It has ended, but what it held was not released in time.
    Overdue(Failure),
    /// A bug in the actor, caused by a test.
    #[cfg(test)]
    Panic,
}

#[cfg(feature = "cluster")]
impl ractor::Message for WorkerMessage {}
