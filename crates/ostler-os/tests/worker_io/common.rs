//! Waiting with a deadline.

use std::future::Future;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Far more than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The future's result, or a failed test.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// Lets other tasks run until it is so.
pub(crate) async fn until(mut it_is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !it_is_so() {
        assert!(start.elapsed() < DEADLINE, "in time");
        tokio::task::yield_now().await;
    }
}

/// A process that a failed test leaves neither running nor unreaped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("a process"))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid")
    }

    /// Its end, seen by a thread of its own.
    pub(crate) async fn exit(mut self) -> ExitStatus {
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || drop(tell.send(self.0.wait())));
        soon(told).await.expect("a wait").expect("a status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail for one that has been reaped, and nothing is left then.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
