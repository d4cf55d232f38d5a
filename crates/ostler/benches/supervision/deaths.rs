//! How long the `ostler` program takes to end: in order, after SIGTERM, and with everything below
//! it, after SIGKILL. The baseline is a bare loop of `kill` and `waitpid`.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_os::identity::ProcessHandle;
use tempfile::TempDir;

use crate::memory::children;
use crate::pools::milliseconds;
use crate::report::{Bound, Measure, Report};
use crate::worker::{Nanos, Worker, now};
use crate::{Scale, floor};

const SIZES: &[u32] = &[200, 1_000, 5_000];
/// The bounds hold for this many workers.
const BOUNDED: u32 = 1_000;
const EXIT_BOUND: f64 = 2.5;
const DEATH_BOUND: f64 = 2.0;
/// The limit after which a step fails, so that the benchmark cannot hang.
const LIMIT: Duration = Duration::from_secs(60);
/// A program that uses no CPU time for so long is done with what it was doing.
const QUIET: Duration = Duration::from_millis(100);

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let Some(program) = program() else {
        // Only this package is built then. `cargo xtask bench` and CI build both.
        return eprintln!("deaths: skipped, the program `ostler` is not built: cargo build --release -p ostler-cli");
    };
    let worker = Worker::build();
    let sizes = scale.pick(SIZES, &[20]);
    let mut measures: Vec<[Measure; 4]> = sizes.iter().map(|workers| of_size(*workers)).collect();
    for _ in 0..scale.rounds {
        for measures in &mut measures {
            let workers = measures[0].workers;
            for (signal, measures) in [Signal::SIGTERM, Signal::SIGKILL]
                .into_iter()
                .zip(measures.chunks_exact_mut(2))
            {
                let floor = milliseconds(floor::measure(floor::ROLE, &worker, workers, 0, signal).stop);
                let end = Up::start(&program, &worker, workers).end(signal);
                measures[0].add(floor, milliseconds(end.workers_gone));
                measures[1].add(floor, milliseconds(end.all_gone));
            }
        }
    }
    report.take("deaths", measures.as_flattened());
}

fn of_size(workers: u32) -> [Measure; 4] {
    let bound = |most| (workers == BOUNDED).then_some(Bound::Ratio(most));
    [
        Measure::new("SIGTERM, workers gone", workers),
        Measure::new("SIGTERM, program gone", workers).bound(bound(EXIT_BOUND)),
        Measure::new("SIGKILL, workers gone", workers),
        Measure::new("SIGKILL, nothing left", workers).bound(bound(DEATH_BOUND)),
    ]
}

/// The program `ostler` of the same build.
fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().expect("path of this program");
    // This program is in `deps`, below it.
    let program = own.parent()?.parent()?.join("ostler");
    program.exists().then_some(program)
}

/// A running `ostler up`.
struct Up<'a> {
    worker: &'a Worker,
    program: Child,
    guardian: ProcessHandle,
    _directory: TempDir,
}

/// The times from the signal on.
struct End {
    workers_gone: Nanos,
    /// The program, its guardian and every sitter are gone, too.
    all_gone: Nanos,
}

impl<'a> Up<'a> {
    /// Starts the program, and waits until all workers are up and it has nothing left to do.
    fn start(program: &PathBuf, worker: &'a Worker, workers: u32) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let file = directory.path().join("bench.toml");
        let text = format!(
            "[app]\nname = \"bench\"\nstate_dir = {:?}\nstore = {:?}\n[pool.bench]\nworkers = {workers}\ncommand = {:?}\n",
            directory.path().join("state"),
            ostler::Engine::DEFAULT.name(),
            worker.command()
        );
        fs::write(&file, text).expect("writing the configuration");
        let mut command = Command::new(program);
        command.arg("up").arg(&file).stdin(Stdio::null());
        // Its log is not what is measured.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.spawn().expect("running ostler");
        worker.last_of(workers);
        let [guardian] = guardians(program.id())[..] else {
            panic!("ostler has one child, its guardian");
        };
        wait_until_quiet(&[program.id(), guardian]);
        let guardian = ProcessHandle::open(guardian.cast_signed()).expect("opening the guardian");
        Self {
            worker,
            program,
            guardian: guardian.expect("the guardian is running"),
            _directory: directory,
        }
    }

    fn end(mut self, signal: Signal) -> End {
        let begun = now();
        kill(Pid::from_raw(self.program.id().cast_signed()), signal).expect("child of this process");
        let workers_gone = self.worker.last_end() - begun;
        let status = self.program.wait().expect("child of this process");
        // It ends after its last sitter.
        let ended = self
            .guardian
            .wait_until(Instant::now() + LIMIT)
            .expect("waiting for the guardian");
        let all_gone = now() - begun;
        assert!(ended, "the guardian is still running");
        assert!(
            signal == Signal::SIGKILL || status.success(),
            "ostler ended with {status}"
        );
        End { workers_gone, all_gone }
    }
}

impl Drop for Up<'_> {
    /// Nothing is left running if a step has failed: the guardian ends everything.
    fn drop(&mut self) {
        drop(self.program.kill());
        drop(self.program.wait());
    }
}

/// The children of all threads of the program.
fn guardians(program: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{program}/task")).expect("the program is running");
    let thread = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("thread").file_name();
        name.to_str().and_then(|name| name.parse().ok()).expect("number")
    };
    threads.flat_map(|entry| children(program, thread(entry))).collect()
}

/// Waits until these processes have used no CPU time for [`QUIET`].
fn wait_until_quiet(pids: &[u32]) {
    let deadline = Instant::now() + LIMIT;
    let mut last = ticks(pids);
    loop {
        std::thread::sleep(QUIET);
        let ticks = ticks(pids);
        if std::mem::replace(&mut last, ticks) == ticks {
            return;
        }
        assert!(Instant::now() < deadline, "ostler does not come to rest");
    }
}

/// The CPU time of these processes, in clock ticks.
fn ticks(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is running");
        // The name, in parentheses, may contain spaces (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').expect("name in parentheses").1;
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|ticks| ticks.parse::<u64>().expect("number")).sum::<u64>()
    };
    pids.iter().map(of).sum()
}
