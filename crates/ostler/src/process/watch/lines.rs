//! The watch for a line by which a worker reports that it is ready.

use std::sync::Arc;

use tokio::sync::watch;

use pattern::Pattern;

/// Sees every line of a worker, in place, so that none is missed.
#[derive(Debug, Clone)]
pub(in crate::process) struct LineWatch {
    pattern: Arc<Pattern>,
    seen: watch::Sender<bool>,
}

impl LineWatch {
    /// A watch for lines that match the pattern.
    pub(in crate::process) fn new(pattern: &str) -> Result<Self, String> {
        Ok(Self {
            pattern: Arc::new(Pattern::new(pattern)?),
            seen: watch::Sender::new(false),
        })
    }

    pub(in crate::process) fn see(&self, line: &str) {
        if !*self.seen.borrow() && self.pattern.matches(line) {
            self.seen.send_replace(true);
        }
    }

    /// Waits for the first line that matches. Returns at once if it has come already.
    pub(in crate::process) async fn matched(&self) {
        // The sender lives in `self`.
        let _ = self.seen.subscribe().wait_for(|seen| *seen).await;
    }
}

#[cfg(feature = "ready-line")]
mod pattern {
    use anstream::adapter::strip_str;
    use regex::Regex;

    #[derive(Debug)]
    pub(super) struct Pattern(Regex);

    impl Pattern {
        pub(super) fn new(pattern: &str) -> Result<Self, String> {
            Regex::new(pattern).map(Self).map_err(|error| error.to_string())
        }

        /// A program that writes to a terminal colours its lines, or overwrites them with `\r`: an
        /// anchored pattern has to match what a person would see.
        pub(super) fn matches(&self, line: &str) -> bool {
            self.0.is_match(line)
                || (line.contains(['\x1b', '\r'])
                    && strip_str(line)
                        .to_string()
                        .split('\r')
                        .any(|shown| self.0.is_match(shown)))
        }
    }
}

/// A specification with a pattern is invalid in this build, so that there is never one.
#[cfg(not(feature = "ready-line"))]
mod pattern {
    use std::convert::Infallible;

    #[derive(Debug)]
    pub(super) struct Pattern(Infallible);

    impl Pattern {
        pub(super) fn new(_: &str) -> Result<Self, String> {
            Err("this build lacks the feature \"ready-line\"".to_owned())
        }

        pub(super) fn matches(&self, _: &str) -> bool {
            match self.0 {}
        }
    }
}

#[cfg(all(test, feature = "ready-line"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_seen_before_the_wait_counts() {
        let watch = LineWatch::new("^ready").unwrap();
        watch.see("not ready");
        assert!(!*watch.seen.borrow());
        watch.see("ready to serve");
        watch.matched().await;
    }

    #[test]
    fn colours_and_overwritten_text_do_not_hide_a_line() {
        for line in [
            "\u{1b}[32mready\u{1b}[0m to serve",
            "\u{1b}[1;32mready",
            "loading 10 %\rloading 90 %\rready to serve",
            "\u{1b}]0;title\u{7}ready",
        ] {
            let watch = LineWatch::new("^ready").unwrap();
            watch.see(line);
            assert!(*watch.seen.borrow(), "{line:?}");
        }
        let watch = LineWatch::new("^ready").unwrap();
        watch.see("\u{1b}[32mnot ready\u{1b}[0m");
        assert!(!*watch.seen.borrow());
    }
}
