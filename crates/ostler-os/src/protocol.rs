//! What host, guardian and sitters say to each other: one definition for the library and for the guardian program.
//!
//! This file is compiled twice, into the library and (by its path) into the guardian program, so it uses `core` only.
//! Every message is a few fixed-size fields in the machine's own byte order: both ends run on one kernel. Two sockets,
//! both `SOCK_SEQPACKET`, so message borders are kept and a message is never half sent:
//!
//! - the **control** socket: the host sends one [`Hello`], then [`Order`]s; the guardian never writes to it. Orders for
//!   a slot are passed on, unchanged, to that slot's sitter.
//! - the **events** socket: guardian and sitters share its writing end; a message is one or more [`Event`]s.
//!
//! A change that an older peer could misread raises [`VERSION`]. The first eight bytes of [`Hello`] and the whole of
//! the [`EventKind::Ready`] event keep their meaning in every version: they carry the version itself.

/// Version of this protocol. Host and guardian must have the same one.
pub const VERSION: u32 = 3;

/// First word of [`Hello`] and of a spec: tells a peer of ours from anything else (`OSTL`).
pub const MAGIC: u32 = 0x4F53_544C;

/// Slots are dense indexes below this: the guardian's table of slots grows with the highest one in use.
pub const MAX_SLOTS: u32 = 1 << 20;

/// At most this many listening sockets go with one spawn; the kernel's own limit for one message is 253 descriptors.
pub const MAX_LISTEN: usize = 64;

/// Descriptors before the listening sockets in a spawn's message: spec, stdout, stderr, and
/// optionally a cgroup and stdin.
pub const MAX_SPAWN_FDS: usize = 5 + MAX_LISTEN;

/// Largest spec that a sitter's child maps, in bytes; far above what execve(2) takes (a quarter of the stack limit).
pub const MAX_SPEC: usize = 64 << 20;

/// The host's first message. With it come two descriptors or three: the writing end of the events socket, a pidfd of the
/// host, and one that guardian and sitters keep as long as they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`VERSION`].
    pub version: u32,
    /// Soft `RLIMIT_NOFILE` that workers get back; the guardian raises its own.
    pub nofile_soft: u64,
    /// Hard `RLIMIT_NOFILE` that workers get back.
    pub nofile_hard: u64,
}

impl Hello {
    /// Bytes of an encoded hello.
    pub const SIZE: usize = 24;

    /// The message as it is sent.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        put(&mut out, 0, &MAGIC.to_ne_bytes());
        put(&mut out, 4, &self.version.to_ne_bytes());
        put(&mut out, 8, &self.nofile_soft.to_ne_bytes());
        put(&mut out, 16, &self.nofile_hard.to_ne_bytes());
        out
    }

    /// `None` when this is no hello. One of another version is decoded: its other fields may then mean anything.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::SIZE || u32_at(bytes, 0) != MAGIC {
            return None;
        }
        Some(Self {
            version: u32_at(bytes, 4),
            nofile_soft: u64_at(bytes, 8),
            nofile_hard: u64_at(bytes, 16),
        })
    }
}

/// What an [`Order`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum OrderKind {
    /// Start this incarnation in its slot. Descriptors: spec, stdout, stderr, the slot's cgroup when `cgroup` is set,
    /// stdin when `stdin` is set, then `listen` listening sockets. `signal` and `grace_ms` say how the tree ends when the host is gone.
    Spawn = 1,
    /// End this incarnation: `signal` to the worker's process group, `grace_ms`, then the whole tree is killed.
    End = 2,
    /// The slot is not used again: its sitter ends once its tree is gone.
    Close = 3,
    /// Name the children that the slot's sitter still has.
    Query = 4,
    /// Name the guardian's sitters and the strays among its children.
    Census = 5,
    /// End the guardian: every slot is closed, and it exits when neither a sitter nor a stray is left.
    Quit = 6,
    /// Guardian to sitter: the host is gone (`signal` 1) or has let go (`signal` 0); end the tree by its policy.
    HostGone = 7,
}

impl OrderKind {
    fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Spawn,
            2 => Self::End,
            3 => Self::Close,
            4 => Self::Query,
            5 => Self::Census,
            6 => Self::Quit,
            7 => Self::HostGone,
            _ => return None,
        })
    }
}

/// One order of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub kind: OrderKind,
    /// The slot, or 0 where none is meant.
    pub slot: u32,
    /// The incarnation, or 0 where none is meant.
    pub incarnation: u64,
    /// A signal's number where the kind needs one.
    pub signal: i32,
    /// Milliseconds from `signal` to the tree kill; 0 kills at once.
    pub grace_ms: u64,
    /// Whether a cgroup's directory is among the descriptors.
    pub cgroup: bool,
    /// Whether the worker's stdin is among the descriptors; otherwise it is /dev/null.
    pub stdin: bool,
    /// How many listening sockets are among the descriptors.
    pub listen: u16,
}

impl Order {
    /// Bytes of an encoded order.
    pub const SIZE: usize = 32;

    /// An order of this kind with everything else zero.
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

    /// The message as it is sent.
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

    /// `None` when this is no order of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::SIZE {
            return None;
        }
        Some(Self {
            kind: OrderKind::from_wire(u16_at(bytes, 0))?,
            listen: u16_at(bytes, 2),
            slot: u32_at(bytes, 4),
            incarnation: u64_at(bytes, 8),
            signal: u32_at(bytes, 16) as i32,
            cgroup: u32_at(bytes, 20) & 1 != 0,
            stdin: u32_at(bytes, 20) & 2 != 0,
            grace_ms: u64_at(bytes, 24),
        })
    }
}

/// What an [`Event`] says, and what its fields hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum EventKind {
    /// The guardian is up: `a` its pid, `c` its [`VERSION`], `slot` [`MAGIC`]. `b` is not 0 when it refuses to serve.
    Ready = 1,
    /// The worker's program was exec'd: `a` its pid, `b` its sitter's pid, `c` start time in clock ticks since boot (0: /proc could not tell).
    Spawned = 2,
    /// It was not, and nothing of it is left: `a` errno, `b` a [`Step`].
    SpawnFailed = 3,
    /// The sitter sent a signal: `a` its number, `b` a [`Cause`].
    Signalled = 4,
    /// The worker itself has ended and is reaped: `a` the wait status, `b` its pid.
    Exited = 5,
    /// Nothing of the incarnation's tree is left: `a` processes other than the worker that had to be killed.
    TreeGone = 6,
    /// The tree resists the tree kill: `a` children the sitter still has.
    Held = 7,
    /// Answer to a query, one child: `a` pid, `c` start time.
    Child = 8,
    /// Answer to a query, its end: `a` children in all, `b` how many of them were named.
    Children = 9,
    /// A sitter died, and all that it left was killed: `a` killed, `b` the sitter's wait status.
    SitterLost = 10,
    /// The slot's sitter has ended as told.
    Closed = 11,
    /// An order could not be passed on: `a` errno, `b` its [`OrderKind`].
    OrderFailed = 12,
    /// Census, one sitter: `a` pid.
    CensusSitter = 13,
    /// Census, one stray: `a` pid, `c` start time.
    CensusStray = 14,
    /// Census, its end: `a` sitters, `b` strays in all.
    Census = 15,
    /// The guardian ends, and has no child left.
    Bye = 16,
    /// Before `Spawned`: `c` inode number of the worker's pidfd, `a` its pid. Left out where it can't be had.
    Pidfd = 17,
}

impl EventKind {
    fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Ready,
            2 => Self::Spawned,
            3 => Self::SpawnFailed,
            4 => Self::Signalled,
            5 => Self::Exited,
            6 => Self::TreeGone,
            7 => Self::Held,
            8 => Self::Child,
            9 => Self::Children,
            10 => Self::SitterLost,
            11 => Self::Closed,
            12 => Self::OrderFailed,
            13 => Self::CensusSitter,
            14 => Self::CensusStray,
            15 => Self::Census,
            16 => Self::Bye,
            17 => Self::Pidfd,
            _ => return None,
        })
    }
}

/// One event of the guardian or of a sitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Bits of [`flag`].
    pub flags: u16,
    /// The slot, where one is meant.
    pub slot: u32,
    /// The incarnation, where one is meant.
    pub incarnation: u64,
    /// See [`EventKind`].
    pub a: i32,
    /// See [`EventKind`].
    pub b: i32,
    /// See [`EventKind`].
    pub c: u64,
}

/// Bits of [`Event::flags`].
pub mod flag {
    /// The worker was born inside the slot's cgroup.
    pub const IN_CGROUP: u16 = 1;
    /// The tree kill used `cgroup.kill`.
    pub const KILLED_CGROUP: u16 = 2;
    /// The tree kill found children outside the worker's process group.
    pub const KILLED_STRAYS: u16 = 4;
    /// A kill was refused (EPERM): some process changed its user.
    pub const REFUSED: u16 = 8;
    /// The cgroup still has members that are no children of the sitter.
    pub const CGROUP_POPULATED: u16 = 16;
}

impl Event {
    /// Bytes of an encoded event.
    pub const SIZE: usize = 32;

    /// At most this many events travel in one message.
    pub const BATCH: usize = 16;

    /// An event of this kind with everything else zero.
    pub const fn new(kind: EventKind, slot: u32, incarnation: u64) -> Self {
        Self {
            kind,
            flags: 0,
            slot,
            incarnation,
            a: 0,
            b: 0,
            c: 0,
        }
    }

    /// The record as it is sent.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        put(&mut out, 0, &(self.kind as u16).to_ne_bytes());
        put(&mut out, 2, &self.flags.to_ne_bytes());
        put(&mut out, 4, &self.slot.to_ne_bytes());
        put(&mut out, 8, &self.incarnation.to_ne_bytes());
        put(&mut out, 16, &self.a.to_ne_bytes());
        put(&mut out, 20, &self.b.to_ne_bytes());
        put(&mut out, 24, &self.c.to_ne_bytes());
        out
    }

    /// `None` when this is no event of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::SIZE {
            return None;
        }
        Some(Self {
            kind: EventKind::from_wire(u16_at(bytes, 0))?,
            flags: u16_at(bytes, 2),
            slot: u32_at(bytes, 4),
            incarnation: u64_at(bytes, 8),
            a: u32_at(bytes, 16) as i32,
            b: u32_at(bytes, 20) as i32,
            c: u64_at(bytes, 24),
        })
    }
}

/// Where a spawn failed, in the order in which the steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Step {
    /// The guardian or the sitter had no room for the descriptors of the order (EMFILE).
    Receive = 1,
    /// The slot is out of range (EINVAL), still has a tree (EBUSY), or the guardian is ending (ESHUTDOWN).
    Slot = 2,
    /// The socket between the guardian and a new sitter.
    SitterSocket = 3,
    /// The fork of a new sitter (EAGAIN: a process limit; ENOMEM).
    SitterFork = 4,
    /// The order did not go through to the sitter.
    Forward = 5,
    /// The pipe that tells the outcome of exec.
    Pipe = 6,
    /// The fork of the worker (EAGAIN: a process limit; ENOMEM).
    Fork = 7,
    /// The worker's tie to its sitter's life.
    Parent = 8,
    /// setsid.
    Session = 9,
    /// The spec could not be mapped, or makes no sense.
    Spec = 10,
    /// Placing the worker's descriptors.
    Descriptors = 11,
    /// Giving back the descriptor limits.
    Limits = 12,
    /// Entering the working directory.
    Directory = 13,
    /// execve.
    Exec = 14,
}

impl Step {
    /// `None` for a number that is no step of this version.
    pub fn from_wire(value: i32) -> Option<Self> {
        const ALL: [Step; 14] = [
            Step::Receive,
            Step::Slot,
            Step::SitterSocket,
            Step::SitterFork,
            Step::Forward,
            Step::Pipe,
            Step::Fork,
            Step::Parent,
            Step::Session,
            Step::Spec,
            Step::Descriptors,
            Step::Limits,
            Step::Directory,
            Step::Exec,
        ];
        ALL.iter().copied().find(|step| *step as i32 == value)
    }
}

/// Why a sitter sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Cause {
    /// The host ordered the end.
    Stop = 1,
    /// The grace after the stop signal was over.
    GraceOver = 2,
    /// The host is gone, or has let go of its guardian.
    HostDeath = 3,
    /// The guardian is gone.
    GuardianDeath = 4,
    /// The worker had ended, and others of its tree had not.
    TreeKill = 5,
}

impl Cause {
    /// `None` for a number that is no cause of this version.
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

/// Head of a spec: all that exec needs, in one memory file that the worker-to-be maps privately.
///
/// Behind the head lie two tables of 64-bit offsets, `argv` and `envp`, each ended by a 0, then the NUL-terminated
/// strings. Offsets count from the start of the file; the child turns them into pointers in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecHead {
    /// Where the program's path is.
    pub program: u32,
    /// Where the working directory's path is; 0 for the one that the guardian was started in.
    pub directory: u32,
    /// Where the ten digits of `LISTEN_PID=` are, which only the child can write; 0 for none.
    pub listen_pid: u32,
    /// Where the table of arguments is; a multiple of 8.
    pub argv: u32,
    /// Arguments in the table, the closing 0 not counted.
    pub argc: u32,
    /// Where the table of environment strings is; a multiple of 8.
    pub envp: u32,
    /// Environment strings in the table, the closing 0 not counted.
    pub envc: u32,
}

impl SpecHead {
    /// Bytes of an encoded head; a multiple of 8.
    pub const SIZE: usize = 40;

    /// Bytes kept for the pid behind `LISTEN_PID=`, its closing NUL included.
    pub const PID_ROOM: usize = 11;

    /// The head as it is written.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let words = [
            MAGIC,
            VERSION,
            self.program,
            self.directory,
            self.listen_pid,
            self.argv,
            self.argc,
            self.envp,
            self.envc,
        ];
        for (index, word) in words.iter().enumerate() {
            put(&mut out, index * 4, &word.to_ne_bytes());
        }
        out
    }

    /// `None` when this is no spec of this version, or when it points outside a file of `size` bytes.
    pub fn decode(bytes: &[u8], size: usize) -> Option<Self> {
        if bytes.len() < Self::SIZE || size < Self::SIZE || u32_at(bytes, 0) != MAGIC || u32_at(bytes, 4) != VERSION {
            return None;
        }
        let head = Self {
            program: u32_at(bytes, 8),
            directory: u32_at(bytes, 12),
            listen_pid: u32_at(bytes, 16),
            argv: u32_at(bytes, 20),
            argc: u32_at(bytes, 24),
            envp: u32_at(bytes, 28),
            envc: u32_at(bytes, 32),
        };
        let table_fits = |at: u32, count: u32| {
            at.is_multiple_of(8) && (at as u64) + (u64::from(count) + 1) * 8 <= size as u64 && at as usize >= Self::SIZE
        };
        let fits = table_fits(head.argv, head.argc)
            && table_fits(head.envp, head.envc)
            && (head.program as usize) < size
            && (head.directory as usize) < size
            && head.listen_pid as usize + Self::PID_ROOM <= size;
        fits.then_some(head)
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (slot, byte) in out.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    put(&mut word, 0, &bytes[at..]);
    u64::from_ne_bytes(word)
}
