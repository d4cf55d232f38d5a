//! Calls that have no answer, as gRPC statuses.

use ostler_core::chain::chain;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::outcome::{CallError, Lost, Refused, Unknown};

/// Metadata: `refused` (certainly not sent) or `unknown`.
pub const OUTCOME: &str = "ostler-outcome";
/// Metadata: why, such as `saturated` or `worker_lost`.
pub const REASON: &str = "ostler-reason";
/// Metadata: the worker that the call was sent to, such as `embed/0#3`.
pub const WORKER: &str = "ostler-worker";
/// Metadata: the reason of the worker's failure, such as `killed`.
pub const FAILURE: &str = "ostler-failure";
/// Metadata, binary: the last lines of the worker's stderr.
pub const STDERR: &str = "ostler-stderr-bin";

/// A call without an answer as a status.
///
/// No unknown outcome is `UNAVAILABLE`, because clients and proxies retry on that.
pub fn status(error: &CallError) -> Status {
    let (code, message) = (code(error), chain(error));
    let mut metadata = MetadataMap::new();
    match error {
        CallError::Refused(refused) => {
            insert(&mut metadata, OUTCOME, "refused");
            insert(&mut metadata, REASON, refused.name());
        }
        CallError::Unknown(unknown) => describe(&mut metadata, unknown),
    }
    Status::with_metadata(code, message, metadata)
}

fn code(error: &CallError) -> Code {
    match error {
        CallError::Refused(refused) => match refused {
            Refused::Expired { .. } => Code::DeadlineExceeded,
            Refused::Saturated { .. } | Refused::Overloaded { .. } | Refused::TooManySessions { .. } => {
                Code::ResourceExhausted
            }
            Refused::SessionLost(_) => Code::Aborted,
            Refused::Poisoned { .. } => Code::FailedPrecondition,
            Refused::Invalid { .. } => Code::InvalidArgument,
            Refused::PoolOver { .. }
            | Refused::BreakerOpen { .. }
            | Refused::SessionBusy { .. }
            | Refused::Unreachable { .. } => Code::Unavailable,
        },
        CallError::Unknown(unknown) => match unknown.cause {
            Lost::Deadline { .. } => Code::DeadlineExceeded,
            Lost::Answer(_) => Code::Internal,
            Lost::Worker | Lost::Stopped | Lost::Connection(_) => Code::Unknown,
        },
    }
}

fn describe(metadata: &mut MetadataMap, unknown: &Unknown) {
    insert(metadata, OUTCOME, "unknown");
    insert(metadata, REASON, unknown.name());
    insert(metadata, WORKER, &unknown.worker.to_string());
    if let Some(failure) = &unknown.failure {
        insert(metadata, FAILURE, failure.reason.name());
        let tail = failure.stderr_tail.join("\n");
        metadata.insert_bin(STDERR, MetadataValue::from_bytes(tail.as_bytes()));
    }
}

fn insert(metadata: &mut MetadataMap, key: &'static str, value: &str) {
    // Names of pools and reasons are ASCII.
    if let Ok(value) = value.parse() {
        metadata.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_the_causes() {
        let refused = Refused::invalid("the body has no length");
        let status = status(&refused.into());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "refused: the request can't be sent: the body has no length"
        );
    }
}
