//! What is wrong with a file, and where.

use ostler_core::config;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    /// Line and column from 1, in characters; `None`: it is about the file as a whole.
    place: Option<(usize, usize)>,
    /// The key in full, such as `pool.embed.health.every`; empty where the file is not valid TOML.
    key: String,
    message: String,
}

/// Everything that is wrong with a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistakes {
    file: String,
    found: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            found: Vec::new(),
        }
    }

    /// The file as a whole can't be used.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        let mut mistakes = Self::new(file);
        mistakes.found.push(Mistake {
            place: None,
            key: String::new(),
            message,
        });
        mistakes
    }

    /// The bytes from `valid` on are not valid UTF-8.
    pub(super) fn of_encoding(file: &str, bytes: &[u8], valid: usize) -> Self {
        let before = String::from_utf8_lossy(&bytes[..valid]);
        let byte = bytes.get(valid).copied().unwrap_or_default();
        let mut mistakes = Self::new(file);
        let message = format!("the byte 0x{byte:02x} is not valid UTF-8");
        mistakes.push(place_of(&before, before.len()), "", message);
        mistakes
    }

    /// The text is not valid TOML at this byte.
    pub(super) fn syntax(&mut self, text: &str, at: usize, message: &str) {
        let one_line = message.split_whitespace().collect::<Vec<_>>().join(" ");
        self.push(place_of(text, at), "", one_line);
    }

    /// What is wrong with the values of this text. One mistake is enough for a line of a text that
    /// is not valid TOML.
    pub(super) fn values(&mut self, text: &str, found: Vec<config::Mistake>) {
        let partial = !self.is_empty();
        for mistake in found {
            let place = place_of(text, mistake.at);
            if !(partial && self.has_line(place.0)) {
                self.push(place, &mistake.key, mistake.message);
            }
        }
    }

    fn push(&mut self, place: (usize, usize), key: &str, message: impl Into<String>) {
        self.found.push(Mistake {
            place: Some(place),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn has_line(&self, line: usize) -> bool {
        self.found.iter().any(|m| m.place.is_some_and(|place| place.0 == line))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The same in the order of the lines, each one once.
    pub(super) fn sorted(mut self) -> Self {
        self.found.sort();
        self.found.dedup();
        self
    }
}

/// Line and column, both from 1 and in characters, of the byte `at` of `text`.
fn place_of(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

impl Mistakes {
    /// A line for each mistake: `file:line:column: key: message`.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.found.iter().map(|mistake| {
            let mut line = format!("{}:", self.file);
            if let Some((row, column)) = mistake.place {
                line.push_str(&format!("{row}:{column}:"));
            }
            if !mistake.key.is_empty() {
                line.push_str(&format!(" {}:", mistake.key));
            }
            format!("{line} {}", mistake.message)
        })
    }
}
