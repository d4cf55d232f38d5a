//! The newest lines of a stream, within a limit of bytes.

use std::collections::VecDeque;

use memchr::{memchr, memchr_iter};

/// Keeps the newest complete lines that fit; older ones are dropped and counted. A single line that
/// does not fit is cut at its end and counted. Memory grows with the content, up to the capacity.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The length of the incomplete line at the end of `bytes`.
    open: usize,
    /// Whether the incomplete line has no more room, so that its rest is skipped.
    cutting: bool,
    dropped: u64,
    cut: u64,
}

impl Ring {
    /// Creates a ring with this many bytes, including line endings. 0 keeps nothing and counts
    /// every line as dropped.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            open: 0,
            cutting: false,
            dropped: 0,
            cut: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.capacity == 0 {
            self.dropped += count_lines(bytes);
            return;
        }
        // Within a piece, only the line that it completes can be too long.
        for piece in bytes.chunks(self.capacity) {
            let Some(end) = memchr(b'\n', piece) else {
                self.extend_open_line(piece);
                continue;
            };
            self.extend_open_line(&piece[..end]);
            self.append(b"\n");
            (self.open, self.cutting) = (0, false);
            let rest = &piece[end + 1..];
            self.append(rest);
            self.open = rest.len() - memchr::memrchr(b'\n', rest).map_or(0, |last| last + 1);
        }
    }

    /// The last `count` lines, newest first, without their line endings. An incomplete line counts.
    pub(super) fn newest(&mut self, count: usize) -> impl Iterator<Item = &[u8]> {
        let lines = &*self.bytes.make_contiguous();
        let text = lines.strip_suffix(b"\n").unwrap_or(lines);
        let count = if lines.is_empty() { 0 } else { count };
        text.rsplit(|&byte| byte == b'\n').take(count)
    }

    /// All complete lines, newest first, without their line endings.
    pub(super) fn complete(&mut self) -> impl Iterator<Item = &[u8]> {
        let open = usize::from(self.open > 0 || self.cutting);
        self.newest(usize::MAX).skip(open)
    }

    /// The number of lines dropped to make room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The number of lines that lost their end.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    fn extend_open_line(&mut self, text: &[u8]) {
        // One byte is reserved for the line ending.
        let room = self.capacity - 1 - self.open;
        if text.len() > room && !self.cutting {
            self.cutting = true;
            self.cut += 1;
        }
        let text = &text[..text.len().min(room)];
        self.append(text);
        self.open += text.len();
    }

    /// All callers ensure that `text` fits next to the incomplete line.
    fn append(&mut self, text: &[u8]) {
        let excess = (self.bytes.len() + text.len()).saturating_sub(self.capacity);
        if excess > 0 {
            self.drop_oldest(excess);
        }
        self.reserve(text.len());
        self.bytes.extend(text);
    }

    /// Drops complete lines of at least `excess` bytes in total.
    fn drop_oldest(&mut self, excess: usize) {
        let (front, back) = self.bytes.as_slices();
        let from = excess - 1;
        let in_front = front
            .get(from..)
            .and_then(|rest| memchr(b'\n', rest))
            .map(|at| from + at + 1);
        let in_back = || {
            let from = from.saturating_sub(front.len());
            memchr(b'\n', &back[from..]).map(|at| front.len() + from + at + 1)
        };
        let end = in_front.or_else(in_back).unwrap_or(self.bytes.len());
        self.dropped += count_lines(&front[..end.min(front.len())]);
        self.dropped += count_lines(&back[..end.saturating_sub(front.len())]);
        self.bytes.drain(..end);
    }

    /// Doubles the memory, as a vector does, up to the capacity.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let target = (self.bytes.capacity() * 2).clamp(needed, self.capacity);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same contract, implemented line by line and slowly.
    #[derive(Default)]
    struct Model {
        lines: VecDeque<Vec<u8>>,
        open: Vec<u8>,
        cutting: bool,
        dropped: u64,
        cut: u64,
    }

    impl Model {
        fn push(&mut self, byte: u8, capacity: usize) {
            if byte == b'\n' {
                self.lines.push_back(std::mem::take(&mut self.open));
                self.cutting = false;
            } else if self.open.len() < capacity - 1 {
                self.open.push(byte);
            } else if !self.cutting {
                self.cutting = true;
                self.cut += 1;
            }
            while self.lines.iter().map(|line| line.len() + 1).sum::<usize>() + self.open.len() > capacity {
                self.lines.pop_front();
                self.dropped += 1;
            }
        }

        fn newest(&self) -> Vec<Vec<u8>> {
            let open = Some(&self.open).filter(|open| !open.is_empty());
            open.into_iter().chain(self.lines.iter().rev()).cloned().collect()
        }
    }

    fn newest(ring: &mut Ring, count: usize) -> Vec<Vec<u8>> {
        ring.newest(count).map(<[u8]>::to_vec).collect()
    }

    proptest! {
        /// Lines dropped for a whole chunk may include one that would have fitted a moment longer,
        /// but never a byte that fits at the end. So the ring must equal the model for chunks of
        /// one byte, and satisfy the contract otherwise.
        #[test]
        fn byte_by_byte_it_equals_the_model(text in "[ab\n]{0,200}", capacity in 1_usize..40) {
            let (mut ring, mut model) = (Ring::new(capacity), Model::default());
            for byte in text.bytes() {
                ring.push(&[byte]);
                model.push(byte, capacity);
                prop_assert_eq!(newest(&mut ring, usize::MAX), model.newest());
                prop_assert_eq!((ring.dropped(), ring.cut()), (model.dropped, model.cut));
            }
        }

        #[test]
        fn any_chunking_keeps_the_end_and_counts_every_line(
            chunks in prop::collection::vec("[ab\n]{0,60}", 0..12),
            capacity in 1_usize..40,
        ) {
            let (mut ring, mut model) = (Ring::new(capacity), Model::default());
            for chunk in &chunks {
                ring.push(chunk.as_bytes());
                prop_assert!(ring.bytes.len() <= capacity && ring.bytes.capacity() <= capacity);
                chunk.bytes().for_each(|byte| model.push(byte, capacity));
            }
            let (kept, expected) = (newest(&mut ring, usize::MAX), model.newest());
            prop_assert!(kept.len() <= expected.len());
            prop_assert_eq!(&kept[..], &expected[..kept.len()]);
            prop_assert_eq!(ring.dropped() + kept.len() as u64, model.dropped + expected.len() as u64);
            prop_assert_eq!(ring.cut(), model.cut);
        }
    }

    #[test]
    fn lines_that_fit_are_kept_completely() {
        let mut ring = Ring::new(8);
        ring.push(b"abc\ndef\n");
        assert_eq!(newest(&mut ring, 9), [b"def", b"abc"]);
        assert_eq!((ring.dropped(), ring.cut()), (0, 0));
        ring.push(b"g");
        assert_eq!(newest(&mut ring, 9), [&b"g"[..], b"def"]);
        assert_eq!((ring.dropped(), ring.cut()), (1, 0));
    }

    #[test]
    fn empty_lines_count_and_an_empty_ring_has_none() {
        let mut ring = Ring::new(8);
        assert_eq!(newest(&mut ring, 9).len(), 0);
        ring.push(b"\n\n");
        assert_eq!(newest(&mut ring, 9), [b"", b""]);
        assert_eq!(newest(&mut ring, 1), [b""]);
    }

    #[test]
    fn ring_without_capacity_counts() {
        let mut ring = Ring::new(0);
        ring.push(b"a\nb\nc");
        assert_eq!((ring.dropped(), newest(&mut ring, 9).len()), (2, 0));
    }
}
