//! From a spawn order to exec: the new process, and what it does until it is the worker's program.

use core::ffi::CStr;

use crate::failpoint::{self, Point};
use crate::life::SIGKILL;
use crate::process::{self, ChildStart, DescriptorLimit};
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
    /// Field 22 of `/proc/PID/stat`; `None` if a clock tick came while it was created, so that only
    /// `/proc` can say.
    pub(crate) start_time: Option<u64>,
    /// Kept until the child has exec'd or is reaped.
    pub(crate) memory: Memory,
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

/// Creates the worker-to-be. Does not wait for it.
///
/// It shares the sitter's memory until its exec, on a stack of its own (ADR 0038): nothing of the
/// sitter's memory is copied, neither here nor when one of the two writes.
pub(crate) fn start(launch: &Launch<'_>) -> Result<Born, Failure> {
    let mut memory = Memory::read(launch.spec).map_err(at(Step::Spec))?;
    let program = memory.program().map_err(at(Step::Spec))?;
    let (exec, report) = sys::pipe().map_err(at(Step::Pipe))?;
    let mut listen = [-1; MAX_LISTEN];
    for (place, listener) in listen.iter_mut().zip(launch.listen.iter().flatten()) {
        *place = listener.raw();
    }
    let child = Child {
        sitter: process::own_pid(),
        report: report.raw(),
        stdin: launch.stdin.map(Fd::raw),
        stdout: launch.stdout.raw(),
        stderr: launch.stderr.raw(),
        listen,
        listeners: launch.listen.len(),
        limit: launch.limit,
        program,
    };
    let start = memory.child_start(child);
    let before = sys::boot_ticks();
    let (pid, in_cgroup) = create(launch.cgroup, &start).map_err(at(Step::Fork))?;
    let after = sys::boot_ticks();
    Ok(Born {
        pid,
        exec,
        in_cgroup,
        start_time: (before == after).then_some(after),
        memory,
    })
}

/// A cgroup that can't be entered (an old kernel, a seccomp filter, a removed cgroup) does not
/// prevent the start: the host is informed. A process limit, including the cgroup's own, does.
fn create(cgroup: Option<&Fd>, start: &ChildStart) -> sys::Result<(i32, bool)> {
    if let Some(cgroup) = cgroup {
        // SAFETY: the stack and what the child uses lie in a `Memory`, which is kept unchanged
        // until the child has left it.
        match unsafe { process::start_child_into(cgroup, start) } {
            Ok(pid) => return Ok((pid, true)),
            Err(errno @ (Errno::EAGAIN | Errno::ENOMEM)) => return Err(errno),
            Err(_) => {}
        }
    }
    // SAFETY: the same.
    unsafe { process::start_child(start) }.map(|pid| (pid, false))
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

/// What the child needs. The sitter closes its own descriptors meanwhile; the child has copies.
struct Child {
    sitter: i32,
    /// The writing end of the pipe that reports the outcome of exec.
    report: i32,
    stdin: Option<i32>,
    stdout: i32,
    stderr: i32,
    listen: [i32; MAX_LISTEN],
    listeners: usize,
    limit: DescriptorLimit,
    program: Program,
}

/// The child's first function. `child` is the address of a [`Child`].
extern "C" fn become_worker(child: usize) -> ! {
    // SAFETY: it was placed there for this process alone.
    let child = unsafe { &mut *(child as *mut Child) };
    let failure = match prepare(child) {
        Err(failure) => failure,
        Ok(()) => child.program.execute(),
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(failure.step as i32).to_ne_bytes());
    bytes[4..].copy_from_slice(&failure.errno.0.to_ne_bytes());
    // If this fails, the sitter sees an exit with status 127.
    let _ = sys::write(child.report, &bytes);
    process::exit(status::NOT_STARTED)
}

fn prepare(child: &mut Child) -> Result<(), Failure> {
    failpoint::reach(Point::WorkerBorn);
    process::signal_at_parents_end(SIGKILL).map_err(at(Step::Parent))?;
    if process::parent_pid() != child.sitter {
        // The sitter died before PR_SET_PDEATHSIG was set.
        return Err(at(Step::Parent)(Errno::ESRCH));
    }
    process::new_session().map_err(at(Step::Session))?;
    child.program.write_listen_pid();
    place_descriptors(child).map_err(at(Step::Descriptors))?;
    process::set_descriptor_limit(child.limit).map_err(at(Step::Limits))?;
    // The guardian has restored every signal's default action, and blocks all signals.
    process::set_blocked_signals(0).map_err(at(Step::Session))?;
    if let Some(directory) = child.program.directory() {
        sys::change_directory(directory).map_err(at(Step::Directory))?;
    }
    failpoint::reach(Point::WorkerPlaced);
    Ok(())
}

/// 0 is /dev/null already, or the given stdin; 1 and 2 are the pipes, then the listening sockets.
/// Exec closes everything else.
fn place_descriptors(child: &mut Child) -> sys::Result<()> {
    let first_free = 3 + child.listeners as i32;
    if child.listeners > 0 {
        // A source may be at a listener's place: move everything out of the way first, then each to
        // its place.
        if let Some(fd) = child.stdin {
            child.stdin = Some(sys::duplicate_above(fd, first_free)?);
        }
        for fd in [&mut child.stdout, &mut child.stderr, &mut child.report] {
            *fd = sys::duplicate_above(*fd, first_free)?;
        }
        let listen = &mut child.listen[..child.listeners];
        for fd in &mut *listen {
            *fd = sys::duplicate_above(*fd, first_free)?;
        }
        for (target, source) in (3..first_free).zip(listen) {
            sys::duplicate_to(*source, target, false)?;
        }
    }
    if let Some(fd) = child.stdin {
        sys::duplicate_to(fd, 0, false)?;
    }
    sys::duplicate_to(child.stdout, 1, false)?;
    sys::duplicate_to(child.stderr, 2, false)?;
    // All our descriptors are close-on-exec already. This is for one that was overlooked; kernels
    // before 5.11 lack it.
    let _ = sys::close_on_exec_from(first_free);
    Ok(())
}

/// The memory of a child that is on its way to exec: its spec, then its stack, then its [`Child`].
/// It is unmapped on drop, when the child must have left it.
pub(crate) struct Memory {
    start: *mut u8,
    /// The size of the spec.
    spec: usize,
    bytes: usize,
}

const PAGE: usize = 4096;
/// The child's stack and its [`Child`].
const STACK: usize = 2 * PAGE;

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the sitter drops it when the child has exec'd or is reaped, and refers to it only
        // here.
        unsafe { sys::unmap(self.start, self.bytes) };
    }
}

impl Memory {
    /// Reads a spec.
    fn read(spec: &Fd) -> sys::Result<Self> {
        let size = sys::size(spec.raw())?;
        if !(SpecHead::SIZE..=MAX_SPEC).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let bytes = size.next_multiple_of(PAGE) + STACK;
        let mut memory = Self {
            start: sys::map(bytes)?,
            spec: size,
            bytes,
        };
        match sys::read_at(spec.raw(), memory.spec(), 0)? {
            length if length == size => Ok(memory),
            _ => Err(Errno::EINVAL),
        }
    }

    fn spec(&mut self) -> &'static mut [u8] {
        // SAFETY: a mapping of at least this many bytes, to which nothing else refers: the callers
        // use one slice after the other, and the last one is the child's.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.spec) }
    }

    /// Checks the spec, and turns its offsets into pointers.
    fn program(&mut self) -> sys::Result<Program> {
        let (start, bytes) = (self.start as u64, self.spec());
        let head = SpecHead::decode(bytes, bytes.len()).ok_or(Errno::EINVAL)?;
        if bytes.last() != Some(&0) {
            // Some string would not end inside the spec.
            return Err(Errno::EINVAL);
        }
        relocate(bytes, start, head.argv, head.argc)?;
        relocate(bytes, start, head.envp, head.envc)?;
        Ok(Program { bytes, head })
    }

    /// Places the child at the end, and its stack below.
    fn child_start(&mut self, child: Child) -> ChildStart {
        const { assert!(size_of::<Child>() < PAGE / 2 && align_of::<Child>() <= 16) };
        let at = (self.start as usize + self.bytes - size_of::<Child>()) & !15;
        // SAFETY: inside the mapping, above the spec, and aligned.
        unsafe { (at as *mut Child).write(child) };
        ChildStart {
            stack: at,
            entry: become_worker,
            argument: at,
        }
    }
}

/// A spec that is ready for execve.
struct Program {
    bytes: &'static mut [u8],
    head: SpecHead,
}

impl Program {
    /// Only the child knows its pid.
    fn write_listen_pid(&mut self) {
        if self.head.listen_pid != 0 {
            let room = &mut self.bytes[self.head.listen_pid as usize..][..SpecHead::PID_ROOM - 1];
            text::write_decimal(process::own_pid().unsigned_abs(), room);
        }
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
