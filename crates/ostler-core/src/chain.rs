//! An error with its causes, as one line.

use std::error::Error;

/// The error's text, followed by those of its sources, each after a colon. A text that repeats its
/// source, as some libraries' do, is not followed by it.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Whether the text of an error, or of one of its sources, contains the text of its own source.
///
/// For tests of error types: each text is for its own layer, and [`chain`] puts them together.
pub fn repeats_its_source(error: &(dyn Error + 'static)) -> bool {
    let Some(source) = error.source() else { return false };
    error.to_string().contains(&source.to_string()) || repeats_its_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layer(text: &'static str, source: Option<Layer>) -> Layer {
        let source = source.map(Box::new);
        Layer { text, source }
    }

    #[test]
    fn a_chain_has_every_cause_once() {
        let bottom = layer("no space left", None);
        let repeating = layer("can't write x: no space left", Some(bottom));
        assert!(repeats_its_source(&repeating));
        let top = layer("the table can't be opened", Some(repeating));
        assert_eq!(chain(&top), "the table can't be opened: can't write x: no space left");
        assert!(repeats_its_source(&top), "its source does");
        let bottom = layer("no space left", None);
        assert!(!repeats_its_source(&layer("can't write x", Some(bottom))));
    }
}
