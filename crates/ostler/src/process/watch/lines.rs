//! The watch for a line by which a worker reports that it is ready.

use std::sync::Arc;

use regex::Regex;
use tokio::sync::watch;

/// Sees every line of a worker, in place, so that none is missed however many there are.
#[derive(Debug, Clone)]
pub(in crate::process) struct LineWatch {
    pattern: Arc<Regex>,
    seen: watch::Sender<bool>,
}

impl LineWatch {
    /// A watch for lines that match the pattern.
    pub(in crate::process) fn new(pattern: &str) -> Result<Self, regex::Error> {
        Ok(Self {
            pattern: Arc::new(Regex::new(pattern)?),
            seen: watch::Sender::new(false),
        })
    }

    pub(in crate::process) fn see(&self, line: &str) {
        if !*self.seen.borrow() && self.pattern.is_match(line) {
            self.seen.send_replace(true);
        }
    }

    /// Waits for the first line that matches; at once when it has come already.
    pub(in crate::process) async fn matched(&self) {
        // The sender lives in `self`.
        let _ = self.seen.subscribe().wait_for(|seen| *seen).await;
    }
}

#[cfg(test)]
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
}
