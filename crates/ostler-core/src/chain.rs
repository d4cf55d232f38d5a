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
        let top = layer("the table can't be opened", Some(repeating));
        assert_eq!(chain(&top), "the table can't be opened: can't write x: no space left");
    }
}
