//! Holds one thread of a host, as a disk does that stalls in the middle of a write.

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The name of the thread that writes the process table.
const TABLE: &str = "ostler-table";

/// A thread that does not run until this value is dropped. The thread that has begun a stall must
/// also end it (ptrace(2)).
#[derive(Debug)]
pub(crate) struct Stall(Pid);

impl Stall {
    /// Stops the thread of this host that writes its process table. Fails where ptrace is not
    /// permitted.
    pub(crate) fn of_table(host: i32) -> Result<Self, String> {
        let thread = thread_named(host, TABLE).ok_or_else(|| format!("the host has no thread {TABLE}"))?;
        let failed = |step: &'static str| move |errno| format!("{step} of the table's thread: {errno}");
        ptrace::seize(thread, ptrace::Options::empty()).map_err(failed("PTRACE_SEIZE"))?;
        let stall = Self(thread);
        ptrace::interrupt(thread).map_err(failed("PTRACE_INTERRUPT"))?;
        waitpid(thread, Some(WaitPidFlag::__WALL)).map_err(failed("waiting for the stop"))?;
        Ok(stall)
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        // If the host has died, there is nothing to continue.
        _ = ptrace::detach(self.0, None);
    }
}

fn thread_named(process: i32, name: &str) -> Option<Pid> {
    let mut tasks = procfs::process::Process::new(process).ok()?.tasks().ok()?.flatten();
    let task = tasks.find(|task| task.stat().is_ok_and(|stat| stat.comm == name))?;
    Some(Pid::from_raw(task.tid))
}
