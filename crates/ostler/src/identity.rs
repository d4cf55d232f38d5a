//! Between a process as the table records it and as the operating system knows it.

use ostler_os::identity::ProcessIdentity;
use ostler_registry::{Identity, LocalProcess};

/// A process of this machine as the table records it.
pub(crate) fn record_of(identity: &ProcessIdentity) -> LocalProcess {
    LocalProcess {
        boot_id: identity.boot_id,
        pid_namespace: identity.pid_namespace,
        pid: identity.pid,
        start_time: identity.start_time,
        pidfd_inode: identity.pidfd_inode,
    }
}

/// A recorded process as the operating system knows it.
pub(crate) fn os_identity(process: &LocalProcess) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: process.boot_id,
        pid_namespace: process.pid_namespace,
        pid: process.pid,
        start_time: process.start_time,
        pidfd_inode: process.pidfd_inode,
    }
}

/// The local process of a driver-neutral identity.
pub(crate) fn local(identity: &Identity) -> Option<&LocalProcess> {
    match identity {
        Identity::LocalProcess(process) => Some(process),
    }
}
