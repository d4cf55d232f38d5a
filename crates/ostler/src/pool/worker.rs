//! The worker actor: one incarnation of a worker. It starts the process, and ends as the process ended.
//!
//! It holds no more than a line to the process's driver: however it ends, the line drops, and the driver ends and
//! releases the process. Its release gate (see `starter`) keeps the next incarnation away until then.

use std::sync::Arc;

use ostler_core::exit::{ExitReason, Failure as ExitFailure};
use ostler_core::failure::Failure;
use ostler_core::lifecycle::Outcome;
use ostler_core::pool::PoolInput;
use ostler_core::supervision::Restart;
use ostler_telemetry::{EventKind, Facts};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::shared::PoolShared;
use crate::hub::About;
use crate::process::{Process, Slot, Told};
use crate::supervisor::Exit;

/// One incarnation of a worker.
pub(super) struct Worker;

/// What a worker is made of.
pub(super) struct WorkerArguments {
    pub(super) slot: Arc<Slot>,
    pub(super) pool: Arc<PoolShared>,
}

/// A worker while it lives.
pub(super) struct WorkerActorState {
    slot: Arc<Slot>,
    pool: Arc<PoolShared>,
    process: Process,
}

impl Actor for Worker {
    type Msg = WorkerMessage;
    type State = WorkerActorState;
    type Arguments = WorkerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<WorkerMessage>,
        arguments: WorkerArguments,
    ) -> Result<WorkerActorState, ActorProcessingErr> {
        let WorkerArguments { slot, pool } = arguments;
        // A cast to an actor that has ended is lost, as it should be.
        let told = move |told| drop(myself.cast(WorkerMessage(told)));
        let process = slot.start(Box::new(told));
        Ok(WorkerActorState { slot, pool, process })
    }

    async fn handle(
        &self,
        myself: ActorRef<WorkerMessage>,
        message: WorkerMessage,
        state: &mut WorkerActorState,
    ) -> Result<(), ActorProcessingErr> {
        let index = state.slot.worker.index;
        match message.0 {
            Told::Ready => state.pool.tell(PoolInput::Ready(index)),
            Told::NotReady => state.pool.tell(PoolInput::NotReady(index)),
            Told::Overdue(failure) => return Err(failed(failure).into()),
            Told::Ended(outcome) => return state.ended(&myself, outcome),
        }
        Ok(())
    }

    /// An orderly stop: the process is asked to end, and waited for. Its own deadlines bound the wait.
    async fn post_stop(
        &self,
        _: ActorRef<WorkerMessage>,
        state: &mut WorkerActorState,
    ) -> Result<(), ActorProcessingErr> {
        state.process.stop(state.slot.take_stop_cause());
        state.process.settled().await;
        Ok(())
    }
}

impl WorkerActorState {
    fn ended(&self, myself: &ActorRef<WorkerMessage>, outcome: Outcome) -> Result<(), ActorProcessingErr> {
        let temporary = self.slot.spec.restart == Restart::Temporary;
        match outcome {
            Outcome::Stopped { .. } => myself.stop(Some("shutdown".to_owned())),
            Outcome::Finished { .. } => {
                if self.slot.spec.restart != Restart::Permanent {
                    self.finished();
                }
                myself.stop(None);
            }
            Outcome::Failed(failure) => {
                if temporary {
                    self.finished();
                }
                return Err(failed(failure).into());
            }
        }
        Ok(())
    }

    fn finished(&self) {
        let worker = &self.slot.worker;
        self.slot.note_finished();
        self.pool
            .services
            .hub
            .emit(EventKind::WorkerFinished, About::worker(worker, None), Facts::default());
        self.pool.tell(PoolInput::Finished(worker.index));
    }
}

/// A failure as an exit: those that are nobody's fault are not counted.
fn failed(failure: Failure) -> Exit {
    let counted = failure.reason.is_counted();
    Exit {
        reason: ExitReason::Failed(ExitFailure::new(failure)),
        counted,
    }
}

/// What the process's driver tells.
#[derive(Debug)]
pub(super) struct WorkerMessage(Told);

#[cfg(feature = "cluster")]
impl ractor::Message for WorkerMessage {}
