//! From a spawn order to exec: the fork, and what the child does until it is the worker's program.

use core::ffi::CStr;

use crate::failpoint::{self, Point};
use crate::life::SIGKILL;
use crate::process::{self, DescriptorLimit};
use crate::protocol::{MAX_LISTEN, MAX_SPEC, SpecHead, Step};
use crate::status;
use crate::sys::{self, Errno, Fd};
use crate::text;

/// What a worker is started from. The sitter keeps all of it.
pub(crate) struct Launch<'a> {
    pub(crate) spec: &'a Fd,
    /// `None` for /dev/null.
    pub(crate) stdin: Option<&'a Fd>,
    pub(crate) stdout: &'a Fd,
    pub(crate) stderr: &'a Fd,
    pub(crate) cgroup: Option<&'a Fd>,
    pub(crate) listen: &'a [Option<Fd>],
    pub(crate) limit: DescriptorLimit,
}

/// A child that is on its way to exec.
pub(crate) struct Born {
    pub(crate) pid: i32,
    /// For [`outcome`]. A successful exec closes the other end.
    pub(crate) exec: Fd,
    pub(crate) in_cgroup: bool,
}

/// Why there is no worker.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
}

fn at(step: Step) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { step, errno }
}

/// Forks the worker-to-be. Does not wait for it.
pub(crate) fn start(launch: &Launch<'_>) -> Result<Born, Failure> {
    let (exec, report) = sys::pipe().map_err(at(Step::Pipe))?;
    let sitter = process::own_pid();
    let (pid, in_cgroup) = fork(launch.cgroup).map_err(at(Step::Fork))?;
    if pid == 0 {
        fail(become_worker(launch, sitter, report.raw()));
    }
    Ok(Born { pid, exec, in_cgroup })
}

/// A cgroup that can't be entered (an old kernel, a seccomp filter, a removed cgroup) does not
/// prevent the start: the host is informed. A process limit, including the cgroup's own, does.
fn fork(cgroup: Option<&Fd>) -> sys::Result<(i32, bool)> {
    if let Some(cgroup) = cgroup {
        match process::fork_into(cgroup) {
            Ok(pid) => return Ok((pid, true)),
            Err(errno @ (Errno::EAGAIN | Errno::ENOMEM)) => return Err(errno),
            Err(_) => {}
        }
    }
    process::fork().map(|pid| (pid, false))
}

/// The outcome of a start.
pub(crate) enum Outcome {
    Undecided,
    /// Exec succeeded, or the child was killed before it could report anything else.
    Executed,
    Failed(Failure),
}

pub(crate) fn outcome(exec: &Fd) -> Outcome {
    let mut bytes = [0; 8];
    match sys::read(exec.raw(), &mut bytes) {
        Err(Errno::EAGAIN | Errno::EINTR) => Outcome::Undecided,
        Ok(0) => Outcome::Executed,
        // Eight bytes are written at once, and a pipe does not split them (pipe(7)).
        Ok(_) => {
            let [a, b, c, d, e, f, g, h] = bytes;
            let step = Step::from_wire(i32::from_ne_bytes([a, b, c, d])).unwrap_or(Step::Pipe);
            let errno = Errno(i32::from_ne_bytes([e, f, g, h]));
            Outcome::Failed(Failure { step, errno })
        }
        Err(errno) => Outcome::Failed(at(Step::Pipe)(errno)),
    }
}

/// Ends a child that could not exec, after reporting why.
fn fail((failure, report): (Failure, i32)) -> ! {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(failure.step as i32).to_ne_bytes());
    bytes[4..].copy_from_slice(&failure.errno.0.to_ne_bytes());
    // If this fails, the sitter sees an exit with status 127.
    let _ = sys::write(report, &bytes);
    process::exit(status::NOT_STARTED)
}

/// Runs in the child. Returns only on failure, with the pipe that reports it.
fn become_worker(launch: &Launch<'_>, sitter: i32, report: i32) -> (Failure, i32) {
    match prepare(launch, sitter, report) {
        Err(failure) => (failure, report),
        Ok((report, ready)) => (ready.execute(), report),
    }
}

fn prepare(launch: &Launch<'_>, sitter: i32, report: i32) -> Result<(i32, Ready), Failure> {
    failpoint::reach(Point::WorkerBorn);
    process::signal_at_parents_end(SIGKILL).map_err(at(Step::Parent))?;
    if process::parent_pid() != sitter {
        // The sitter died before PR_SET_PDEATHSIG was set.
        return Err(at(Step::Parent)(Errno::ESRCH));
    }
    process::new_session().map_err(at(Step::Session))?;
    let ready = Ready::map(launch.spec).map_err(at(Step::Spec))?;
    let report = place_descriptors(launch, report).map_err(at(Step::Descriptors))?;
    process::set_descriptor_limit(launch.limit).map_err(at(Step::Limits))?;
    // The guardian has restored every signal's default action, and blocks all signals.
    process::set_blocked_signals(0).map_err(at(Step::Session))?;
    if let Some(directory) = ready.directory() {
        sys::change_directory(directory).map_err(at(Step::Directory))?;
    }
    failpoint::reach(Point::WorkerPlaced);
    Ok((report, ready))
}

/// 0 is /dev/null already, or the given stdin; 1 and 2 are the pipes, then the listening sockets.
/// Exec closes everything else. Returns the report pipe's descriptor.
fn place_descriptors(launch: &Launch<'_>, report: i32) -> sys::Result<i32> {
    let listeners = launch.listen.len();
    let first_free = 3 + listeners as i32;
    let (mut stdout, mut stderr, mut report) = (launch.stdout.raw(), launch.stderr.raw(), report);
    let mut stdin = launch.stdin.map(Fd::raw);
    if listeners > 0 {
        // A source may be at a listener's place: move everything out of the way first, then each to
        // its place.
        if let Some(fd) = stdin {
            stdin = Some(sys::duplicate_above(fd, first_free)?);
        }
        stdout = sys::duplicate_above(stdout, first_free)?;
        stderr = sys::duplicate_above(stderr, first_free)?;
        report = sys::duplicate_above(report, first_free)?;
        let mut aside = [-1; MAX_LISTEN];
        for (place, listener) in aside.iter_mut().zip(launch.listen.iter().flatten()) {
            *place = sys::duplicate_above(listener.raw(), first_free)?;
        }
        for (target, source) in (3..first_free).zip(aside) {
            sys::duplicate_to(source, target, false)?;
        }
    }
    if let Some(fd) = stdin {
        sys::duplicate_to(fd, 0, false)?;
    }
    sys::duplicate_to(stdout, 1, false)?;
    sys::duplicate_to(stderr, 2, false)?;
    // All our descriptors are close-on-exec already. This is for one that was overlooked; kernels
    // before 5.11 lack it.
    let _ = sys::close_on_exec_from(first_free);
    Ok(report)
}

/// A mapped spec, ready for execve.
struct Ready {
    bytes: &'static [u8],
    head: SpecHead,
}

impl Ready {
    fn map(spec: &Fd) -> sys::Result<Self> {
        let size = sys::size(spec.raw())?;
        if !(SpecHead::SIZE..=MAX_SPEC).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let start = sys::map_file(spec.raw(), size)?;
        // SAFETY: a fresh private mapping of `size` bytes that nothing else refers to and that is
        // never unmapped. The host can't shrink the file: it keeps no descriptor of it.
        let bytes = unsafe { core::slice::from_raw_parts_mut(start, size) };
        let head = SpecHead::decode(bytes, size).ok_or(Errno::EINVAL)?;
        if bytes.last() != Some(&0) {
            // Some string would not end inside the file.
            return Err(Errno::EINVAL);
        }
        if head.listen_pid != 0 {
            let room = &mut bytes[head.listen_pid as usize..][..SpecHead::PID_ROOM - 1];
            text::write_decimal(process::own_pid().unsigned_abs(), room);
        }
        relocate(bytes, start as u64, head.argv, head.argc)?;
        relocate(bytes, start as u64, head.envp, head.envc)?;
        Ok(Self { bytes, head })
    }

    fn directory(&self) -> Option<&CStr> {
        (self.head.directory != 0).then(|| self.string(self.head.directory))
    }

    fn string(&self, at: u32) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[at as usize..]).unwrap_or(c"")
    }

    fn execute(&self) -> Failure {
        let table = |at: u32| self.bytes[at as usize..].as_ptr().cast::<u64>();
        // SAFETY: both tables hold pointers to strings of this mapping, and end with a null
        // pointer.
        let errno = unsafe {
            process::execute(
                self.string(self.head.program),
                table(self.head.argv),
                table(self.head.envp),
            )
        };
        at(Step::Exec)(errno)
    }
}

/// Turns a table of offsets into pointers, in place. The head is checked: the table lies inside.
fn relocate(bytes: &mut [u8], start: u64, table: u32, count: u32) -> sys::Result<()> {
    let size = bytes.len() as u64;
    let mut cells = bytes[table as usize..].chunks_exact_mut(8);
    for cell in cells.by_ref().take(count as usize) {
        let mut word = [0; 8];
        word.copy_from_slice(cell);
        let offset = u64::from_ne_bytes(word);
        if offset == 0 || offset >= size {
            return Err(Errno::EINVAL);
        }
        cell.copy_from_slice(&(start + offset).to_ne_bytes());
    }
    match cells.next() {
        Some(last) if last.iter().all(|byte| *byte == 0) => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}
