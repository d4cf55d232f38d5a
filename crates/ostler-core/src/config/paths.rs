//! What the relative paths of a specification are relative to.

use std::path::{Path, PathBuf};

use crate::spec::{PoolSpec, Probe, ProbeKind, Ready};

impl PoolSpec {
    /// The same with its relative paths relative to `base`, which is an absolute directory: those
    /// of `cwd`, of the program, and of the programs of `exec` probes. A program without a slash
    /// stays: it is looked up in `PATH`. Without `cwd`, the workers run in `base`.
    ///
    /// `ostler up FILE` does this with the directory of its file.
    #[must_use]
    pub fn relative_to(mut self, base: impl AsRef<Path>) -> Self {
        let base = base.as_ref();
        let worker = &mut self.worker;
        worker.cwd = Some(join(base, worker.cwd.as_deref().unwrap_or(Path::new(""))));
        let ready = match &mut worker.ready {
            Some(Ready::Probe(probe)) => Some(probe),
            _ => None,
        };
        let health = worker.health.as_mut().map(|health| &mut health.probe);
        let commands = ready.into_iter().chain(health).filter_map(command_of);
        for command in commands.chain([&mut worker.command]) {
            if let Some(program) = command.first_mut() {
                *program = program_path(base, program);
            }
        }
        self
    }
}

fn command_of(probe: &mut Probe) -> Option<&mut Vec<String>> {
    match &mut probe.kind {
        ProbeKind::Exec(command) => Some(command),
        ProbeKind::Http(_) | ProbeKind::Tcp | ProbeKind::Grpc(_) => None,
    }
}

/// `base/path`, without the `.` that stands for `base` itself.
pub fn join(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

/// A program with a slash in it is a path; any other is looked up in `PATH`.
fn program_path(base: &Path, program: &str) -> String {
    let joined = program.contains('/').then(|| join(base, Path::new(program)));
    // A directory that is no UTF-8 leaves the path as it is: relative to `cwd`, which is that
    // directory by default.
    joined
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| program.to_owned())
}
