//! 20 workers that each write 10,000 lines per second: the CPU time of the host, and the longest
//! time that a worker's write took. The baseline is a process that reads the same pipes in a loop,
//! and counts the lines.

use std::io::{PipeReader, Read as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tempfile::TempDir;

use crate::ours::Ours;
use crate::report::{Measure, Report};
use crate::worker::{self, Worker};
use crate::{Scale, children};

/// The process in which Ostler reads, and the one in which a bare loop does.
pub(crate) const ROLE: &str = "--output";
pub(crate) const READER: &str = "--output-reader";

const WORKERS: u32 = 20;
const LINES: u32 = 10_000;
const SECONDS: u32 = 5;

pub(crate) fn run(scale: Scale, report: &mut Report) {
    let (lines, seconds) = scale.pick((LINES, SECONDS), (1_000, 1));
    let arguments = [lines.to_string(), seconds.to_string()];
    let arguments = [arguments[0].as_str(), &arguments[1]];
    let mut measures = [
        Measure::new("host's CPU", WORKERS).unit("%").baseline("bare reader"),
        Measure::new("longest write", WORKERS).baseline("bare reader"),
    ];
    for _ in 0..scale.rounds.min(3) {
        let [bare, ours] = [READER, ROLE].map(|role| children::numbers::<f64>(role, &arguments));
        for ((measure, bare), ours) in measures.iter_mut().zip(bare).zip(ours) {
            measure.add(bare, ours);
        }
    }
    report.take("output", &measures);
}

/// The writers, and the FIFO for what they report.
struct Writers {
    /// Only its FIFO is used.
    worker: Worker,
    command: [String; 4],
    _directory: TempDir,
}

impl Writers {
    fn new(arguments: &[String]) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let program: PathBuf = worker::compile("lines", directory.path());
        let worker = Worker::build();
        let text = |path: &PathBuf| path.to_str().expect("UTF-8 path").to_owned();
        let command = [
            text(&program),
            arguments[0].clone(),
            arguments[1].clone(),
            text(&worker.fifo),
        ];
        Self {
            worker,
            command,
            _directory: directory,
        }
    }

    /// Waits for all of them. Returns the longest time that a write took, in milliseconds.
    fn longest(&self) -> f64 {
        let reports = (0..WORKERS).map(|_| self.worker.next_report().0);
        reports.max().unwrap_or_default() as f64 / 1e6
    }
}

/// Prints the CPU time in percent of one processor, and the longest write in milliseconds.
pub(crate) fn role(arguments: &[String]) {
    let writers = Writers::new(arguments);
    let ours = Ours::start(&writers.worker);
    let before = cpu();
    let pool = ours.pool_of(WORKERS, writers.command.to_vec());
    let longest = writers.longest();
    print(before, arguments, longest);
    drop(pool);
    ours.end();
}

/// The same with a bare loop.
pub(crate) fn reader(arguments: &[String]) {
    let writers = Writers::new(arguments);
    let before = cpu();
    let mut pipes = Vec::new();
    let mut processes = Vec::new();
    for _ in 0..WORKERS {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let [program, rest @ ..] = &writers.command;
        processes.push(
            Command::new(program)
                .args(rest)
                .stdout(writer)
                .spawn()
                .expect("running the writer"),
        );
        pipes.push(reader);
    }
    let reading = std::thread::spawn(move || read(&mut pipes));
    let longest = writers.longest();
    print(before, arguments, longest);
    for mut process in processes {
        process.kill().expect("child of this process");
        process.wait().expect("child of this process");
    }
    let lines = reading.join().expect("the reader ends with the writers");
    let [each, seconds] = [0, 1].map(|at| arguments[at].parse::<u32>().expect("a number"));
    assert_eq!(lines, (WORKERS * each * seconds) as usize, "every line is read");
}

/// Reads the pipes until their ends, and counts the lines.
fn read(pipes: &mut Vec<PipeReader>) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut lines = 0;
    while !pipes.is_empty() {
        let mut polled: Vec<PollFd<'_>> = pipes
            .iter()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut polled, PollTimeout::NONE).expect("polling pipes");
        let ready: Vec<bool> = polled.iter().map(|entry| entry.any() == Some(true)).collect();
        let mut ready = ready.into_iter();
        pipes.retain_mut(|pipe| {
            if !ready.next().unwrap_or_default() {
                return true;
            }
            let length = pipe.read(&mut buffer).expect("reading a pipe");
            lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count();
            length > 0
        });
    }
    lines
}

fn print(before: f64, arguments: &[String], longest: f64) {
    let seconds: f64 = arguments[1].parse().expect("a number");
    children::print([(cpu() - before) / seconds * 100.0, longest]);
}

/// The CPU time of this process, in seconds.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage of this process");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    micros as f64 / 1e6
}
