//! The worker's stdin, stdout and stderr: the worker's ends, and what the host keeps of each.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_core::failure::Failure;
use ostler_core::spec::Stdin;
use ostler_os::output::{self, Capture, CaptureOptions, OnLine};

use super::super::incarnation::Incarnation;
use super::super::output::on_line;
use super::super::resources::Resources;
use super::refusal;
use crate::follow::Stdio;
use crate::hub::Hub;

/// The worker's ends.
pub(super) struct Streams {
    /// `None`: /dev/null.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Creates the pipes, and captures the streams that do not belong to a client.
pub(super) fn make(incarnation: &Incarnation, resources: &mut Resources, hub: &Arc<Hub>) -> Result<Streams, Failure> {
    let captured = |stream| {
        let on_line = on_line(
            incarnation,
            hub,
            resources.lines.clone(),
            Arc::clone(&resources.tap),
            stream,
        );
        captured(incarnation, on_line, stream)
    };
    let (err_capture, stderr) = captured("stderr")?;
    let (stdin, stdout) = match incarnation.spec().stdin {
        Stdin::Null => {
            let (capture, stdout) = captured("stdout")?;
            resources.stdout = Some(capture);
            (None, stdout)
        }
        Stdin::Pipe => {
            let refused = |error| refusal::of_io("a pipe for its stdin and stdout", &error);
            let (stdin, to_worker) = std::io::pipe().map_err(refused)?;
            let (from_worker, stdout) = std::io::pipe().map_err(refused)?;
            // Kept until everything is released: a worker that sees its stdin end takes that for
            // its order to end.
            resources.stdio = Some(Stdio::new(to_worker.into(), from_worker.into()));
            (Some(stdin.into()), stdout.into())
        }
    };
    resources.stderr = Some(err_capture);
    let captures = (resources.stdout.clone(), resources.stderr.clone());
    resources.tap.attach(incarnation.number, captures.0, captures.1);
    Ok(Streams { stdin, stdout, stderr })
}

fn captured(incarnation: &Incarnation, on_line: OnLine, stream: &'static str) -> Result<(Capture, OwnedFd), Failure> {
    let (read, write) = output::pipe().map_err(|error| refusal::of_io("a pipe for its output", &error))?;
    let options = CaptureOptions {
        ring: incarnation.spec().output.ring,
        on_line: Some(on_line),
    };
    let capture = Capture::start(read, options)
        .map_err(|error| refusal::of_io(&format!("the reader of its {stream}"), &error))?;
    Ok((capture, write))
}
