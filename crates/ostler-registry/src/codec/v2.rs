//! Version 2 of the record format: version 1 followed by the inode numbers of the pidfds. Frozen,
//! like version 1.

use bincode::{Decode, Encode};

use super::DecodeError;
use super::v1::RecordV1;
use ostler_core::process::ProcessIdentity;

use crate::record::{Identity, Record};

#[derive(Encode, Decode)]
pub(super) struct RecordV2 {
    first: RecordV1,
    /// The process's pidfd; 0 if there is no process or the number is unknown.
    identity_pidfd: u64,
    /// The sitter's pidfd; 0 as above.
    sitter_pidfd: u64,
}

impl From<&Record> for RecordV2 {
    fn from(record: &Record) -> Self {
        Self {
            first: RecordV1::from(record),
            identity_pidfd: match &record.identity {
                Some(Identity::LocalProcess(process)) => process.pidfd_inode,
                None => 0,
            },
            sitter_pidfd: record.sitter.as_ref().map_or(0, |sitter| sitter.pidfd_inode),
        }
    }
}

impl RecordV2 {
    pub(super) fn into_model(self) -> Result<Record, DecodeError> {
        let mut record = self.first.into_model()?;
        if let Some(Identity::LocalProcess(process)) = &mut record.identity {
            process.pidfd_inode = self.identity_pidfd;
        }
        record.sitter = record.sitter.map(|sitter| ProcessIdentity {
            pidfd_inode: self.sitter_pidfd,
            ..sitter
        });
        Ok(record)
    }
}
