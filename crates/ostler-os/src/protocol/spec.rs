//! The spec of a spawn: what exec needs, in a memory file.

use super::{MAGIC, VERSION, put, u32_at};

/// The head of a spec: everything that exec needs, in one memory file that the worker-to-be maps
/// privately.
///
/// Two tables of 64-bit offsets follow the head, `argv` and `envp`, each terminated by a 0, then
/// the NUL-terminated strings. Offsets are relative to the start of the file. The child turns them
/// into pointers in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecHead {
    /// The offset of the program's path.
    pub program: u32,
    /// The offset of the working directory's path; 0 for the directory that the guardian was
    /// started in.
    pub directory: u32,
    /// The offset of the ten digits after `LISTEN_PID=`, which only the child can fill in; 0 for
    /// none.
    pub listen_pid: u32,
    /// The offset of the table of arguments; a multiple of 8.
    pub argv: u32,
    /// The number of arguments, without the terminating 0.
    pub argc: u32,
    /// The offset of the table of environment strings; a multiple of 8.
    pub envp: u32,
    /// The number of environment strings, without the terminating 0.
    pub envc: u32,
}

impl SpecHead {
    /// The size of an encoded head, in bytes; a multiple of 8.
    pub const SIZE: usize = 40;

    /// Bytes reserved for the pid after `LISTEN_PID=`, including the NUL.
    pub const PID_ROOM: usize = 11;

    /// The head's bytes.
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

    /// `None` if the bytes are not a spec of this version, or point outside a file of `size` bytes.
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
