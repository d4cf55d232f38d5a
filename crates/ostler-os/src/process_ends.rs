//! The ends of many processes, asked for now and then.
//!
//! The kernel keeps the list (epoll(7)), so that asking costs as much as there are ends, and the
//! end of a process wakes no thread.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{Timespec, epoll};

use crate::identity::ProcessHandle;

/// How many ends are fetched by one call.
const AT_ONCE: usize = 32;

/// Processes whose ends are collected.
#[derive(Debug)]
pub struct ProcessEnds(OwnedFd);

impl ProcessEnds {
    /// An empty set. It holds one descriptor.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds a process under a key of the caller's. It leaves the set when the handle is dropped, or
    /// once its end was taken.
    ///
    /// A copy of the handle's descriptor in a forked child keeps the process in the set, so a key
    /// may be reported after its handle was dropped.
    ///
    /// # Errors
    /// When the kernel has no memory for it, or the user has too many (`ENOSPC`, epoll(7)).
    pub fn add(&self, process: &ProcessHandle, key: u64) -> io::Result<()> {
        let once = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        Ok(epoll::add(
            &self.0,
            process.as_fd(),
            epoll::EventData::new_u64(key),
            once,
        )?)
    }

    /// The keys of processes that have ended since the last call. Does not wait.
    ///
    /// # Errors
    /// Any error of epoll_wait(2).
    pub fn take(&self) -> io::Result<Vec<u64>> {
        let (mut keys, now) = (Vec::new(), Timespec::default());
        loop {
            let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); AT_ONCE];
            let (events, _) = epoll::wait(&self.0, &mut buffer, Some(&now))?;
            keys.extend(events.iter().map(|event| event.data.u64()));
            if events.len() < AT_ONCE {
                return Ok(keys);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn start() -> (Child, ProcessHandle) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let handle = ProcessHandle::open(child.id().cast_signed()).unwrap().unwrap();
        (child, handle)
    }

    fn end(child: &mut Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn each_end_is_taken_once_and_those_alive_never() {
        let ends = ProcessEnds::new().unwrap();
        let mut all: Vec<_> = (0..AT_ONCE as u64 + 3).map(|key| (key, start())).collect();
        for (key, (_, handle)) in &all {
            ends.add(handle, *key).unwrap();
        }
        assert_eq!(ends.take().unwrap(), []);
        let mut alive = all.split_off(AT_ONCE + 1);
        all.iter_mut().for_each(|(_, (child, _))| end(child));
        let mut taken = ends.take().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, (0..=AT_ONCE as u64).collect::<Vec<_>>());
        assert_eq!(ends.take().unwrap(), []);
        alive.iter_mut().for_each(|(_, (child, _))| end(child));
        assert_eq!(ends.take().unwrap().len(), 2);
    }
}
