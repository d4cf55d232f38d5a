//! The guardian's table of slots: one anonymous mapping that grows with the highest slot in use.

use core::slice;

use crate::protocol::MAX_SLOTS;
use crate::sys::{self, Errno};

/// One slot. All zeros is an empty slot, so that fresh memory needs no initialisation.
#[repr(C)]
pub(crate) struct Slot {
    /// The last incarnation that was forwarded.
    pub(crate) incarnation: u64,
    /// The sitter's pid.
    pub(crate) sitter: i32,
    /// Our end of the sitter's socket; 0 once it is closed.
    pub(crate) socket: i32,
    /// The sitter's wait status.
    pub(crate) status: i32,
    state: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No sitter.
    Empty,
    Serving,
    /// Ordered to exit with its tree.
    Closing,
    /// The sitter died. What it left is being killed.
    Lost,
}

impl Slot {
    pub(crate) fn state(&self) -> State {
        match self.state {
            1 => State::Serving,
            2 => State::Closing,
            3 => State::Lost,
            _ => State::Empty,
        }
    }

    pub(crate) fn set(&mut self, state: State) {
        self.state = match state {
            State::Empty => 0,
            State::Serving => 1,
            State::Closing => 2,
            State::Lost => 3,
        };
    }

    /// Whether there is a sitter.
    pub(crate) fn has_sitter(&self) -> bool {
        matches!(self.state(), State::Serving | State::Closing)
    }
}

pub(crate) struct Slots {
    start: *mut u8,
    bytes: usize,
    /// The slot that [`Slots::of_sitter`] found last.
    found: usize,
}

const PAGE: usize = 4096;

impl Slots {
    /// Room for the first hundred slots or so.
    pub(crate) fn new() -> sys::Result<Self> {
        let start = sys::map(PAGE)?;
        sys::keep_from_children(start, PAGE);
        Ok(Self {
            start,
            bytes: PAGE,
            found: 0,
        })
    }

    /// The slot of this number. Grows the table if necessary.
    pub(crate) fn at(&mut self, slot: u32) -> sys::Result<&mut Slot> {
        if slot >= MAX_SLOTS {
            return Err(Errno::EINVAL);
        }
        let index = slot as usize;
        let needed = (index + 1) * size_of::<Slot>();
        if needed > self.bytes {
            // Doubling, so that n slots cost at most n moves.
            let larger = needed.max(self.bytes * 2).next_multiple_of(PAGE);
            // SAFETY: the mapping of `new`, and no reference into it lives: `self` is borrowed
            // mutably.
            self.start = unsafe { sys::grow(self.start, self.bytes, larger) }?;
            self.bytes = larger;
            sys::keep_from_children(self.start, larger);
        }
        Ok(&mut self.all()[index])
    }

    /// The slot of this number, if the table has it.
    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Slot> {
        self.all().get_mut(slot as usize)
    }

    /// All slots in the table.
    pub(crate) fn all(&mut self) -> &mut [Slot] {
        // SAFETY: the mapping holds this many slots and is page-aligned, any bytes are a valid
        // slot, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.cast(), self.bytes / size_of::<Slot>()) }
    }

    /// The number of the slot whose sitter has this pid. The search begins where the last one
    /// succeeded, because many sitters end in the order of their slots.
    pub(crate) fn of_sitter(&mut self, pid: i32) -> Option<u32> {
        let from = self.found;
        let has = |slot: &Slot| slot.has_sitter() && slot.sitter == pid;
        let (before, after) = self.all().split_at(from);
        let found = match after.iter().position(has) {
            Some(at) => from + at,
            None => before.iter().position(has)?,
        };
        self.found = found;
        u32::try_from(found).ok()
    }
}
