//! Lines of a worker's output that belong together: a traceback is one record, not thirty.

/// The longest record, in bytes: 16 KiB. Longer paragraphs continue in the next record; a single
/// line that is longer is cut. Receivers usually refuse requests above 4 MiB.
const LONGEST: usize = 16 * 1024;

/// What is expected next, after what has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Shape {
    /// Indented lines belong to the line before them (Java's frames, wrapped messages).
    #[default]
    Plain,
    /// The frames of a Python traceback, up to the line with its exception.
    Frames,
    /// The line with the exception has been read; its notes are indented.
    Ended,
    /// An empty line follows: another traceback may come, after a line that says why.
    Gap,
    /// The line that says why has been read.
    Joint,
}

/// Gathers lines.
#[derive(Debug, Default)]
pub(crate) struct Paragraph {
    text: String,
    begun: bool,
    shape: Shape,
}

impl Paragraph {
    /// Adds a line. Returns what was gathered before if this line is not part of it.
    pub(crate) fn push(&mut self, line: &str) -> Option<String> {
        let line = cut(line);
        if let Some(shape) = self.continued_by(line) {
            self.shape = shape;
            self.text.push('\n');
            self.text.push_str(line);
            return None;
        }
        let done = self.take();
        self.begun = true;
        self.shape = if is_head(line) { Shape::Frames } else { Shape::Plain };
        self.text.push_str(line);
        done
    }

    /// Returns what was gathered; `None` if that is nothing or only empty lines.
    pub(crate) fn take(&mut self) -> Option<String> {
        self.begun = false;
        let mut text = std::mem::take(&mut self.text);
        text.truncate(text.trim_end_matches('\n').len());
        (!text.is_empty()).then_some(text)
    }

    fn continued_by(&self, line: &str) -> Option<Shape> {
        if !self.begun || self.text.len() + line.len() > LONGEST {
            return None;
        }
        let (indented, empty) = (line.starts_with([' ', '\t']), line.trim().is_empty());
        match self.shape {
            Shape::Plain if (indented && !empty) || line.starts_with("Caused by: ") => Some(Shape::Plain),
            Shape::Frames if indented => Some(Shape::Frames),
            Shape::Frames if empty => Some(Shape::Gap),
            Shape::Frames => Some(Shape::Ended),
            Shape::Ended if empty => Some(Shape::Gap),
            Shape::Ended if indented => Some(Shape::Ended),
            Shape::Gap if is_joint(line) => Some(Shape::Joint),
            Shape::Joint if empty => Some(Shape::Joint),
            Shape::Gap | Shape::Joint if is_head(line) => Some(Shape::Frames),
            Shape::Plain | Shape::Ended | Shape::Gap | Shape::Joint => None,
        }
    }
}

fn cut(line: &str) -> &str {
    let mut end = line.len().min(LONGEST);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

/// The first line of a traceback, as CPython's `traceback` module writes it.
fn is_head(line: &str) -> bool {
    line.starts_with("Traceback (most recent call last):")
}

/// The lines between a traceback and the one that it caused (same module).
fn is_joint(line: &str) -> bool {
    line.starts_with("During handling of the above exception, another exception occurred:")
        || line.starts_with("The above exception was the direct cause of the following exception:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<String> {
        let mut paragraph = Paragraph::default();
        let mut all: Vec<String> = text.lines().filter_map(|line| paragraph.push(line)).collect();
        all.extend(paragraph.take());
        all
    }

    const CHAINED: &str = "Traceback (most recent call last):\n  File \"w.py\", line 1, in <module>\n    1 / 0\n    ~~^~~\n\
        ZeroDivisionError: division by zero\n\nDuring handling of the above exception, another exception occurred:\n\n\
        Traceback (most recent call last):\n  File \"w.py\", line 3, in <module>\n    raise ValueError(1)\nValueError: 1";

    #[test]
    fn a_chained_traceback_is_one_record() {
        let text = format!("before\n{CHAINED}\nafter\n");
        assert_eq!(records(&text), ["before", CHAINED, "after"]);
    }

    #[test]
    fn what_follows_a_traceback_is_not_part_of_it() {
        let one = "Traceback (most recent call last):\n  File \"w.py\", line 1\nKeyError: 'x'";
        assert_eq!(
            records(&format!("{one}\n\nnext\n{one}\n{one}")),
            [one, "next", one, one]
        );
    }

    #[test]
    fn indented_lines_belong_to_the_line_before() {
        let java = "java.lang.Error: x\n\tat A.b(A.java:1)\nCaused by: java.lang.Error: y\n\t... 1 more";
        assert_eq!(records(&format!("{java}\nplain\n\nplain")), [java, "plain", "plain"]);
    }

    #[test]
    fn a_record_has_a_longest_length() {
        let line = format!(" {}", "x".repeat(1023));
        let all = records(&format!("head\n{}", vec![line; 200].join("\n")));
        assert_eq!(records(&"é".repeat(LONGEST))[0].len(), LONGEST);
        assert!(
            all.len() > 2 && all.iter().all(|record| record.len() <= LONGEST + 100),
            "{}",
            all.len()
        );
    }
}
