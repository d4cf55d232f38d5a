//! Pages of Markdown, cut into passages under their headings.

use std::io;
use std::path::Path;

/// The model reads no more than about this many characters.
const LONGEST: usize = 400;

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passage {
    /// The page's file name.
    pub(crate) page: String,
    /// The heading above it.
    pub(crate) heading: String,
    pub(crate) text: String,
}

/// The passages of every page in `folder`, by name; at most `limit`, 0 for all.
pub(crate) fn read(folder: &Path, limit: usize) -> io::Result<Vec<Passage>> {
    let mut pages: Vec<_> = std::fs::read_dir(folder)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    let mut passages = Vec::new();
    for path in pages {
        let page = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        passages.extend(cut(&page, &std::fs::read_to_string(&path)?));
    }
    if limit > 0 {
        passages.truncate(limit);
    }
    Ok(passages)
}

/// One passage for each heading with text below it.
fn cut(page: &str, text: &str) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            continue;
        } else if let Some(heading) = line.strip_prefix('#') {
            passages.push(Passage {
                page: page.to_owned(),
                heading: heading.trim_start_matches('#').trim().to_owned(),
                text: String::new(),
            });
        } else if let Some(passage) = passages.last_mut().filter(|passage| passage.text.len() < LONGEST) {
            passage.text.extend(line.chars().take(LONGEST));
            passage.text.push(' ');
        }
    }
    passages.retain(|passage| !passage.text.trim().is_empty());
    passages
}

impl Passage {
    /// What the model reads.
    pub(crate) fn input(&self) -> String {
        format!("{}. {}", self.heading, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_the_text_below_headings_without_code() {
        let text = "before\n# One\n\nfirst\nsecond\n```\n# no heading\n```\n## Empty\n## Two\nthird\n";
        let found: Vec<_> = cut("p.md", text)
            .into_iter()
            .map(|passage| (passage.heading, passage.text.trim().to_owned()))
            .collect();
        let expected = [("One", "first second"), ("Two", "third")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(found, expected);
    }
}
