//! The log: `tracing` on stderr, above the table.

use std::io;
use std::sync::Arc;

use ostler::otlp::Telemetry;
use tracing::Metadata;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::screen::Screen;
use super::text::Line;

/// Sends the log to the screen, and spans to telemetry where it is on. `level` is a level or a
/// filter.
pub(crate) fn start(level: &str, screen: Arc<Screen>, telemetry: Option<&Telemetry>) -> Result<(), String> {
    let filter = filter(level).map_err(|error| format!("--log {level}: {error}"))?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(Writer(screen))
        .with_ansi(false)
        .with_filter(filter.and(filter_fn(is_news)));
    tracing_subscriber::registry()
        .with(layer)
        .with(telemetry.map(Telemetry::layer))
        .try_init()
        .map_err(|error| format!("the log can't be started: {error}"))
}

/// A level or a filter. To `tracing` a lone word that is no level is a target: one of ours is
/// accepted, any other is a level with a typing error.
fn filter(level: &str) -> Result<EnvFilter, String> {
    let is_word = level
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let is_ours = level == "ostler" || level.starts_with("ostler_");
    if is_word && !is_ours && level.parse::<LevelFilter>().is_err() {
        return Err(
            "expected a level (error, warn, info, debug, trace, off) or a filter such as warn,ostler_os=debug".into(),
        );
    }
    EnvFilter::try_new(level).map_err(|error| error.to_string())
}

/// The events of the run, and the supervisors' reports of the same things, are shown as lines or as
/// the table already. Spans are for telemetry; without it, none is made.
fn is_news(metadata: &Metadata<'_>) -> bool {
    let shown_by = if metadata.target() == "ostler" {
        "event"
    } else {
        "report"
    };
    let is_ours = metadata.target().starts_with("ostler");
    !metadata.is_span() && (!is_ours || metadata.fields().field(shown_by).is_none())
}

struct Writer(Arc<Screen>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Record<'a>;

    fn make_writer(&'a self) -> Record<'a> {
        Record {
            screen: &self.0,
            text: Vec::new(),
        }
    }
}

/// One record, which goes to the screen as a whole.
struct Record<'a> {
    screen: &'a Screen,
    text: Vec<u8>,
}

impl io::Write for Record<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.screen.say_all(&record(&String::from_utf8_lossy(&self.text)));
        }
    }
}

/// A record as lines. What a worker printed can have several, and none of them can pass for a
/// record of its own.
fn record(text: &str) -> Vec<Line> {
    let mut lines = text.trim_end_matches('\n').split('\n');
    let head = lines.next().map(Line::plain);
    let rest = lines.map(|line| Line::plain(format!("    │ {line}")));
    head.into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::{FilterExt as _, filter_fn};
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::{filter, is_news, record};

    #[test]
    fn the_log_alone_makes_no_spans() {
        let log = tracing_subscriber::fmt::layer()
            .with_writer(std::io::sink)
            .with_filter(filter("info").unwrap().and(filter_fn(is_news)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            assert!(tracing::info_span!(target: "ostler", "ostler.worker.start").is_disabled());
            assert!(tracing::info_span!(target: "ractor", "actor").is_disabled());
            assert!(tracing::enabled!(target: "ostler", tracing::Level::INFO));
        });
    }

    #[test]
    fn no_line_of_a_record_passes_for_another_record() {
        let lines = record("INFO ostler: Traceback:\nostler: all is well\n\n");
        let texts: Vec<_> = lines.into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["INFO ostler: Traceback:", "    │ ostler: all is well"]);
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for right in [
            "info",
            "WARN",
            "off",
            "warn,ostler_os=debug",
            "ostler=trace",
            "ostler",
            "ostler_os",
        ] {
            assert!(filter(right).is_ok(), "{right}");
        }
        for wrong in ["verbose", "inof", "in_fo", "ostler-os", "warn=what="] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }
}
