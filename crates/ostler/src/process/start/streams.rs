//! The worker's stdin, stdout and stderr: what it gets, and what the host keeps of each.

use std::os::fd::OwnedFd;

use ostler_core::failure::Failure;
use ostler_core::spec::{Stdin, WorkerSpec};
use ostler_os::output::{self, Capture, CaptureOptions};

use super::super::driver::Driver;
use super::refusal;
use crate::follow::Stdio;

/// The worker's ends.
pub(super) struct Streams {
    /// `None`: /dev/null.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Driver {
    /// Makes the pipes; captures what is not a client's.
    pub(super) fn streams(&mut self, spec: &WorkerSpec) -> Result<Streams, Failure> {
        let (stdin, stdout) = match spec.stdin {
            Stdin::Null => {
                let (capture, stdout) = self.captured(spec, "stdout")?;
                self.resources.stdout = Some(capture);
                (None, stdout)
            }
            Stdin::Pipe => {
                let refused = |error| refusal::of_io("a pipe for its stdin and stdout", &error);
                let (stdin, to_worker) = std::io::pipe().map_err(refused)?;
                let (from_worker, stdout) = std::io::pipe().map_err(refused)?;
                // Kept until all is released: a worker that sees its stdin end takes that for its
                // order to end.
                self.resources.stdio = Some(Stdio::new(to_worker.into(), from_worker.into()));
                (Some(stdin.into()), stdout.into())
            }
        };
        let (capture, stderr) = self.captured(spec, "stderr")?;
        self.resources.stderr = Some(capture);
        Ok(Streams { stdin, stdout, stderr })
    }

    fn captured(&self, spec: &WorkerSpec, stream: &'static str) -> Result<(Capture, OwnedFd), Failure> {
        let (read, write) = output::pipe().map_err(|error| refusal::of_io("a pipe for its output", &error))?;
        let options = CaptureOptions {
            ring: spec.output.ring,
            on_line: self.on_line(spec, stream),
        };
        let capture = Capture::start(read, options)
            .map_err(|error| refusal::of_io(&format!("the reader of its {stream}"), &error))?;
        Ok((capture, write))
    }
}
