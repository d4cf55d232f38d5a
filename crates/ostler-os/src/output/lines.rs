//! Splits a stream into lines, and formats a line for display.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use memchr::memchr;

use super::OnLine;

/// The minimum length at which a line is cut, however small the ring is.
const LEAST_LIMIT: usize = 4096;

/// The maximum size of the buffer kept after an incomplete line.
const KEPT_BUFFER: usize = 4096;

/// Splits a stream into lines and passes each to its reader.
pub(super) struct Lines {
    open: Vec<u8>,
    limit: usize,
    on_line: Option<OnLine>,
}

impl Lines {
    pub(super) fn new(limit: usize, on_line: Option<OnLine>) -> Self {
        Self {
            open: Vec::new(),
            limit: limit.max(LEAST_LIMIT),
            on_line,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.on_line.is_none() {
            return;
        }
        let mut rest = bytes;
        while let Some(end) = memchr(b'\n', rest) {
            self.end_line(&rest[..end]);
            rest = &rest[end + 1..];
        }
        self.extend(rest);
    }

    /// Ends the stream: an incomplete line becomes the last one. The reader is dropped, so that it
    /// passes on what it holds however long what was captured is kept. Further calls do nothing.
    pub(super) fn finish(&mut self) {
        if !self.open.is_empty() {
            self.end_line(b"");
        }
        self.on_line = None;
        self.open = Vec::new();
    }

    fn end_line(&mut self, end: &[u8]) {
        if self.open.is_empty() {
            self.tell(&end[..end.len().min(self.limit)]);
            return;
        }
        self.extend(end);
        let mut line = std::mem::take(&mut self.open);
        self.tell(&line);
        if line.capacity() <= KEPT_BUFFER {
            line.clear();
            self.open = line;
        }
    }

    fn extend(&mut self, text: &[u8]) {
        let room = self.limit - self.open.len();
        self.open.extend_from_slice(&text[..text.len().min(room)]);
    }

    fn tell(&mut self, line: &[u8]) {
        let Some(on_line) = &mut self.on_line else { return };
        let line = lossy(line);
        // A panic of the reader must not stop the draining: it only loses its hook.
        if catch_unwind(AssertUnwindSafe(|| on_line(&line))).is_err() {
            tracing::error!(target: "ostler", "the reader of a worker's lines panicked and gets no further lines");
            self.on_line = None;
        }
    }
}

/// A line as the hook gets it.
pub(super) fn lossy(line: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
}

/// A line for display: cut at `limit` bytes, with control characters and invisible changes of
/// direction escaped.
pub(super) fn harmless(line: &[u8], limit: usize) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // A little more than the limit, so that no character is split before the cut.
    let start = String::from_utf8_lossy(&line[..line.len().min(limit + 4)]);
    let kept = &start[..start.floor_char_boundary(limit)];
    let mut shown = String::with_capacity(kept.len());
    for character in kept.chars() {
        match character {
            '\t' => shown.push(character),
            _ if character.is_control() || is_invisible(character) => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    if kept.len() < start.len() {
        shown.push('…');
    }
    shown
}

/// Line and paragraph separators, and the characters that change the writing direction.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn lines_of(chunks: &[&[u8]], limit: usize) -> Vec<String> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let mut lines = Lines::new(
            limit,
            Some(Box::new(move |line| sink.lock().unwrap().push(line.to_owned()))),
        );
        chunks.iter().for_each(|chunk| lines.push(chunk));
        lines.finish();
        assert_eq!(Arc::strong_count(&seen), 1, "the end of the stream drops its reader");
        lines.finish();
        seen.lock().unwrap().clone()
    }

    #[test]
    fn lines_are_complete_wherever_the_reads_split_them() {
        let text = b"one\r\ntwo \xffx\n\nlast";
        let expected = ["one", "two \u{fffd}x", "", "last"];
        for at in 0..text.len() {
            assert_eq!(lines_of(&[&text[..at], &text[at..]], 0), expected, "split at {at}");
        }
    }

    #[test]
    fn endless_line_is_cut_and_the_next_is_complete() {
        let long = vec![b'x'; 3 * LEAST_LIMIT];
        for chunks in [
            vec![&long[..], b"\nnext\n"],
            vec![&[&long[..], b"\nnext\n"].concat()[..]],
        ] {
            let lines = lines_of(&chunks, 0);
            assert_eq!(
                (lines[0].len(), lines[1].as_str(), lines.len()),
                (LEAST_LIMIT, "next", 2)
            );
        }
    }

    #[test]
    fn panicking_reader_only_loses_its_lines() {
        let mut calls = 0;
        let (count, counted) = std::sync::mpsc::channel();
        let mut lines = Lines::new(
            0,
            Some(Box::new(move |_| {
                calls += 1;
                count.send(calls).unwrap();
                panic!("panic of the reader");
            })),
        );
        lines.push(b"a\nb\n");
        lines.push(b"c\n");
        assert_eq!(counted.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(harmless(b"\x1b[31mred\x07\tend\r", 99), "\\u{1b}[31mred\\u{7}\tend");
        assert_eq!(harmless("a\u{202e}b".as_bytes(), 99), "a\\u{202e}b");
        assert_eq!(harmless("äöü\u{fe0f}".as_bytes(), 99), "äöü\u{fe0f}");
    }

    #[test]
    fn long_line_is_cut_between_characters() {
        assert_eq!(harmless("aä".repeat(3).as_bytes(), 5), "aäa…");
        assert_eq!(harmless(b"abc", 3), "abc");
        assert_eq!(harmless(b"abcd", 3), "abc…");
    }
}
