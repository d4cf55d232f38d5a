//! The same work with `tokio::process`, on a runtime with its default settings.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;

use crate::children;
use crate::floor::Task;
use crate::worker::{Nanos, Worker, now};

/// The process that measures it.
pub(crate) const ROLE: &str = "--tokio";

/// Prints the times in nanoseconds.
pub(crate) fn role(arguments: &[String]) {
    let task = Task::parse(arguments);
    let runtime = Runtime::new().expect("tokio runtime");
    let _entered = runtime.enter();
    let begun = now();
    let mut workers: Vec<Child> = (0..task.workers).map(|_| spawn(&task.worker)).collect();
    let start = task.worker.last_of(task.workers) - begun;
    let restarts: Vec<Nanos> = (0..task.restarts)
        .map(|_| runtime.block_on(restart(&task.worker, &mut workers[0])))
        .collect();
    let stop = runtime.block_on(end(&mut workers, task.signal));
    children::print([start, stop].into_iter().chain(restarts));
}

fn spawn(worker: &Worker) -> Child {
    let mut command = Command::new(&worker.program);
    command.args([&worker.fifo, &worker.alive]).stdin(Stdio::null());
    command.spawn().expect("spawning the worker")
}

async fn restart(worker: &Worker, child: &mut Child) -> Nanos {
    let begun = now();
    end(std::slice::from_mut(child), Signal::SIGKILL).await;
    *child = spawn(worker);
    worker.next_stamp().at - begun
}

async fn end(workers: &mut [Child], signal: Signal) -> Nanos {
    let begun = now();
    for worker in &*workers {
        let pid = worker.id().expect("it was not waited for").cast_signed();
        kill(Pid::from_raw(pid), signal).expect("child of this process");
    }
    for worker in workers {
        worker.wait().await.expect("child of this process");
    }
    now() - begun
}
