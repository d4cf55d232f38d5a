//! The specification of a worker process, and the memory file that passes it to the process that
//! becomes the worker.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use ostler_core::signal::Signal;
use rustix::fs::MemfdFlags;

use super::error::OrderError;
use crate::protocol::{MAX_LISTEN, MAX_SPEC, SpecHead};

/// Everything about one worker process.
#[derive(Debug)]
pub struct SpawnRequest {
    /// The path of the program, already resolved in `PATH`. Relative paths start at `cwd`.
    pub program: PathBuf,
    /// All arguments, including the zeroth.
    pub argv: Vec<OsString>,
    /// The complete environment; nothing is inherited. With `listen`, a `LISTEN_PID` in it is
    /// replaced.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory. `None`: the one that the host had when it launched the guardian.
    pub cwd: Option<PathBuf>,
    /// Becomes descriptor 0. `None`: /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Becomes descriptor 1.
    pub stdout: OwnedFd,
    /// Becomes descriptor 2.
    pub stderr: OwnedFd,
    /// The directory of the cgroup (v2) in which the worker starts and which is killed with its
    /// tree. It must belong to the slot alone: everything in it is killed when the worker has
    /// ended. If it cannot be entered, the worker starts outside, and `Spawned` says so. A cgroup
    /// in which `cgroup.kill` was used ([`TreeKill::cgroup`](super::TreeKill::cgroup)) must not be
    /// reused: kernels since 6.14 kill whatever is cloned into it, so the next incarnation needs a
    /// new one.
    pub cgroup: Option<OwnedFd>,
    /// Listening sockets, which become descriptors 3, 4, … (sd_listen_fds(3)); at most 64.
    /// `LISTEN_PID` is then added to the environment; `LISTEN_FDS` and `LISTEN_FDNAMES` are up to
    /// the caller.
    pub listen: Vec<OwnedFd>,
    /// How the tree is ended when host or guardian dies first.
    pub host_death: EndPolicy,
}

/// How a tree is ended: a signal to the worker's process group, a grace, then KILL to the whole
/// tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndPolicy {
    /// The first signal. KILL ends the whole tree immediately.
    pub signal: Signal,
    /// The time from the first signal to the tree kill, in whole milliseconds; zero kills
    /// immediately. If the worker ends sooner, other members of its process group have the rest of
    /// it.
    pub grace: Duration,
}

impl Default for EndPolicy {
    /// KILL, immediately.
    fn default() -> Self {
        Self {
            signal: Signal::KILL,
            grace: Duration::ZERO,
        }
    }
}

impl SpawnRequest {
    /// The specification of this request, in a new memory file.
    pub(super) fn spec(&self) -> Result<OwnedFd, OrderError> {
        if self.listen.len() > MAX_LISTEN {
            return Err(OrderError::TooManyListeners {
                count: self.listen.len(),
            });
        }
        let bytes = self.layout()?;
        let mut file = File::from(memory_file()?);
        file.write_all(&bytes)?;
        Ok(file.into())
    }

    /// The header, two tables of offsets, and the strings (see [`SpecHead`]).
    fn layout(&self) -> Result<Vec<u8>, OrderError> {
        let env: Vec<&(OsString, OsString)> = self
            .env
            .iter()
            .filter(|(name, _)| self.listen.is_empty() || name != "LISTEN_PID")
            .collect();
        let envc = env.len() + usize::from(!self.listen.is_empty());
        let argv_at = SpecHead::SIZE;
        let envp_at = argv_at + (self.argv.len() + 1) * 8;
        let mut strings = Strings {
            bytes: vec![0; envp_at + (envc + 1) * 8],
        };

        let mut offsets = Vec::with_capacity(self.argv.len() + envc);
        for argument in &self.argv {
            offsets.push(strings.push("an argument", &[argument])?);
        }
        for (name, value) in env {
            offsets.push(strings.push("an environment variable", &[name, OsStr::new("="), value])?);
        }
        let mut listen_pid = 0;
        if !self.listen.is_empty() {
            let at = strings.push("LISTEN_PID", &[OsStr::new("LISTEN_PID=")])?;
            offsets.push(at);
            listen_pid = strings.bytes.len() - 1;
            strings.bytes.resize(listen_pid + SpecHead::PID_ROOM, 0);
        }
        let program = strings.push("the program's path", &[self.program.as_os_str()])?;
        let directory = match &self.cwd {
            Some(path) => strings.push("the working directory", &[path.as_os_str()])?,
            None => 0,
        };

        let mut bytes = strings.bytes;
        if bytes.len() > MAX_SPEC {
            return Err(OrderError::TooLarge { bytes: bytes.len() });
        }
        // Everything is below MAX_SPEC now, so no offset is truncated.
        let head = SpecHead {
            program: program as u32,
            directory: directory as u32,
            listen_pid: listen_pid as u32,
            argv: argv_at as u32,
            argc: self.argv.len() as u32,
            envp: envp_at as u32,
            envc: envc as u32,
        };
        bytes[..SpecHead::SIZE].copy_from_slice(&head.encode());
        let (argv, envp) = offsets.split_at(self.argv.len());
        write_table(&mut bytes, argv_at, argv);
        write_table(&mut bytes, envp_at, envp);
        Ok(bytes)
    }
}

struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    fn push(&mut self, what: &'static str, parts: &[&OsStr]) -> Result<usize, OrderError> {
        let at = self.bytes.len();
        for part in parts {
            if part.as_bytes().contains(&0) {
                return Err(OrderError::Nul { what });
            }
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.bytes.push(0);
        Ok(at)
    }
}

fn write_table(bytes: &mut [u8], at: usize, offsets: &[usize]) {
    for (cell, offset) in bytes[at..].chunks_exact_mut(8).zip(offsets) {
        cell.copy_from_slice(&(*offset as u64).to_ne_bytes());
    }
}

/// A memory file that can never be executed, as required by systems with `vm.memfd_noexec`. Kernels
/// before 6.3 do not know the flag and return EINVAL.
fn memory_file() -> io::Result<OwnedFd> {
    let name = "ostler-spec";
    match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SpawnRequest {
        let null = || OwnedFd::from(File::open("/dev/null").expect("/dev/null opens"));
        SpawnRequest {
            program: "/bin/true".into(),
            argv: vec!["true".into(), "".into(), "x y".into()],
            env: vec![("A".into(), "1".into()), ("LISTEN_PID".into(), "7".into())],
            cwd: Some("/tmp".into()),
            stdin: None,
            stdout: null(),
            stderr: null(),
            cgroup: None,
            listen: vec![],
            host_death: EndPolicy::default(),
        }
    }

    fn string_at(bytes: &[u8], at: usize) -> &str {
        let end = bytes[at..].iter().position(|b| *b == 0).expect("the string ends");
        std::str::from_utf8(&bytes[at..at + end]).expect("text")
    }

    fn table(bytes: &[u8], at: u32, count: u32) -> Vec<String> {
        let cells = bytes[at as usize..].chunks_exact(8);
        let offsets: Vec<u64> = cells
            .take(count as usize + 1)
            .map(|c| u64::from_ne_bytes(c.try_into().expect("8")))
            .collect();
        assert_eq!(offsets.last(), Some(&0), "the table is closed");
        offsets[..count as usize]
            .iter()
            .map(|at| string_at(bytes, *at as usize).to_owned())
            .collect()
    }

    #[test]
    fn spec_has_every_string_at_its_offset() {
        let bytes = request().layout().expect("a spec");
        let head = SpecHead::decode(&bytes, bytes.len()).expect("a head");
        assert_eq!(string_at(&bytes, head.program as usize), "/bin/true");
        assert_eq!(string_at(&bytes, head.directory as usize), "/tmp");
        assert_eq!(table(&bytes, head.argv, head.argc), ["true", "", "x y"]);
        assert_eq!(table(&bytes, head.envp, head.envc), ["A=1", "LISTEN_PID=7"]);
        assert_eq!(head.listen_pid, 0);
    }

    #[test]
    fn listening_sockets_reserve_space_for_the_pid() {
        let mut request = request();
        request
            .listen
            .push(File::open("/dev/null").expect("/dev/null opens").into());
        let bytes = request.layout().expect("a spec");
        let head = SpecHead::decode(&bytes, bytes.len()).expect("a head");
        assert_eq!(table(&bytes, head.envp, head.envc), ["A=1", "LISTEN_PID="]);
        let room = &bytes[head.listen_pid as usize..][..SpecHead::PID_ROOM];
        assert_eq!(room, [0; SpecHead::PID_ROOM], "digits and their NUL fit");
        assert_eq!(
            string_at(&bytes, head.listen_pid as usize - "LISTEN_PID=".len()),
            "LISTEN_PID="
        );
    }

    #[test]
    fn values_that_exec_cannot_pass_are_refused_by_name() {
        let mut request = request();
        request.argv.push("a\0b".into());
        assert!(matches!(request.layout(), Err(OrderError::Nul { what: "an argument" })));
    }
}
