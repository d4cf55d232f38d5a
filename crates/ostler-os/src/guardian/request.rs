//! What a worker is to be started with, and the memory file that carries it to the process that becomes the worker.

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
    /// The program's file, already looked up in `PATH`. Relative ones count from `cwd`.
    pub program: PathBuf,
    /// All arguments, the zeroth included.
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited. With `listen`, a `LISTEN_PID` in it is replaced.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; `None` for the one that the host was in when it launched the guardian.
    pub cwd: Option<PathBuf>,
    /// Becomes descriptor 0; `None`: that is /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Becomes descriptor 1.
    pub stdout: OwnedFd,
    /// Becomes descriptor 2.
    pub stderr: OwnedFd,
    /// Directory of the cgroup (v2) that the worker is born in and that is killed with its tree. It must be the slot's
    /// own: whatever is in it when the worker has ended is killed. Where it cannot be entered, the worker starts outside,
    /// and `Spawned` says so. A cgroup in which `cgroup.kill` was used ([`TreeKill::cgroup`](super::TreeKill::cgroup)) is
    /// spent: kernels since 6.14 kill whatever is cloned into it, so the next incarnation needs a fresh one.
    pub cgroup: Option<OwnedFd>,
    /// Listening sockets, which become descriptors 3, 4, … (sd_listen_fds(3)); at most 64. `LISTEN_PID` is then added
    /// to the environment; `LISTEN_FDS` and `LISTEN_FDNAMES` are the caller's.
    pub listen: Vec<OwnedFd>,
    /// How the tree ends when host or guardian dies first.
    pub host_death: EndPolicy,
}

/// How a tree is ended: a signal to the worker's process group, a time to obey, then KILL to the whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndPolicy {
    /// The first signal. KILL ends the whole tree at once.
    pub signal: Signal,
    /// From the first signal to the tree kill, in whole milliseconds; zero kills at once. When the worker ends sooner,
    /// others in its process group have the rest of it.
    pub grace: Duration,
}

impl Default for EndPolicy {
    /// KILL, at once.
    fn default() -> Self {
        Self {
            signal: Signal::KILL,
            grace: Duration::ZERO,
        }
    }
}

impl SpawnRequest {
    /// The spec of this request as a memory file of its own.
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

    /// Head, two tables of offsets, strings (see [`SpecHead`]).
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
        // Everything is below MAX_SPEC now, so no offset is cut.
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

/// A memory file that can never be executed, which systems with `vm.memfd_noexec` ask for. Kernels before 6.3 do not
/// know the flag and say EINVAL.
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
    fn a_spec_holds_every_string_where_its_head_says() {
        let bytes = request().layout().expect("a spec");
        let head = SpecHead::decode(&bytes, bytes.len()).expect("a head");
        assert_eq!(string_at(&bytes, head.program as usize), "/bin/true");
        assert_eq!(string_at(&bytes, head.directory as usize), "/tmp");
        assert_eq!(table(&bytes, head.argv, head.argc), ["true", "", "x y"]);
        assert_eq!(table(&bytes, head.envp, head.envc), ["A=1", "LISTEN_PID=7"]);
        assert_eq!(head.listen_pid, 0);
    }

    #[test]
    fn listening_sockets_bring_room_for_the_pid() {
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
    fn what_exec_cannot_pass_on_is_refused_by_name() {
        let mut request = request();
        request.argv.push("a\0b".into());
        assert!(matches!(request.layout(), Err(OrderError::Nul { what: "an argument" })));
    }
}
