//! What the command of an `exec` probe is given.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use ostler_core::failure::Failure;
use ostler_core::signal::Signal;
use ostler_core::spec::WorkerSpec;
use ostler_os::guardian::{EndPolicy, SpawnRequest};
use ostler_os::output::{self, Capture, CaptureOptions};
use ostler_os::program;

use super::super::incarnation::Incarnation;
use super::super::resources::Resources;
use super::environment::{self, Offers, WORKER_PID};
use super::refusal;
use super::spawn::expand;

/// How much of a probe's output is kept, in bytes.
const OUTPUT: usize = 4 * 1024;

/// A command that examines one incarnation of a worker.
#[derive(Debug)]
pub(in crate::process) struct Beside {
    /// The worker's specification with the command in place of its own.
    pub(in crate::process) spec: Arc<WorkerSpec>,
    env: Vec<(OsString, OsString)>,
}

impl Beside {
    pub(in crate::process) fn new(incarnation: &Incarnation, resources: &Resources, command: &[String]) -> Self {
        let mut spec = incarnation.spec().clone();
        spec.command = command.to_vec();
        let spec = expand(&spec, incarnation, resources);
        // Without what a worker reports by: that it is ready, is for the worker alone to say.
        let offers = Offers {
            ports: resources.ports.clone(),
            sockets: resources.sockets.clone(),
            ..Offers::default()
        };
        let marker = incarnation.worker.probe_marker_value(incarnation.number);
        let mut env = environment::environment(environment::inherited(), &spec, incarnation.run, marker, &offers);
        env.extend(resources.pid.map(|pid| (WORKER_PID.into(), pid.to_string().into())));
        Self {
            spec: Arc::new(spec),
            env,
        }
    }

    /// The order to start it, and what it will have written.
    ///
    /// # Errors
    /// Why it can't be started: no program, no descriptor for a pipe.
    pub(in crate::process) fn request(&self) -> Result<(SpawnRequest, Capture), Failure> {
        let Self { spec, env } = self;
        let named = spec.command.first().map_or("", String::as_str);
        let program = program::resolve(named, env, spec.cwd.as_deref()).map_err(|error| refusal::of_program(&error))?;
        let refused = |error| refusal::of_io("a pipe for its output", &error);
        let (read, stdout) = output::pipe().map_err(refused)?;
        let stderr = stdout.try_clone().map_err(refused)?;
        let options = CaptureOptions {
            ring: OUTPUT,
            on_line: None,
        };
        let output =
            Capture::start(read, options).map_err(|error| refusal::of_io("the reader of its output", &error))?;
        let request = SpawnRequest {
            program,
            argv: spec.command.iter().map(Into::into).collect(),
            env: env.clone(),
            cwd: spec.cwd.clone(),
            stdin: None,
            stdout,
            stderr,
            // The worker's cgroup is killed with the worker's tree alone.
            cgroup: None,
            listen: Vec::new(),
            host_death: EndPolicy {
                signal: Signal::KILL,
                grace: Duration::ZERO,
            },
        };
        Ok((request, output))
    }
}
