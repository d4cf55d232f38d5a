//! Slot numbers at the guardian.

use std::collections::HashMap;

/// Slot numbers at the guardian. They are reused, because its table is as long as the highest
/// number ever used.
#[derive(Debug, Default)]
pub(super) struct SlotNumbers {
    /// The lowest number that was never used.
    unused: u32,
    /// Numbers that were returned.
    free: Vec<u32>,
    /// Slots that are being closed, whose sitters have not ended yet, with the guardian that has
    /// the order.
    pub(super) closing: HashMap<u32, u64>,
}

impl SlotNumbers {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.unused += 1;
            self.unused - 1
        })
    }

    /// Whether it was being closed under this guardian.
    pub(super) fn closed(&mut self, slot: u32, generation: u64) -> bool {
        let closed = self.closing.get(&slot) == Some(&generation);
        if closed {
            self.closing.remove(&slot);
            self.free.push(slot);
        }
        closed
    }

    /// A guardian's sitters end with it, and the next guardian does not know its slots.
    pub(super) fn guardian_lost(&mut self, generation: u64) -> bool {
        let before = self.closing.len();
        let freed = self.closing.extract_if(|_, ordered| *ordered <= generation);
        self.free.extend(freed.map(|(slot, _)| slot));
        self.closing.len() < before
    }
}
