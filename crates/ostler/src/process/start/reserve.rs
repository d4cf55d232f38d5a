//! The reservation: ports are chosen, and the incarnation is recorded before anything of it runs.

use std::sync::Arc;
use std::time::Duration;

use ostler_core::spec::Port;
use ostler_registry::{Record, Refusal, TableError, UnixNanos};

use super::super::host::{Records, Setup, store_failed};
use super::super::incarnation::Incarnation;
use super::super::protocol::{Done, Listeners, Prepared, Work};
use super::ports::{self, Chooser};
use crate::status::PortMap;

/// The pause before a table that stalls is asked again. It has waited much longer itself.
const PAUSE: Duration = Duration::from_millis(50);

/// Chooses the ports and writes the reservation.
pub(in crate::process) fn reserve(incarnation: &Incarnation, setup: &Setup, before: (PortMap, Listeners)) -> Work {
    let (host, fingerprint) = (&setup.host, setup.fingerprint);
    let (table, pool) = (Arc::clone(&host.table), Arc::clone(&incarnation.pool));
    let (owner, incarnation) = (host.owner.clone(), incarnation.clone());
    let has_sockets = pool.worker.ports.iter().any(|(_, port)| port == Port::Unix);
    let chooser = Chooser {
        pool,
        worker: incarnation.worker.to_string(),
        slot: incarnation.slot,
        directory: has_sockets.then(|| host.scratch()),
    };
    Box::pin(async move {
        let ports = ports::choose(chooser, before).await;
        let mut record = Record::reservation(&owner, incarnation.key(), fingerprint, UnixNanos::now());
        if let Ok(chosen) = &ports {
            record.ports = ports::recorded(incarnation.spec(), &chosen.ports);
        }
        let recorded = write(&*table, record).await.map_err(|error| store_failed(&error));
        Done::Reserved(Prepared { ports, recorded })
    })
}

/// Writes the reservation, however long the store stalls. A call that the table did not answer in
/// time is still carried out, and nothing may be left of it that is not known: so the table is
/// asked again, and its next answer, which comes behind the first, tells whether the record was
/// written.
async fn write(table: &dyn Records, record: Record) -> Result<(), TableError> {
    let key = record.key();
    loop {
        match table.reserve(record.clone()).await {
            Err(TableError::Slow { waited }) => {
                tracing::warn!(target: "ostler", %key, ?waited, "the process table is slow; the start waits for it");
                tokio::time::sleep(PAUSE).await;
            }
            Err(TableError::Refused(Refusal::StillHeld { held, .. })) if held == key => return Ok(()),
            answer => return answer,
        }
    }
}
