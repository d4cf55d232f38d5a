//! The settings of a Python worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_core::spec::{PoolSpec, Port, Ports, Ready, Stdin, StopSpec, WorkerSpec};

use crate::error::PythonError;
use crate::interpreter::{self, Interpreter};
use crate::job::Job;
use crate::preflight::{Report, preflight};
use crate::venv::{self, Requested};

/// From TERM to KILL: 6 s, which a gRPC server needs to finish what is in flight.
pub const STOP_GRACE: Duration = Duration::from_secs(6);
/// The same when the host has died: 2 s.
const HOST_DEATH_GRACE: Duration = Duration::from_secs(2);

/// How requests reach the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Frames on stdin and stdout; needs no package but `ostler-worker`.
    #[default]
    Stdio,
    /// gRPC on a Unix socket of the worker's own; needs `ostler-worker[grpc]`.
    Grpc,
}

impl Transport {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Grpc => "grpc",
        }
    }
}

/// A Python worker: its file, and where its interpreter and packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    file: PathBuf,
    arguments: Vec<String>,
    base: PathBuf,
    interpreter: Option<String>,
    venv: Option<PathBuf>,
    requirements: Option<PathBuf>,
    locked: bool,
    transport: Transport,
    workers: u32,
    concurrency: u32,
    devices: Vec<String>,
    pinned: bool,
    env: BTreeMap<String, String>,
    start_timeout: Option<Duration>,
}

impl Python {
    /// The worker in `file`, run by the first of: the `venv`, the `interpreter`, a `.venv` next to
    /// the file, `python3` in the PATH.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            arguments: Vec::new(),
            base: PathBuf::from("."),
            interpreter: None,
            venv: None,
            requirements: None,
            locked: false,
            transport: Transport::default(),
            workers: 1,
            concurrency: 1,
            devices: Vec::new(),
            pinned: false,
            env: BTreeMap::new(),
            start_timeout: None,
        }
    }

    /// What relative paths are relative to. Default: the working directory.
    #[must_use]
    pub fn base(mut self, base: impl Into<PathBuf>) -> Self {
        self.base = base.into();
        self
    }

    /// Arguments after the file.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// The interpreter, by name or path; with `requirements`, the one that the virtual environment
    /// is made with. Default `python3`.
    #[must_use]
    pub fn interpreter(mut self, interpreter: impl Into<String>) -> Self {
        self.interpreter = Some(interpreter.into());
        self
    }

    /// The virtual environment. It must exist, unless there are `requirements` to make it from.
    #[must_use]
    pub fn venv(mut self, venv: impl Into<PathBuf>) -> Self {
        self.venv = Some(venv.into());
        self
    }

    /// A requirements file of pip: the virtual environment is made from it, once, and again when it
    /// changes. Without `venv`, it is kept in the user's cache folder.
    #[must_use]
    pub fn requirements(mut self, requirements: impl Into<PathBuf>) -> Self {
        self.requirements = Some(requirements.into());
        self
    }

    /// The requirements list every package: only these are installed, and not what they depend on
    /// (`--no-deps`). Default: their dependencies are installed too.
    #[must_use]
    pub const fn locked(mut self) -> Self {
        self.locked = true;
        self
    }

    /// How requests reach it. Default stdio.
    #[must_use]
    pub const fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// How many worker processes. Default 1.
    #[must_use]
    pub const fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Requests in flight at one worker: so many sync handlers run at once, each on a thread.
    /// Default 1.
    #[must_use]
    pub const fn concurrency(mut self, requests: u32) -> Self {
        self.concurrency = requests;
        self
    }

    /// The devices of the workers, such as the numbers of GPUs: each worker has one
    /// (`CUDA_VISIBLE_DEVICES`, and `{device}` in the command and the environment), by its index,
    /// so that they are spread evenly and a restart changes nothing. Default none.
    #[must_use]
    pub fn devices(mut self, devices: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.devices = devices.into_iter().map(Into::into).collect();
        self
    }

    /// Each worker runs on one core, by its index, of those that this process may use. Default: the
    /// kernel places them.
    #[must_use]
    pub const fn pin_to_cores(mut self) -> Self {
        self.pinned = true;
        self
    }

    /// A variable of the workers' environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// How long a worker may take until its `load` has returned. Default 30 s; zero: no limit.
    #[must_use]
    pub const fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = Some(timeout);
        self
    }

    /// The devices of the workers.
    pub fn device_names(&self) -> &[String] {
        &self.devices
    }

    /// Whether each worker runs on one core.
    pub const fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// The worker's file.
    pub fn file(&self) -> PathBuf {
        self.base.join(&self.file)
    }

    /// The requirements file.
    pub fn requirements_file(&self) -> Option<PathBuf> {
        self.requirements.as_ref().map(|file| self.base.join(file))
    }

    /// The interpreter that was set.
    pub fn interpreter_name(&self) -> Option<&str> {
        self.interpreter.as_deref()
    }

    /// The virtual environment that was set.
    pub fn venv_folder(&self) -> Option<PathBuf> {
        self.venv.as_ref().map(|venv| self.base.join(venv))
    }

    /// The interpreter that runs it; makes the virtual environment if need be, which can take
    /// minutes. `progress` receives what is done.
    ///
    /// Blocks. What it starts, such as pip, ends with this program, however that ends; an
    /// environment that is half made then is made again by the next call.
    ///
    /// # Errors
    /// See [`PythonError`].
    pub fn prepare(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, PythonError> {
        self.prepare_as(&mut Job::to_its_end(progress))
    }

    fn prepare_as(&self, job: &mut Job<'_>) -> Result<PathBuf, PythonError> {
        let file = self.file();
        if !file.is_file() {
            return Err(PythonError::NoFile(file));
        }
        Ok(self.find(job)?.path)
    }

    fn find(&self, job: &mut Job<'_>) -> Result<Interpreter, PythonError> {
        let venv = self.venv_folder();
        if let Some(requirements) = self.requirements_file() {
            let base = interpreter::find(self.interpreter.as_deref(), &self.base, &job.cancel)?;
            let requested = Requested {
                requirements: &requirements,
                locked: self.locked,
            };
            return venv::required(&base, venv.as_deref(), requested, job);
        }
        if let Some(venv) = venv {
            return venv::existing(&venv, &job.cancel);
        }
        let beside = self.file().parent().unwrap_or(Path::new(".")).join(".venv");
        if self.interpreter.is_none() && beside.is_dir() {
            return venv::existing(&beside, &job.cancel);
        }
        interpreter::find(self.interpreter.as_deref(), &self.base, &job.cancel)
    }

    /// Prepares the interpreter and imports what the worker imports, without running the worker.
    ///
    /// Blocks, like [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// See [`PythonError`]. What is missing is no error: see [`Report::problems`].
    pub fn preflight(&self, progress: &mut dyn FnMut(&str)) -> Result<Report, PythonError> {
        let interpreter = self.prepare(progress)?;
        let requirements = self.requirements_file();
        preflight(&self.worker(&interpreter), &self.file(), requirements.as_deref())
    }

    /// A pool of this worker, its interpreter prepared.
    ///
    /// # Errors
    /// See [`PythonError`].
    pub fn pool(&self, name: &str, progress: &mut dyn FnMut(&str)) -> Result<PoolSpec, PythonError> {
        self.pool_as(name, &mut Job::to_its_end(progress))
    }

    pub(crate) fn pool_as(&self, name: &str, job: &mut Job<'_>) -> Result<PoolSpec, PythonError> {
        let interpreter = self.prepare_as(job)?;
        let mut pool = PoolSpec::new(name, [""; 1]);
        pool.worker = self.worker(&interpreter);
        pool.workers = self.workers;
        pool.serve.concurrency = self.concurrency;
        self.inform(&mut pool);
        Ok(pool)
    }

    /// The worker's spec: unbuffered output, readiness by notify, `STOP_GRACE` to drain, and TERM
    /// with 2 s when the host has died. All of it can be changed afterwards.
    pub fn worker(&self, interpreter: &Path) -> WorkerSpec {
        let mut command = vec![interpreter.display().to_string(), "-u".to_owned()];
        command.push(self.file().display().to_string());
        command.extend(self.arguments.iter().cloned());
        let mut spec = WorkerSpec::new(command);
        spec.ready = Some(Ready::Notify);
        spec.stop = StopSpec::term(STOP_GRACE);
        spec.host_death = StopSpec::term(HOST_DEATH_GRACE);
        match self.transport {
            Transport::Stdio => spec.stdin = Stdin::Pipe,
            Transport::Grpc => spec.ports = Ports::One(Port::Unix),
        }
        spec.env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        spec.env
            .insert("OSTLER_TRANSPORT".to_owned(), self.transport.name().to_owned());
        if !self.devices.is_empty() {
            spec.devices = self.devices.clone();
            spec.env
                .insert("CUDA_VISIBLE_DEVICES".to_owned(), "{device}".to_owned());
        }
        if self.pinned {
            spec.env.insert("OSTLER_CORE".to_owned(), "{index}".to_owned());
        }
        if let Some(timeout) = self.start_timeout {
            spec.start_timeout = timeout;
        }
        spec.env.extend(self.env.clone());
        spec
    }

    /// Sets the variables that inform the workers of the pool's `stop` and `concurrency`: to be
    /// called again when either was changed.
    pub fn inform(&self, pool: &mut PoolSpec) {
        let grace = pool.worker.stop.grace.as_millis().max(1).to_string();
        let env = &mut pool.worker.env;
        env.insert("OSTLER_GRACE_MS".to_owned(), grace);
        env.insert("OSTLER_CONCURRENCY".to_owned(), pool.serve.concurrency.to_string());
    }
}
