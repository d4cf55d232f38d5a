//! Events: what guardian and sitters report to the host.

use super::order::OrderKind;
use super::{MAGIC, i32_at, put, u16_at, u32_at, u64_at};

/// One event of the guardian or of a sitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The slot; 0 for events without one.
    pub slot: u32,
    /// The incarnation; 0 for events without one.
    pub incarnation: u64,
    /// What happened.
    pub payload: Payload,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// The guardian is up.
    Ready {
        /// Its pid.
        pid: i32,
        /// Not 0 if it refuses to serve.
        errno: i32,
        /// Its [`VERSION`](super::VERSION).
        version: u64,
    },
    /// Comes before `Spawned`; left out where the inode number is unknown.
    Pidfd {
        /// The worker's pid.
        worker: i32,
        /// The inode number of the worker's pidfd.
        inode: u64,
    },
    /// Comes before `Spawned`: the identity of the worker's sitter.
    Sitter {
        /// Its start time in clock ticks since boot; 0 if `/proc` can't be read.
        start_time: u64,
        /// The inode number of its pidfd; 0 if unknown.
        inode: u64,
    },
    /// The worker's program was executed.
    Spawned {
        /// The worker's pid.
        worker: i32,
        /// Its sitter's pid.
        sitter: i32,
        /// Its start time in clock ticks since boot; 0 if `/proc` can't be read.
        start_time: u64,
        /// Whether it was born inside the slot's cgroup.
        in_cgroup: bool,
    },
    /// The worker could not be started, and nothing of it is left.
    SpawnFailed {
        /// What failed.
        step: Step,
        /// The error number of the failed system call.
        errno: i32,
    },
    /// The sitter sent a signal.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// Why.
        cause: Cause,
    },
    /// The worker's own process has ended and is reaped.
    Exited {
        /// The worker's pid.
        worker: i32,
        /// The wait status.
        status: i32,
    },
    /// Nothing of the incarnation's tree is left.
    TreeGone {
        /// The number of processes, other than the worker, that were reaped after a kill.
        killed: i32,
        /// How they were killed.
        how: TreeKill,
    },
    /// The tree kill has not ended the tree yet. It goes on.
    Held {
        /// The number of children that the sitter still has.
        children: i32,
        /// How the kill was attempted.
        how: TreeKill,
    },
    /// A sitter died, and everything that it left is killed.
    SitterLost {
        /// The number of processes killed in its place.
        killed: i32,
        /// The sitter's wait status.
        status: i32,
    },
    /// The slot's sitter has ended as ordered.
    Closed,
    /// An order could not be forwarded to the slot's sitter.
    OrderFailed {
        /// Why not.
        errno: i32,
        /// The order.
        order: OrderKind,
    },
    /// Census: one sitter.
    CensusSitter {
        /// Its pid.
        pid: i32,
    },
    /// Census: one child of the guardian that is not a sitter.
    CensusStray {
        /// Its pid.
        pid: i32,
        /// Its start time.
        start_time: u64,
    },
    /// Census: the end.
    Census {
        /// The number of sitters.
        sitters: i32,
        /// The number of strays, including those not reported one by one.
        strays: i32,
    },
    /// The guardian exits, and has no child left.
    Bye,
    /// The answer to a ping.
    Pong,
}

/// The fields of an encoded payload. Their meaning depends on the kind.
#[derive(Default)]
struct Fields {
    kind: u16,
    flags: u16,
    a: i32,
    b: i32,
    c: u64,
}

impl Payload {
    fn fields(self) -> Fields {
        let of = |kind, a, b, c| Fields {
            kind,
            flags: 0,
            a,
            b,
            c,
        };
        match self {
            Self::Ready { pid, errno, version } => of(1, pid, errno, version),
            Self::Spawned {
                worker,
                sitter,
                start_time,
                in_cgroup,
            } => Fields {
                flags: u16::from(in_cgroup),
                ..of(2, worker, sitter, start_time)
            },
            Self::SpawnFailed { step, errno } => of(3, errno, step as i32, 0),
            Self::Signalled { signal, cause } => of(4, signal, cause as i32, 0),
            Self::Exited { worker, status } => of(5, status, worker, 0),
            Self::TreeGone { killed, how } => Fields {
                flags: how.bits(),
                ..of(6, killed, 0, 0)
            },
            Self::Held { children, how } => Fields {
                flags: how.bits(),
                ..of(7, children, 0, 0)
            },
            Self::SitterLost { killed, status } => of(8, killed, status, 0),
            Self::Closed => of(9, 0, 0, 0),
            Self::OrderFailed { errno, order } => of(10, errno, order as i32, 0),
            Self::CensusSitter { pid } => of(11, pid, 0, 0),
            Self::CensusStray { pid, start_time } => of(12, pid, 0, start_time),
            Self::Census { sitters, strays } => of(13, sitters, strays, 0),
            Self::Bye => of(14, 0, 0, 0),
            Self::Pong => of(16, 0, 0, 0),
            Self::Pidfd { worker, inode } => of(15, worker, 0, inode),
            Self::Sitter { start_time, inode } => of(17, start_time as i32, (start_time >> 32) as i32, inode),
        }
    }

    fn from_fields(fields: &Fields) -> Option<Self> {
        let &Fields { kind, flags, a, b, c } = fields;
        Some(match kind {
            1 => Self::Ready {
                pid: a,
                errno: b,
                version: c,
            },
            2 => Self::Spawned {
                worker: a,
                sitter: b,
                start_time: c,
                in_cgroup: flags != 0,
            },
            3 => Self::SpawnFailed {
                step: Step::from_wire(b)?,
                errno: a,
            },
            4 => Self::Signalled {
                signal: a,
                cause: Cause::from_wire(b)?,
            },
            5 => Self::Exited { worker: b, status: a },
            6 => Self::TreeGone {
                killed: a,
                how: TreeKill::from_bits(flags),
            },
            7 => Self::Held {
                children: a,
                how: TreeKill::from_bits(flags),
            },
            8 => Self::SitterLost { killed: a, status: b },
            9 => Self::Closed,
            10 => Self::OrderFailed {
                errno: a,
                order: OrderKind::from_wire(u16::try_from(b).ok()?)?,
            },
            11 => Self::CensusSitter { pid: a },
            12 => Self::CensusStray { pid: a, start_time: c },
            13 => Self::Census { sitters: a, strays: b },
            14 => Self::Bye,
            15 => Self::Pidfd { worker: a, inode: c },
            16 => Self::Pong,
            17 => Self::Sitter {
                start_time: u64::from(a as u32) | u64::from(b as u32) << 32,
                inode: c,
            },
            _ => return None,
        })
    }
}

impl Event {
    /// The size of an encoded event, in bytes.
    pub const SIZE: usize = 32;

    /// The most events in one message.
    pub const BATCH: usize = 16;

    /// An event about an incarnation in a slot.
    pub const fn new(slot: u32, incarnation: u64, payload: Payload) -> Self {
        Self {
            slot,
            incarnation,
            payload,
        }
    }

    /// The guardian's first event. Its slot is [`MAGIC`].
    pub const fn ready(pid: i32, errno: i32, version: u32) -> Self {
        let version = version as u64;
        Self::new(MAGIC, 0, Payload::Ready { pid, errno, version })
    }

    /// The event's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let fields = self.payload.fields();
        let mut out = [0; Self::SIZE];
        put(&mut out, 0, &fields.kind.to_ne_bytes());
        put(&mut out, 2, &fields.flags.to_ne_bytes());
        put(&mut out, 4, &self.slot.to_ne_bytes());
        put(&mut out, 8, &self.incarnation.to_ne_bytes());
        put(&mut out, 16, &fields.a.to_ne_bytes());
        put(&mut out, 20, &fields.b.to_ne_bytes());
        put(&mut out, 24, &fields.c.to_ne_bytes());
        out
    }

    /// `None` if the bytes are not an event of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::SIZE {
            return None;
        }
        let payload = Payload::from_fields(&Fields {
            kind: u16_at(bytes, 0),
            flags: u16_at(bytes, 2),
            a: i32_at(bytes, 16),
            b: i32_at(bytes, 20),
            c: u64_at(bytes, 24),
        })?;
        Some(Self::new(u32_at(bytes, 4), u64_at(bytes, 8), payload))
    }
}

/// How a tree was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeKill {
    /// `cgroup.kill` was used: the next incarnation needs a fresh cgroup.
    pub cgroup: bool,
    /// Children were found outside the worker's process group.
    pub strays: bool,
    /// A kill was refused (EPERM): a process changed its user.
    pub refused: bool,
    /// The cgroup has members that are not children of the sitter.
    pub cgroup_populated: bool,
}

impl TreeKill {
    /// No kill was needed.
    pub const NONE: Self = Self {
        cgroup: false,
        strays: false,
        refused: false,
        cgroup_populated: false,
    };

    fn bits(self) -> u16 {
        u16::from(self.cgroup)
            | u16::from(self.strays) << 1
            | u16::from(self.refused) << 2
            | u16::from(self.cgroup_populated) << 3
    }

    fn from_bits(bits: u16) -> Self {
        Self {
            cgroup: bits & 1 != 0,
            strays: bits & 2 != 0,
            refused: bits & 4 != 0,
            cgroup_populated: bits & 8 != 0,
        }
    }
}

/// Where a spawn failed, in the order in which the steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Step {
    /// The guardian or the sitter had no room for the order's descriptors (EMFILE).
    Receive = 1,
    /// The slot is out of range (EINVAL), still has a tree (EBUSY), or the guardian is ending
    /// (ESHUTDOWN).
    Slot = 2,
    /// Creating the socket between the guardian and a new sitter.
    SitterSocket = 3,
    /// Forking a new sitter (EAGAIN: a process limit; ENOMEM).
    SitterFork = 4,
    /// Forwarding the order to the sitter.
    Forward = 5,
    /// Creating the pipe that reports the outcome of exec.
    Pipe = 6,
    /// Forking the worker (EAGAIN: a process limit; ENOMEM).
    Fork = 7,
    /// Tying the worker to its sitter's life.
    Parent = 8,
    /// setsid.
    Session = 9,
    /// Mapping the spec, or the spec is invalid.
    Spec = 10,
    /// Placing the worker's descriptors.
    Descriptors = 11,
    /// Restoring the descriptor limits.
    Limits = 12,
    /// Entering the working directory.
    Directory = 13,
    /// execve.
    Exec = 14,
}

impl Step {
    const ALL: [Self; 14] = [
        Self::Receive,
        Self::Slot,
        Self::SitterSocket,
        Self::SitterFork,
        Self::Forward,
        Self::Pipe,
        Self::Fork,
        Self::Parent,
        Self::Session,
        Self::Spec,
        Self::Descriptors,
        Self::Limits,
        Self::Directory,
        Self::Exec,
    ];

    /// `None` for a number that is not a step of this version.
    pub fn from_wire(value: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|step| *step as i32 == value)
    }
}

/// Why a sitter sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Cause {
    /// The host ordered the end.
    Stop = 1,
    /// The grace period after the stop signal is over.
    GraceOver = 2,
    /// The host is gone, or has let go of its guardian.
    HostDeath = 3,
    /// The guardian is gone.
    GuardianDeath = 4,
    /// The worker has ended, and other processes of its tree have not.
    TreeKill = 5,
}

impl Cause {
    /// `None` for a number that is not a cause of this version.
    pub fn from_wire(value: i32) -> Option<Self> {
        Some(match value {
            1 => Self::Stop,
            2 => Self::GraceOver,
            3 => Self::HostDeath,
            4 => Self::GuardianDeath,
            5 => Self::TreeKill,
            _ => return None,
        })
    }
}
