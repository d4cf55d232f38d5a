//! The places at which new sitters find their sockets.
//!
//! A sitter needs only the lowest of the guardian's descriptors, and above them is one socket for
//! each of the other sitters. So it is not forked with a copy of all of them, which would make the
//! creation of n sitters cost n²: it shares the guardian's table, and its first step is to leave it
//! with a copy of the lowest ones (close_range(2), CLOSE_RANGE_UNSHARE, Linux 5.9). Its own socket
//! must therefore have a low number, and keep it until then: that is a place (ADR 0038).

use core::sync::atomic::{AtomicU8, Ordering};

use crate::fd;
use crate::process;
use crate::sys::{self, Errno, Fd};

/// The first place.
const FIRST: i32 = fd::HOST + 1;
/// How many sitters may be on their way. With these, a sitter's table has 64 descriptors at most,
/// for which the kernel needs no extra memory.
const PLACES: usize = 56;
const PAGE: usize = 4096;

/// With fewer descriptors than this, none are set aside for places.
const LEAST_LIMIT: u64 = 256;

/// The guardian's view of the places.
pub(crate) struct Nursery {
    /// Shared with new sitters: whether a place is taken. `None` where there are no places.
    taken: Option<*mut AtomicU8>,
    /// The pid of the sitter that was given the place last.
    pids: [i32; PLACES],
}

/// A place, as a new sitter knows it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    index: usize,
    taken: *mut AtomicU8,
}

impl Nursery {
    /// Sets the places aside. Must come before the first order, whose descriptors would be at their
    /// numbers.
    pub(crate) fn new() -> Self {
        Self {
            taken: Self::open().ok(),
            pids: [0; PLACES],
        }
    }

    fn open() -> sys::Result<*mut AtomicU8> {
        if process::descriptor_limit()?.soft < LEAST_LIMIT {
            return Err(Errno::EMFILE);
        }
        sys::can_leave_shared_table()?;
        let taken = sys::map_shared(PAGE)?;
        // /dev/null, so that no other descriptor gets the number.
        (FIRST..FIRST + PLACES as i32).try_for_each(|place| sys::duplicate_to(1, place, true))?;
        Ok(taken.cast())
    }

    /// Puts a copy of this socket in a free place, for a sitter that is forked next; `None` if
    /// there is none.
    pub(crate) fn take(&mut self, socket: &Fd) -> Option<Place> {
        let taken = self.taken?;
        let mut places = (0..PLACES).map(|index| Place { index, taken });
        let place = places.find(|place| place.flag().load(Ordering::Acquire) == 0)?;
        sys::duplicate_to(socket.raw(), place.descriptor(), true).ok()?;
        place.flag().store(1, Ordering::Relaxed);
        self.pids[place.index] = 0;
        Some(place)
    }

    /// The place was given to this sitter; 0 if it could not be forked.
    pub(crate) fn given(&mut self, place: Place, pid: i32) {
        self.pids[place.index] = pid;
        if pid == 0 {
            place.free();
        }
    }

    /// A sitter has ended, perhaps before it left its place.
    pub(crate) fn ended(&mut self, pid: i32) {
        let Some(taken) = self.taken else { return };
        if let Some(index) = self.pids.iter().position(|of| *of == pid) {
            self.pids[index] = 0;
            Place { index, taken }.free();
        }
    }
}

impl Place {
    /// The number of the socket.
    pub(crate) fn descriptor(self) -> i32 {
        FIRST + self.index as i32
    }

    /// In a new sitter: leaves the guardian's table, with a copy of what is up to this place.
    pub(crate) fn leave(self) -> sys::Result<()> {
        sys::leave_shared_table(self.descriptor() + 1)?;
        self.free();
        // SAFETY: the flag was the only use of it in this process.
        unsafe { sys::unmap(self.taken.cast(), PAGE) };
        Ok(())
    }

    fn free(self) {
        self.flag().store(0, Ordering::Release);
    }

    fn flag(&self) -> &AtomicU8 {
        // SAFETY: the page has room for all places, any byte is a valid flag, and it is mapped for
        // as long as the guardian lives; in a sitter until `leave`.
        unsafe { &*self.taken.add(self.index) }
    }
}
