//! Waiting with a deadline.

use std::future::Future;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The future's result. Panics if it takes too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("timeout")
}

/// Lets other tasks run until the condition holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "timeout");
        tokio::task::yield_now().await;
    }
}

/// A child process, killed and reaped on drop so that a failing test leaves nothing behind.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("starting a process"))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("valid pid")
    }

    /// Waits for the exit on a separate thread.
    pub(crate) async fn exit(mut self) -> ExitStatus {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || drop(sender.send(self.0.wait())));
        soon(receiver).await.expect("waiting thread").expect("exit status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has already been reaped, and then nothing is left to do.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
