//! Kills workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ostler::Pool;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

static KILLS: AtomicU64 = AtomicU64::new(0);

/// How many workers were killed.
pub(crate) fn kills() -> u64 {
    KILLS.load(Ordering::Relaxed)
}

/// Kills one ready worker every so often, until it is aborted. The last ready one is spared: where
/// a start takes longer than the pause, nothing would ever be answered otherwise.
pub(crate) async fn kill_workers(pool: Pool, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let ready: Vec<_> = pool.ready().collect();
        if ready.len() < 2 {
            continue;
        }
        let worker = &ready[fastrand::usize(..ready.len())];
        let incarnation = worker.incarnation();
        let pid = worker.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            continue;
        };
        // The pidfd is that of this worker only if the worker had the pid before and has it now.
        if worker.incarnation() == incarnation && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            KILLS.fetch_add(1, Ordering::Relaxed);
        }
    }
}
