//! A process that is held by a debugger.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::scene::killed_with_the_test;

/// Holds a process where no SIGCONT continues it, until dropped.
#[derive(Debug)]
pub struct Tracer(Child);

impl Tracer {
    /// Stops this process; `None` where ptrace is not permitted.
    ///
    /// # Panics
    ///
    /// If python3 can't be run.
    pub fn of(process: i32) -> Option<Self> {
        let script = format!(
            "import ctypes, time\n\
             libc = ctypes.CDLL(None)\n\
             libc.ptrace.argtypes = [ctypes.c_long] * 4\n\
             print(libc.ptrace(0x4206, {process}, 0, 0) or libc.ptrace(0x4207, {process}, 0, 0), flush=True)\n\
             time.sleep(60)"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]);
        let mut command = killed_with_the_test(&command);
        let mut tracer = Self(command.stdout(Stdio::piped()).spawn().expect("python3 starts"));
        let mut line = String::new();
        let output = tracer.0.stdout.take().expect("piped stdout");
        BufReader::new(output).read_line(&mut line).expect("reading its answer");
        (line.trim() == "0").then_some(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
