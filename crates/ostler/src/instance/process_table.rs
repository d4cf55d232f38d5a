//! The process table's actor: its place in the tree, and its check at the end.
//!
//! The table itself runs on a thread of its own (`ostler_registry::Table`), so that records can be
//! written and removed whatever happens to actors.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::services::Services;

/// The actor.
pub(crate) struct ProcessTable;

/// The table is called directly, not through its actor.
#[derive(Debug)]
pub(crate) enum TableMessage {}

#[cfg(feature = "cluster")]
impl ractor::Message for TableMessage {}

impl Actor for ProcessTable {
    type Msg = TableMessage;
    type State = Arc<Services>;
    type Arguments = Arc<Services>;

    async fn pre_start(
        &self,
        _: ActorRef<TableMessage>,
        services: Arc<Services>,
    ) -> Result<Arc<Services>, ActorProcessingErr> {
        Ok(services)
    }

    /// The pools are down by now, and their records should be gone.
    async fn post_stop(
        &self,
        _: ActorRef<TableMessage>,
        services: &mut Arc<Services>,
    ) -> Result<(), ActorProcessingErr> {
        for record in services.table.records() {
            tracing::error!(target: "ostler", key = %record.key(), state = ?record.state, "a record is left in the process table");
        }
        Ok(())
    }
}
