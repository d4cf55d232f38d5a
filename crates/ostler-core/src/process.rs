//! Which process: plain data that every layer can record, compare and print.
//!
//! How an identity is read, verified and signalled is the operating system's business, and is in
//! `ostler-os`.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A process of a Linux machine. No two processes ever have the same identity, although pids are
/// reused.
///
/// The start time counts clock ticks (10 ms). Two processes can share pid and start time when a pid
/// is reused within one tick, as a small `pid_max` or a write to `ns_last_pid` allows. The inode
/// number of the pidfd tells those apart, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: Uuid,
    /// The PID namespace that `pid` belongs to, by its inode number.
    pub pid_namespace: u64,
    /// The process id in that namespace.
    pub pid: i32,
    /// When the process started, in clock ticks since boot (field 22 of `/proc/PID/stat`). 0:
    /// unknown.
    pub start_time: u64,
    /// The inode number of the process's pidfds, unique within a boot (Linux 6.9, 64 bits). 0:
    /// unknown, or the kernel has none.
    #[serde(default)]
    pub pidfd_inode: u64,
}

impl ProcessIdentity {
    /// Whether both identities can name the same process: everything that both of them know agrees.
    /// A start time or an inode number that one of them lacks (0) is not compared.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let agree = |ours: u64, theirs: u64| ours == 0 || theirs == 0 || ours == theirs;
        (self.boot_id, self.pid_namespace, self.pid) == (other.boot_id, other.pid_namespace, other.pid)
            && agree(self.start_time, other.start_time)
            && agree(self.pidfd_inode, other.pidfd_inode)
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (started at tick {})", self.pid, self.start_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: ProcessIdentity = ProcessIdentity {
        boot_id: Uuid::from_u128(1),
        pid_namespace: 2,
        pid: 3,
        start_time: 4,
        pidfd_inode: 5,
    };

    #[test]
    fn what_is_unknown_is_not_compared() {
        let without_time = ProcessIdentity { start_time: 0, ..WHOLE };
        let without_inode = ProcessIdentity {
            pidfd_inode: 0,
            ..WHOLE
        };
        assert!(WHOLE.is_same_as(&WHOLE));
        assert!(WHOLE.is_same_as(&without_time) && without_time.is_same_as(&without_inode));
    }

    #[test]
    fn one_difference_is_enough() {
        for other in [
            ProcessIdentity {
                boot_id: Uuid::from_u128(9),
                ..WHOLE
            },
            ProcessIdentity {
                pid_namespace: 9,
                ..WHOLE
            },
            ProcessIdentity { pid: 9, ..WHOLE },
            ProcessIdentity { start_time: 9, ..WHOLE },
            ProcessIdentity {
                pidfd_inode: 9,
                ..WHOLE
            },
        ] {
            assert!(!WHOLE.is_same_as(&other), "{other:?}");
        }
    }
}
