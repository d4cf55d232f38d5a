//! Markdown without hard wraps: one line per paragraph, list item and quotation.

/// What a line of Markdown is, as far as joining lines needs it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Ends a paragraph and can't be continued: blank lines, headings, tables, rules, HTML,
    /// anything in a code fence.
    Fixed,
    /// Starts a list item, which the next line may continue.
    Item,
    /// Text.
    Text,
}

/// The text with each paragraph on one line.
pub(super) fn joined(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (line, continues) in classified(text) {
        match lines.last_mut() {
            Some(last) if continues => {
                last.truncate(last.trim_end().len());
                last.push(' ');
                last.push_str(line.trim_start());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    let mut joined = lines.join("\n");
    if text.ends_with('\n') {
        joined.push('\n');
    }
    joined
}

/// The numbers of lines that continue the paragraph of the line before.
pub(super) fn wrapped_lines(text: &str) -> Vec<usize> {
    classified(text)
        .enumerate()
        .filter(|(_, (_, continues))| *continues)
        .map(|(index, _)| index + 1)
        .collect()
}

/// Each line, and whether it continues the one before.
fn classified(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut in_fence = false;
    let mut before = Line::Fixed;
    let mut break_before = false;
    text.lines().map(move |line| {
        let trimmed = line.trim_start();
        let is_fence = trimmed.starts_with("```") || trimmed.starts_with("~~~");
        let kind = if in_fence || is_fence {
            Line::Fixed
        } else {
            kind(trimmed)
        };
        in_fence ^= is_fence;
        let continues = kind == Line::Text && before != Line::Fixed && !break_before;
        before = kind;
        break_before = line.ends_with("  ") || line.ends_with('\\');
        (line, continues)
    })
}

fn kind(trimmed: &str) -> Line {
    if trimmed.is_empty() || trimmed.starts_with(['#', '|', '<', '>']) || trimmed.starts_with("---") {
        Line::Fixed
    } else if is_item(trimmed) {
        Line::Item
    } else {
        Line::Text
    }
}

fn is_item(trimmed: &str) -> bool {
    if trimmed.starts_with("- ") || trimmed.starts_with("* ") || trimmed.starts_with("+ ") {
        return true;
    }
    let number = trimmed.trim_start_matches(|digit: char| digit.is_ascii_digit());
    number.len() < trimmed.len() && (number.starts_with(". ") || number.starts_with(") "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_items_get_one_line_each() {
        let wrapped =
            "# Title\nA paragraph\nof two lines.\n\n- an item\n  and its rest\n- another\n\n1. one\n   more\n";
        let expected = "# Title\nA paragraph of two lines.\n\n- an item and its rest\n- another\n\n1. one more\n";
        assert_eq!(joined(wrapped), expected);
        assert_eq!(wrapped_lines(wrapped), [3, 6, 10]);
        assert!(wrapped_lines(expected).is_empty());
    }

    #[test]
    fn code_tables_headings_and_hard_breaks_stay() {
        let text = "```sh\none\ntwo\n```\nafter\n\n| a |\n|---|\n| b |\nafter\n## next\ntext  \nbroken on purpose\n";
        assert_eq!(joined(text), text);
    }
}
