//! The census: the guardian's processes, and which answer belongs to which question.

use ostler_os::guardian::TreeProcess;

/// The processes that the guardian reports.
#[derive(Debug, Clone)]
pub(crate) struct Census {
    /// Slot and pid of each sitter.
    pub(crate) sitters: Vec<(u32, u32)>,
    /// Children of the guardian that are not sitters.
    pub(crate) strays: Vec<TreeProcess>,
}

/// The census questions to one guardian, and its answers. Both keep their order, so the n-th answer
/// belongs to the n-th question, even if its caller has given up.
#[derive(Debug, Default)]
pub(super) struct Censuses {
    pub(super) generation: u64,
    asked: u64,
    answered: u64,
    pub(super) latest: Option<Census>,
}

impl Censuses {
    /// Counts a question to this guardian. Returns its number.
    pub(super) fn ask(&mut self, generation: u64) -> u64 {
        if self.generation != generation {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
        self.asked += 1;
        self.asked
    }

    pub(super) fn answer(&mut self, generation: u64, census: Census) {
        if self.generation == generation {
            self.answered += 1;
            self.latest = Some(census);
        }
    }

    /// Whether this question was answered, or never will be.
    pub(super) fn is_settled(&self, generation: u64, question: u64) -> bool {
        self.generation != generation || self.answered >= question
    }
}
