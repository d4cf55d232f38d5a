//! Orders: from the host to the guardian, and from the guardian to a sitter.

use super::{i32_at, put, u16_at, u32_at, u64_at};

/// What an [`Order`] requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum OrderKind {
    /// Start this incarnation in its slot. Descriptors: spec, stdout, stderr, the slot's cgroup if
    /// `cgroup` is set, stdin if
    /// `stdin` is set, then `listen` listening sockets. `signal` and `grace_ms` say how the tree
    /// ends when the host is gone.
    Spawn = 1,
    /// End this incarnation: `signal` to the worker's process group, then `grace_ms`, then the
    /// whole tree is killed.
    End = 2,
    /// Give up the slot: its sitter exits once its tree is gone.
    Close = 3,
    /// Report the guardian's sitters, and its other children (strays).
    Census = 4,
    /// End the guardian: it closes every slot, and exits when neither a sitter nor a stray is left.
    Quit = 5,
    /// Guardian to sitter: the host is dead (`signal` 1) or has let go (`signal` 0). End the tree
    /// by its policy.
    HostGone = 6,
    /// Answer with `Pong`: the host wants to know whether the guardian still serves.
    Ping = 7,
}

impl OrderKind {
    pub(super) fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Spawn,
            2 => Self::End,
            3 => Self::Close,
            4 => Self::Census,
            5 => Self::Quit,
            6 => Self::HostGone,
            7 => Self::Ping,
            _ => return None,
        })
    }
}

/// One order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub kind: OrderKind,
    /// The slot; 0 for kinds without one.
    pub slot: u32,
    /// The incarnation; 0 for kinds without one.
    pub incarnation: u64,
    /// A signal number, for kinds that need one.
    pub signal: i32,
    /// Milliseconds from `signal` to the tree kill; 0 kills at once.
    pub grace_ms: u64,
    /// Whether a cgroup's directory is among the descriptors.
    pub cgroup: bool,
    /// Whether the worker's stdin is among the descriptors. Otherwise it is /dev/null.
    pub stdin: bool,
    /// The number of listening sockets among the descriptors.
    pub listen: u16,
}

impl Order {
    /// The size of an encoded order, in bytes.
    pub const SIZE: usize = 32;

    /// The most orders in one message to the guardian. An order with descriptors is alone in its
    /// message.
    pub const BATCH: usize = 16;

    /// An order of this kind with all other fields zero.
    pub const fn new(kind: OrderKind, slot: u32, incarnation: u64) -> Self {
        Self {
            kind,
            slot,
            incarnation,
            signal: 0,
            grace_ms: 0,
            cgroup: false,
            stdin: false,
            listen: 0,
        }
    }

    /// The message's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        put(&mut out, 0, &(self.kind as u16).to_ne_bytes());
        put(&mut out, 2, &self.listen.to_ne_bytes());
        put(&mut out, 4, &self.slot.to_ne_bytes());
        put(&mut out, 8, &self.incarnation.to_ne_bytes());
        put(&mut out, 16, &self.signal.to_ne_bytes());
        let given = u32::from(self.cgroup) | u32::from(self.stdin) << 1;
        put(&mut out, 20, &given.to_ne_bytes());
        put(&mut out, 24, &self.grace_ms.to_ne_bytes());
        out
    }

    /// `None` if the bytes are not an order of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::SIZE {
            return None;
        }
        Some(Self {
            kind: OrderKind::from_wire(u16_at(bytes, 0))?,
            listen: u16_at(bytes, 2),
            slot: u32_at(bytes, 4),
            incarnation: u64_at(bytes, 8),
            signal: i32_at(bytes, 16),
            cgroup: u32_at(bytes, 20) & 1 != 0,
            stdin: u32_at(bytes, 20) & 2 != 0,
            grace_ms: u64_at(bytes, 24),
        })
    }
}
