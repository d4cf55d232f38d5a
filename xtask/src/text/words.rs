//! Words that a reader stumbles over, and what to say instead. docs/style.md has the reasons.

/// Files that quote these words.
pub(super) const EXEMPT: [&str; 2] = ["docs/style.md", "xtask/src/text/words.rs"];

const FORBIDDEN: [(&str, &str); 32] = [
    ("hardly meant", "\"warning\", and what is wrong"),
    ("can't be meant", "\"invalid\", and what is allowed"),
    ("bereft", "\"orphaned\", \"without a parent\""),
    ("whoever", "\"a caller that\", \"users who\""),
    ("whosoever", "\"a caller that\""),
    ("nobody", "\"no process\", \"no one\", \"nothing\""),
    ("nobody's", "what it belongs to, or \"not counted\""),
    ("somebody", "\"another process\", \"another user\""),
    ("stranger", "\"unrelated process\", \"foreign process\""),
    ("strangers", "\"unrelated processes\", \"foreign processes\""),
    ("likewise", "\"also\", \"the same way\""),
    ("told", "\"reports\", \"says\", \"learns\""),
    ("wanted", "\"expected\", \"required\", \"requested\""),
    ("is wont", "what it does"),
    ("finds back", "\"returns\""),
    ("whatever of", "what is meant"),
    ("stand for", "\"represent\", \"replace\""),
    ("stand_for", "a name that says what it does"),
    ("doubts", "\"unknown\", \"warnings\""),
    ("deeds", "\"actions\", \"faults\""),
    ("thereupon", "\"then\""),
    ("whereupon", "\"then\""),
    ("hitherto", "\"so far\""),
    ("lest", "\"so that … not\""),
    ("heir", "\"replacement\""),
    ("beget", "\"starts\""),
    ("all the same", "\"anyway\", \"still\""),
    ("anew", "\"again\""),
    ("for ever", "\"forever\""),
    ("hardly", "\"barely\", or the fact"),
    ("is to be", "\"must be\", \"should be\""),
    ("are to be", "\"must be\", \"should be\""),
];

/// Each forbidden word with its line and what to say instead.
pub(super) fn found(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.to_lowercase().replace('\u{2019}', "'");
        for (word, instead) in FORBIDDEN {
            if has_word(&line, word) {
                found.push((index + 1, word, instead));
            }
        }
    }
    found
}

/// Whether the word stands by itself: an underscore separates words too, a letter, digit or
/// apostrophe does not.
fn has_word(line: &str, word: &str) -> bool {
    let joins = |character: char| character.is_alphanumeric() || character == '\'';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(joins) && !after.is_some_and(joins)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_as_words() {
        let words = |text| found(text).into_iter().map(|(_, word, _)| word).collect::<Vec<_>>();
        assert_eq!(words("Nobody is told of it"), ["nobody", "told"]);
        assert_eq!(words("fn an_unrelated_stranger()"), ["stranger"]);
        assert_eq!(words("unwanted, untold, lesting"), Vec::<&str>::new());
        assert_eq!(words("nobody's fault"), ["nobody's"]);
        assert_eq!(found("one\nthe heir")[0].0, 2);
    }
}
