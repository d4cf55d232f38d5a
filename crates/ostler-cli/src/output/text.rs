//! Text for people: the one place where what other programs wrote is made harmless.
//!
//! A line holds no control character, so that a worker's output, a command line or a file name can
//! neither move the cursor, nor change the terminal's state, nor forge a line of ours. Colours are
//! added after that, by tone.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

/// How a line is coloured, where colours are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Not at all.
    Plain,
    /// Something failed.
    Bad,
    /// A title.
    Title,
}

/// One line, of any origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its colour.
    pub(crate) tone: Tone,
    /// Its text, as it came.
    pub(crate) text: String,
}

impl Line {
    /// A line without a colour.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::new(Tone::Plain, text)
    }

    /// A line.
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            tone,
            text: text.into(),
        }
    }

    /// The line as it goes to a terminal or a file, with its newline.
    pub(crate) fn render(&self, colours: bool) -> String {
        let style = match self.tone {
            _ if !colours => Style::new(),
            Tone::Plain => Style::new(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Title => Style::new().bold(),
        };
        format!("{style}{}{style:#}\n", visible(&self.text))
    }
}

/// Lines of our own making: each piece of `text` between newlines is one.
pub(crate) fn lines_of(text: &str) -> Vec<Line> {
    text.lines().map(Line::plain).collect()
}

/// Writes lines without colours. An output that is closed is no failure: a reader such as `head`
/// has seen enough.
///
/// # Errors
/// Any other error of the output.
pub(crate) fn print(output: &mut dyn Write, lines: &[Line]) -> io::Result<()> {
    let text: String = lines.iter().map(|line| line.render(false)).collect();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Says on stderr what a command is doing. A stderr that can't be written fails nothing.
pub(crate) fn say(line: &str) {
    drop(print(&mut io::stderr(), &[Line::plain(line)]));
}

/// The text with every control character written out, as `\x1b` or `\n`, and without the colours of
/// a worker's own.
///
/// Tabs stay. The characters that change the direction of text or break lines are control
/// characters, too: they can make a line read as something else.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(len) = colour_sequence(rest) {
            rest = &rest[len..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            control if is_control(control) => {
                let code = u32::from(control);
                let written = match code {
                    0..=0xff => write!(shown, "\\x{code:02x}"),
                    _ => write!(shown, "\\u{{{code:x}}}"),
                };
                written.expect("a String takes every write");
            }
            other => shown.push(other),
        }
    }
    Cow::Owned(shown)
}

/// JSON with every control character in its strings as JSON's own escape, so that a reader gets the
/// same text and a terminal nothing. serde_json escapes those of ASCII, but neither DEL nor C1.
pub(crate) fn visible_json(json: String) -> String {
    // Between the strings there are newlines; in them they are escaped already.
    let is_hidden = |character: char| character != '\n' && is_control(character);
    if !json.contains(is_hidden) {
        return json;
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_hidden(character) {
            write!(shown, "\\u{:04x}", u32::from(character)).expect("a String takes every write");
        } else {
            shown.push(character);
        }
    }
    shown
}

fn is_control(character: char) -> bool {
    let reorders = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (character.is_control() && character != '\t') || reorders
}

/// The length of a sequence at the start of `text` that sets colours and nothing else (ECMA-48:
/// SGR).
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let len = parameters.find(|c: char| !(c.is_ascii_digit() || matches!(c, ';' | ':')))?;
    parameters[len..].starts_with('m').then_some(2 + len + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_begins_a_line_gets_through() {
        for (foreign, shown) in [
            ("plain, é, 日本, \ttab", "plain, é, 日本, \ttab"),
            (
                "evil\x1b[2J\nostler: all is well\r",
                "evil\\x1b[2J\\nostler: all is well\\r",
            ),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\u{9b}2J\u{7f}\0", "\\x9b2J\\x7f\\x00"),
            ("a\u{202e}b\u{2028}c", "a\\u{202e}b\\u{2028}c"),
            ("\x1b[1;31merror\x1b[0m: x", "error: x"),
            ("\x1b[31", "\\x1b[31"),
            ("\x1b[3\x1b[mm", "\\x1b[3m"),
        ] {
            assert_eq!(visible(foreign), shown, "{foreign:?}");
            assert!(!visible(&visible(foreign)).contains(is_control), "{foreign:?}");
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let foreign = "\u{9b}2J\u{7f}\u{202e}\x1b\n\ttab, é";
        for json in [
            serde_json::to_string(&[foreign]).unwrap(),
            serde_json::to_string_pretty(&[foreign]).unwrap(),
        ] {
            let shown = visible_json(json);
            assert!(!shown.contains(|c| c != '\n' && is_control(c)), "{shown:?}");
            assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [foreign]);
        }
    }

    #[test]
    fn colours_are_ours_alone() {
        let line = Line::new(Tone::Bad, "web/0 failed: \x1b[32mgreen\n");
        assert_eq!(line.render(false), "web/0 failed: green\\n\n");
        assert_eq!(line.render(true), "\x1b[31mweb/0 failed: green\\n\x1b[0m\n");
        assert_eq!(Line::plain("x").render(true), "x\n");
    }
}
