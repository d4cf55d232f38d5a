//! Comments of Rust code: at most [`WIDTH`] columns, indentation included. rustfmt leaves comments
//! alone on stable.

/// The widest comment line.
pub(super) const WIDTH: usize = 100;

/// A comment line, taken apart.
struct Comment<'a> {
    indent: &'a str,
    /// `//`, `///` or `//!`.
    slashes: &'a str,
    text: &'a str,
}

/// The numbers of lines that are comments and too wide. Tables and links can't be wrapped.
pub(super) fn too_wide(text: &str) -> Vec<usize> {
    let is_wide = |line: &str| comment(line).is_some_and(|comment| is_too_wide(line, &comment));
    let numbered = text.lines().enumerate();
    numbered
        .filter(|(_, line)| is_wide(line))
        .map(|(index, _)| index + 1)
        .collect()
}

/// The text with each paragraph that has a line too wide wrapped again.
pub(super) fn wrapped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    let mut in_fence = false;
    while at < lines.len() {
        let Some(first) = comment(lines[at]) else {
            in_fence = false;
            push(&mut result, lines[at]);
            at += 1;
            continue;
        };
        if first.text.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        let end = if in_fence {
            at + 1
        } else {
            paragraph_end(&lines, at, &first)
        };
        let paragraph = &lines[at..end];
        if !in_fence && paragraph.iter().any(|line| is_too_wide(line, &first)) {
            rewrap(&mut result, &first, paragraph);
        } else {
            paragraph.iter().for_each(|line| push(&mut result, line));
        }
        at = end;
    }
    result
}

fn push(result: &mut String, line: &str) {
    result.push_str(line);
    result.push('\n');
}

fn comment(line: &str) -> Option<Comment<'_>> {
    let trimmed = line.trim_start();
    let indent = &line[..line.len() - trimmed.len()];
    let slashes = ["///", "//!", "//"]
        .into_iter()
        .find(|slashes| trimmed.starts_with(slashes))?;
    let (slashes, text) = trimmed.split_at(slashes.len());
    Some(Comment { indent, slashes, text })
}

fn is_too_wide(line: &str, comment: &Comment<'_>) -> bool {
    let text = comment.text.trim_start();
    let is_wrappable = !text.starts_with('|') && !text.contains("://");
    is_wrappable && line.chars().count() > WIDTH
}

/// The first line after the one at `start` that does not belong to its paragraph.
fn paragraph_end(lines: &[&str], start: usize, first: &Comment<'_>) -> usize {
    let continues = |line: &&&str| {
        comment(line).is_some_and(|next| {
            let text = next.text.trim_start();
            next.indent == first.indent
                && next.slashes == first.slashes
                && !text.is_empty()
                && !text.starts_with(['#', '|', '-', '*', '`', '['])
                && !text.starts_with(|digit: char| digit.is_ascii_digit())
        })
    };
    let text = first.text.trim();
    if text.is_empty() || text.starts_with(['|', '#']) {
        return start + 1;
    }
    start + 1 + lines[start + 1..].iter().take_while(continues).count()
}

fn rewrap(result: &mut String, first: &Comment<'_>, paragraph: &[&str]) {
    let words = paragraph
        .iter()
        .filter_map(|line| comment(line))
        .flat_map(|line| line.text.split_whitespace());
    // A list item's further lines are indented below its text.
    let hanging = if first.text.trim_start().starts_with("- ") {
        "   "
    } else {
        " "
    };
    let mut line = format!("{}{}", first.indent, first.slashes);
    let mut is_empty = true;
    for word in words {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            push(result, &line);
            line = format!("{}{}{}{word}", first.indent, first.slashes, hanging);
            continue;
        }
        line.push(' ');
        line.push_str(word);
        is_empty = false;
    }
    push(result, &line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_paragraph_is_wrapped_and_nothing_else() {
        let wide = format!(
            "//! Head.\n//!\n/// {}\n/// tail\nfn f() {{}} // {}\n",
            "word ".repeat(25),
            "w".repeat(120)
        );
        assert_eq!(too_wide(&wide), [3]);
        let wrapped = wrapped(&wide);
        assert!(too_wide(&wrapped).is_empty(), "{wrapped}");
        assert!(wrapped.contains("word tail\n"), "{wrapped}");
        assert!(wrapped.starts_with("//! Head.\n//!\n/// word"), "{wrapped}");
    }

    #[test]
    fn headings_are_not_joined_with_what_follows() {
        let text = format!("/// # Errors\n/// {}\n", "word ".repeat(25));
        assert!(
            wrapped(&text).starts_with("/// # Errors\n/// word"),
            "{}",
            wrapped(&text)
        );
    }

    #[test]
    fn tables_links_and_code_stay() {
        let long = "x ".repeat(60);
        let text = format!(
            "//! | {long} |\n//! https://example.org/{long}\n//!\n//! ```\n//! {}\n//! ```\n",
            "y".repeat(90)
        );
        assert_eq!(wrapped(&text), text);
    }
}
