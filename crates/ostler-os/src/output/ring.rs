//! The newest lines of a stream, within a bound of bytes.

use std::collections::VecDeque;

use memchr::{memchr, memchr_iter};

/// The newest whole lines that fit, oldest dropped and counted. A line that would not fit by itself is cut at its end
/// and counted. The memory grows with what was written, up to the capacity and never beyond.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// How much of the unfinished line is at the end of `bytes`.
    open: usize,
    /// The unfinished line has no more room: its rest is passed over.
    cutting: bool,
    dropped: u64,
    cut: u64,
}

impl Ring {
    /// A ring of so many bytes, line ends included. 0 keeps nothing and counts every line as dropped.
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
        // Within a piece no line is too long but the one that it finishes.
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

    /// The last `count` lines, newest first, without their line ends. The unfinished one counts.
    pub(super) fn newest(&mut self, count: usize) -> impl Iterator<Item = &[u8]> {
        let lines = &*self.bytes.make_contiguous();
        let text = lines.strip_suffix(b"\n").unwrap_or(lines);
        let count = if lines.is_empty() { 0 } else { count };
        text.rsplit(|&byte| byte == b'\n').take(count)
    }

    /// Lines dropped to make room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Lines that lost their end.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    fn extend_open_line(&mut self, text: &[u8]) {
        // One byte stays for the line's end.
        let room = self.capacity - 1 - self.open;
        if text.len() > room && !self.cutting {
            self.cutting = true;
            self.cut += 1;
        }
        let text = &text[..text.len().min(room)];
        self.append(text);
        self.open += text.len();
    }

    /// `text` fits beside the unfinished line, as all callers see to.
    fn append(&mut self, text: &[u8]) {
        let excess = (self.bytes.len() + text.len()).saturating_sub(self.capacity);
        if excess > 0 {
            self.drop_oldest(excess);
        }
        self.reserve(text.len());
        self.bytes.extend(text);
    }

    /// Drops whole lines, of at least so many bytes together.
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

    /// Doubling, as every vector, but not beyond the capacity.
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

    /// The same promise, line by line and slowly.
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
        /// Chunks that are dropped together may drop a line that would have fitted for a moment longer, never a byte
        /// that fits at the end: so the ring is compared after chunks of one byte exactly, and else by what it must hold.
        #[test]
        fn byte_by_byte_it_is_the_model(text in "[ab\n]{0,200}", capacity in 1_usize..40) {
            let (mut ring, mut model) = (Ring::new(capacity), Model::default());
            for byte in text.bytes() {
                ring.push(&[byte]);
                model.push(byte, capacity);
                prop_assert_eq!(newest(&mut ring, usize::MAX), model.newest());
                prop_assert_eq!((ring.dropped(), ring.cut()), (model.dropped, model.cut));
            }
        }

        #[test]
        fn however_it_is_chunked_the_end_is_kept_and_every_line_is_counted(
            chunks in prop::collection::vec("[ab\n]{0,60}", 0..12),
            capacity in 1_usize..40,
        ) {
            let (mut ring, mut model) = (Ring::new(capacity), Model::default());
            for chunk in &chunks {
                ring.push(chunk.as_bytes());
                prop_assert!(ring.bytes.len() <= capacity && ring.bytes.capacity() <= capacity);
                chunk.bytes().for_each(|byte| model.push(byte, capacity));
            }
            let (kept, wanted) = (newest(&mut ring, usize::MAX), model.newest());
            prop_assert!(kept.len() <= wanted.len());
            prop_assert_eq!(&kept[..], &wanted[..kept.len()]);
            prop_assert_eq!(ring.dropped() + kept.len() as u64, model.dropped + wanted.len() as u64);
            prop_assert_eq!(ring.cut(), model.cut);
        }
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let mut ring = Ring::new(8);
        ring.push(b"abc\ndef\n");
        assert_eq!(newest(&mut ring, 9), [b"def", b"abc"]);
        assert_eq!((ring.dropped(), ring.cut()), (0, 0));
        ring.push(b"g");
        assert_eq!(newest(&mut ring, 9), [&b"g"[..], b"def"]);
        assert_eq!((ring.dropped(), ring.cut()), (1, 0));
    }

    #[test]
    fn empty_lines_are_lines_and_an_empty_ring_has_none() {
        let mut ring = Ring::new(8);
        assert_eq!(newest(&mut ring, 9).len(), 0);
        ring.push(b"\n\n");
        assert_eq!(newest(&mut ring, 9), [b"", b""]);
        assert_eq!(newest(&mut ring, 1), [b""]);
    }

    #[test]
    fn a_ring_of_nothing_counts() {
        let mut ring = Ring::new(0);
        ring.push(b"a\nb\nc");
        assert_eq!((ring.dropped(), newest(&mut ring, 9).len()), (2, 0));
    }
}
