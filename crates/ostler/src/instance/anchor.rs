//! The instance's place under an actor of the app.
//!
//! ractor kills the children of an actor that ends. If the root itself were linked, stopping the
//! app would kill its workers without their grace. So a small actor is linked in its place: when it
//! is killed with its parent, the instance stops in order, under a deadline. When the instance ends
//! otherwise, the anchor ends too, and its exit shows the parent how.

use std::sync::Arc;
use std::time::Duration;

use ostler_os::patience;
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, SpawnErr};

use super::report::RunGaveUp;
use super::tree::Tree;

/// How long the actor that the instance is linked under has to show that it ends too, when the
/// anchor was killed: 200 ms. ractor kills the children of a killed actor just before it marks that
/// one as stopping.
const PARENT_LIMIT: Duration = Duration::from_millis(200);

/// The linked actor. Its parent holds it; its handle is [`Anchor`].
struct AnchorActor;

/// How the instance ended.
#[derive(Debug)]
pub(super) enum InstanceEnd {
    /// It stopped in order.
    Stopped,
    /// It was killed: by its handle's drop, or by ractor's `kill`.
    Killed,
    /// Its root gave up.
    GaveUp(RunGaveUp),
}

#[cfg(feature = "cluster")]
impl ractor::Message for InstanceEnd {}

impl Actor for AnchorActor {
    type Msg = InstanceEnd;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<InstanceEnd>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<InstanceEnd>,
        end: InstanceEnd,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match end {
            InstanceEnd::Stopped => myself.stop(Some("shutdown".to_owned())),
            InstanceEnd::Killed => myself.kill(),
            InstanceEnd::GaveUp(why) => return Err(why.into()),
        }
        Ok(())
    }
}

/// The anchor, as the instance has it.
#[derive(Debug, Clone)]
pub(super) struct Anchor {
    actor: ActorRef<InstanceEnd>,
    parent: ActorCell,
}

impl Anchor {
    /// Links an anchor under `parent`.
    pub(super) async fn link(parent: ActorCell) -> Result<(Self, JoinHandle<()>), SpawnErr> {
        let (actor, join) = Actor::spawn_linked(None, AnchorActor, (), parent.clone()).await?;
        Ok((Self { actor, parent }, join))
    }

    pub(super) fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    /// Whether the actor that the instance is linked under is ending, or has ended.
    pub(super) fn parent_is_ending(&self) -> bool {
        self.parent.get_status() >= ActorStatus::Stopping
    }

    /// The parent sees this end of the instance.
    pub(super) fn end(&self, end: InstanceEnd) {
        // An anchor that was killed has ended already.
        let _ = self.actor.cast(end);
    }

    async fn parent_ends(&self) -> bool {
        let end = self.parent.wait(None);
        self.parent_is_ending() || patience::within(PARENT_LIMIT, end).await.is_some() || self.parent_is_ending()
    }
}

/// Stops the instance when its anchor is killed: in order within `grace` if its parent ends, at
/// once if only the anchor was killed.
pub(super) fn watch(tree: &Arc<Tree>, anchor: Anchor, join: JoinHandle<()>, grace: Duration) {
    let tree = Arc::clone(tree);
    tokio::spawn(async move {
        tokio::select! {
            // An error says that the runtime is shutting down.
            _ = join => {}
            _ = tree.stopped() => return,
        }
        if tree.has_stopped() {
            return;
        }
        if !anchor.parent_ends().await {
            tree.kill();
            return;
        }
        tree.services.note_parent_ended();
        tree.begin_stop();
        if grace.is_zero() || patience::within(grace, tree.stopped()).await.is_none() {
            tree.services.kill_workers();
        }
    });
}
