//! The slots of a pool, whose number can change.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::process::Slot;

/// The slots of a pool.
#[derive(Debug)]
pub(crate) struct Slots(RwLock<Inner>);

#[derive(Debug)]
struct Inner {
    /// The current slots, by index.
    present: Vec<Arc<Slot>>,
    /// Removed slots that still hold something.
    leaving: Vec<Arc<Slot>>,
    restarts_of_removed: u64,
}

impl Slots {
    pub(super) fn new(slots: Vec<Arc<Slot>>) -> Self {
        Self(RwLock::new(Inner {
            present: slots,
            leaving: Vec::new(),
            restarts_of_removed: 0,
        }))
    }

    /// The current slots, by index.
    pub(crate) fn present(&self) -> Vec<Arc<Slot>> {
        self.read().present.clone()
    }

    /// The current slots, and the removed ones that still hold something.
    pub(crate) fn held(&self) -> Vec<Arc<Slot>> {
        let inner = self.read();
        inner.present.iter().chain(&inner.leaving).cloned().collect()
    }

    pub(super) fn get(&self, index: u32) -> Option<Arc<Slot>> {
        self.read().present.get(usize::try_from(index).ok()?).cloned()
    }

    /// The first slot that matches, searching from this turn on.
    pub(super) fn first_from(&self, turn: usize, fits: impl Fn(&Slot) -> bool) -> Option<Arc<Slot>> {
        let inner = self.read();
        let slots = &inner.present;
        let mut around = (0..slots.len()).map(|step| &slots[turn.wrapping_add(step) % slots.len()]);
        around.find(|slot| fits(slot)).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.read().present.len()
    }

    /// The number of restarts of removed workers.
    pub(crate) fn restarts_of_removed(&self) -> u64 {
        self.read().restarts_of_removed
    }

    /// Adds slots up to this number, and returns them. A removed slot that still holds something is
    /// reused: nothing is started in it before it is released.
    pub(super) fn grow(&self, len: u32, new: impl Fn(u32) -> Arc<Slot>) -> Vec<Arc<Slot>> {
        let mut inner = self.write();
        let first = inner.present.len();
        for index in u32::try_from(first).unwrap_or(u32::MAX)..len {
            let leaving = inner
                .leaving
                .iter()
                .position(|slot| slot.worker.index == index && slot.come_back());
            let slot = match leaving {
                Some(at) => inner.leaving.remove(at),
                None => new(index),
            };
            inner.present.push(slot);
        }
        inner.present[first..].to_vec()
    }

    /// Removes the slots above this number, and returns them, the highest index first.
    pub(super) fn shrink(&self, len: u32) -> Vec<Arc<Slot>> {
        let mut inner = self.write();
        let from = inner.present.len().min(len as usize);
        let mut removed = inner.present.split_off(from);
        removed.reverse();
        for slot in &removed {
            slot.note_removed();
        }
        inner.leaving.extend(removed.iter().cloned());
        removed
    }

    /// Forgets a removed slot if it holds nothing. Returns whether it did. A slot that was reused
    /// meanwhile stays.
    pub(super) fn forget(&self, slot: &Arc<Slot>) -> bool {
        let mut inner = self.write();
        let leaving = inner.leaving.iter().position(|leaving| Arc::ptr_eq(leaving, slot));
        let Some(at) = leaving.filter(|_| slot.is_released()) else {
            return false;
        };
        inner.leaving.remove(at);
        inner.restarts_of_removed += slot.state().restarts;
        true
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
