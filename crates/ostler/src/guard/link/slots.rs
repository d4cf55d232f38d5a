//! The numbers of slots at the guardian.

use std::collections::HashMap;

/// The numbers of slots at the guardian. They are used again: its table is as long as the highest
/// that was ever used.
#[derive(Debug, Default)]
pub(super) struct SlotNumbers {
    /// The lowest that was never used.
    unused: u32,
    /// Those that were given back.
    free: Vec<u32>,
    /// Slots that were closed, whose sitters have not ended yet, and the guardian that has the
    /// order.
    pub(super) closing: HashMap<u32, u64>,
}

impl SlotNumbers {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.unused += 1;
            self.unused - 1
        })
    }

    /// Whether it was being closed, under this guardian.
    pub(super) fn closed(&mut self, slot: u32, generation: u64) -> bool {
        let closed = self.closing.get(&slot) == Some(&generation);
        if closed {
            self.closing.remove(&slot);
            self.free.push(slot);
        }
        closed
    }

    /// With a guardian its sitters go, and the next one knows nothing of its slots.
    pub(super) fn guardian_lost(&mut self, generation: u64) -> bool {
        let before = self.closing.len();
        let freed = self.closing.extract_if(|_, ordered| *ordered <= generation);
        self.free.extend(freed.map(|(slot, _)| slot));
        self.closing.len() < before
    }
}
