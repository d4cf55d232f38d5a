//! Reads `/proc` files that may hang, one after another, on threads that the caller does not wait
//! for beyond its deadline.
//!
//! A read without progress for [`PATIENCE`] may be stuck, and another thread continues after it.
//! When all others are done, it gets another [`LAST_PATIENCE`], because on a busy machine a thread
//! that only waits for a processor looks the same. Then its pid is reported. A stuck thread ends
//! once its read returns. At most [`MOST_STUCK`] threads are ever left like that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long one read may take before another thread continues with the next process.
const PATIENCE: Duration = Duration::from_millis(250);

/// How much more time seemingly stuck reads get at the end, in total.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// After this many stuck reads, the rest is left unread.
const MOST_STUCK: usize = 8;

/// The result of a round of reads.
pub(crate) struct Round<T> {
    /// One value per process that was read, in that order.
    pub(crate) values: Vec<(i32, T)>,
    /// Processes that were not read, because their read hung or the deadline passed before.
    pub(crate) unread: Vec<i32>,
}

/// Calls `read` for each pid. Returns at `deadline` at the latest.
pub(crate) fn read_each<T: Send + 'static>(
    pids: Vec<i32>,
    deadline: Instant,
    read: impl Fn(i32) -> T + Send + Sync + 'static,
) -> Round<T> {
    let pids: Arc<[i32]> = pids.into();
    let read = Arc::new(read);
    let (sender, receiver) = mpsc::channel();
    let mut slots: Vec<Option<T>> = pids.iter().map(|_| None).collect();
    let mut next = 0;
    let mut stuck: Vec<usize> = Vec::new();
    // The index of the last read of each reader when it was replaced. It may not have started that
    // read, if it was held up behind the previous one, and no other thread does it.
    let mut untils: Vec<Arc<AtomicUsize>> = Vec::new();

    for _ in 0..=MOST_STUCK {
        let until = Arc::new(AtomicUsize::new(usize::MAX));
        untils.push(until.clone());
        let (queue, read, sender) = (pids.clone(), read.clone(), sender.clone());
        let started = thread::Builder::new().name("ostler-proc-read".into()).spawn(move || {
            for index in next..queue.len() {
                if index > until.load(Ordering::Relaxed) || sender.send((index, read(queue[index]))).is_err() {
                    return;
                }
            }
        });
        if started.is_err() {
            break;
        }
        while next < pids.len() {
            let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
            match receiver.recv_timeout(patience) {
                Ok((index, value)) => {
                    slots[index] = Some(value);
                    next = next.max(index + 1);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        // The stuck read is left behind.
        untils
            .iter()
            .for_each(|until| _ = until.fetch_min(next, Ordering::Relaxed));
        stuck.extend((next < pids.len()).then_some(next));
        next += 1;
        if next >= pids.len() || Instant::now() >= deadline {
            break;
        }
    }

    let end = deadline.min(Instant::now() + LAST_PATIENCE);
    while stuck.iter().any(|&index| slots[index].is_none()) {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((index, value)) => slots[index] = Some(value),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    untils.iter().for_each(|until| until.store(0, Ordering::Relaxed));
    let mut round = Round {
        values: Vec::with_capacity(pids.len()),
        unread: Vec::new(),
    };
    for (&pid, slot) in pids.iter().zip(slots) {
        match slot {
            Some(value) => round.values.push((pid, value)),
            None => round.unread.push(pid),
        }
    }
    round
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn all_are_read_once_and_in_order() {
        let round = read_each((1..=1000).collect(), soon(), |pid| pid * 2);
        assert_eq!(round.values, (1..=1000).map(|pid| (pid, pid * 2)).collect::<Vec<_>>());
        assert!(round.unread.is_empty());
    }

    #[test]
    fn hanging_read_is_reported_and_the_others_are_done() {
        let (_keep, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let round = read_each(vec![1, 2, 3, 4], soon(), move |pid| {
            if pid == 2 {
                let _ = hang.lock().expect("not poisoned").recv();
            }
            pid
        });
        assert_eq!(round.values, vec![(1, 1), (3, 3), (4, 4)]);
        assert_eq!(round.unread, vec![2]);
    }

    /// A read that seemed stuck was only slow: the last one lets it continue.
    #[test]
    fn slow_read_is_waited_for() {
        let (go, wait) = mpsc::channel::<()>();
        let (go, wait) = (Mutex::new(go), Mutex::new(wait));
        let round = read_each(vec![1, 2, 3], soon(), move |pid| {
            match pid {
                1 => wait.lock().expect("not poisoned").recv().expect("signal"),
                3 => go.lock().expect("not poisoned").send(()).expect("sending the signal"),
                _ => {}
            }
            pid
        });
        assert_eq!(round.values, vec![(1, 1), (2, 2), (3, 3)]);
        assert!(round.unread.is_empty());
    }

    #[test]
    fn deadline_holds_when_every_read_hangs() {
        let (_keep, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let start = Instant::now();
        let round = read_each((1..100).collect(), start + Duration::from_millis(300), move |_| {
            let _ = hang.lock().expect("not poisoned").recv();
        });
        assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
        assert_eq!(round.unread.len(), 99);
    }
}
