//! OpenTelemetry context of `tracing` spans: their place in a trace, their links and attributes.
//!
//! Without the feature `otlp`, and for a span that no OpenTelemetry layer has recorded, these
//! functions do nothing.

use std::time::Duration;

use ostler_core::failure::Failure;
use tracing::Span;

use crate::event::Event;

pub use imp::SpanLink;

/// Returns the span's place in its trace. Holding it does not keep the span open.
pub fn link_of(span: &Span) -> SpanLink {
    imp::link_of(span)
}

/// Links the span to the span that caused it. Call it before anything else is done with the span.
pub fn follow(span: &Span, cause: &SpanLink) {
    imp::follow(span, cause);
}

/// Makes `parent` the span's parent; the parent may have ended. Call it before anything else is
/// done with the span.
pub fn place_below(span: &Span, parent: &SpanLink) {
    imp::place_below(span, parent);
}

/// Adds the event to the span as a span event.
pub fn note(span: &Span, event: &Event) {
    imp::note(span, event);
}

/// Adds a span event about something that took this long, with the time in seconds.
pub fn note_duration(span: &Span, name: &'static str, took: Duration) {
    imp::note_duration(span, name, took);
}

/// Sets the event's fields as attributes of a span that represents the event.
pub fn describe(span: &Span, event: &Event) {
    imp::describe(span, event);
}

/// Marks the span as failed, with the failure's reason.
pub fn fail(span: &Span, failure: &Failure) {
    imp::fail(span, failure);
}

#[cfg(not(feature = "otlp"))]
mod imp {
    use super::{Duration, Event, Failure, Span};

    /// A span's place in its trace. Empty without the feature `otlp`.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct SpanLink(());

    impl SpanLink {
        /// The W3C headers `traceparent` and, if there is one, `tracestate`.
        pub fn headers(&self) -> Option<(String, Option<String>)> {
            None
        }

        /// The place that the W3C headers name. Empty without the feature `otlp`, or if they are
        /// invalid.
        pub fn from_headers(_: &str, _: Option<&str>) -> Self {
            Self(())
        }
    }

    pub(super) fn link_of(_: &Span) -> SpanLink {
        SpanLink(())
    }
    pub(super) fn follow(_: &Span, _: &SpanLink) {}
    pub(super) fn place_below(_: &Span, _: &SpanLink) {}
    pub(super) fn note(_: &Span, _: &Event) {}
    pub(super) fn note_duration(_: &Span, _: &'static str, _: Duration) {}
    pub(super) fn describe(_: &Span, _: &Event) {}
    pub(super) fn fail(_: &Span, _: &Failure) {}
}

#[cfg(feature = "otlp")]
mod imp {
    use opentelemetry::trace::{SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState};
    use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::{Duration, Event, Failure, Span};
    use crate::names::attribute;
    use crate::otlp::attributes;

    /// A span's place in its trace.
    #[derive(Debug, Clone, PartialEq)]
    pub struct SpanLink(pub(crate) SpanContext);

    impl Default for SpanLink {
        fn default() -> Self {
            Self(SpanContext::NONE)
        }
    }

    impl SpanLink {
        /// The W3C headers `traceparent` and, if there is one, `tracestate`. `None` outside a
        /// trace.
        pub fn headers(&self) -> Option<(String, Option<String>)> {
            let Self(context) = self;
            // https://www.w3.org/TR/trace-context-1/#traceparent-header: version 00; "sampled" is
            // the only flag.
            context.is_valid().then(|| {
                let (trace, span) = (context.trace_id(), context.span_id());
                let parent = format!("00-{trace}-{span}-{:02x}", u8::from(context.is_sampled()));
                let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
                (parent, state)
            })
        }

        /// The place that the W3C headers name. Empty if they are invalid.
        pub fn from_headers(traceparent: &str, tracestate: Option<&str>) -> Self {
            Self(context_of(traceparent, tracestate).unwrap_or(SpanContext::NONE))
        }
    }

    /// <https://www.w3.org/TR/trace-context-1/#traceparent-header>: versions after 00 may add parts.
    fn context_of(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
        let mut parts = traceparent.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, len| text.len() == len && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let more = parts.next().is_some();
        if !hex(version, 2) || version == "ff" || (version == "00" && more) {
            return None;
        }
        if !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let state = tracestate.and_then(|state| state.parse::<TraceState>().ok());
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
        Some(context).filter(SpanContext::is_valid)
    }

    pub(super) fn link_of(span: &Span) -> SpanLink {
        if span.is_disabled() {
            return SpanLink::default();
        }
        SpanLink(span.context().span().span_context().clone())
    }

    pub(super) fn follow(span: &Span, SpanLink(cause): &SpanLink) {
        if cause.is_valid() {
            span.add_link(cause.clone());
        }
    }

    pub(super) fn place_below(span: &Span, SpanLink(parent): &SpanLink) {
        if parent.is_valid() {
            // An error means that no layer has recorded the span.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent.clone()));
        }
    }

    pub(super) fn note(span: &Span, event: &Event) {
        if !span.is_disabled() {
            let name = event.kind.full_name();
            span.add_event_with_timestamp(name, event.time, attributes::of_note(event));
        }
    }

    pub(super) fn note_duration(span: &Span, name: &'static str, took: Duration) {
        if !span.is_disabled() {
            span.add_event(name, vec![KeyValue::new(attribute::WAIT, took.as_secs_f64())]);
        }
    }

    pub(super) fn describe(span: &Span, event: &Event) {
        if span.is_disabled() {
            return;
        }
        for pair in attributes::of_event(event) {
            span.set_attribute(pair.key, pair.value);
        }
        if event.is_trouble() {
            span.set_status(Status::error(event.facts.message.clone().unwrap_or_default()));
        }
    }

    pub(super) fn fail(span: &Span, failure: &Failure) {
        if span.is_disabled() {
            return;
        }
        span.set_status(Status::error(format!("{}: {}", failure.reason, failure.message)));
        span.set_attribute(attribute::REASON, failure.reason.name());
        span.set_attribute(attribute::MESSAGE, failure.message.clone());
        span.set_attribute(attribute::SUGGESTION, failure.suggestion.clone());
        if !failure.stderr_tail.is_empty() {
            let lines = failure.stderr_tail.iter().cloned().map(StringValue::from).collect();
            span.set_attribute(attribute::STDERR_TAIL, Value::Array(Array::String(lines)));
        }
        if let Some(holder) = &failure.holder {
            span.set_attribute(attribute::HOLDER, holder.clone());
        }
    }
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_headers_and_nonsense_names_none() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let link = SpanLink::from_headers(parent, Some("vendor=1"));
        assert_eq!(link.headers(), Some((parent.to_owned(), Some("vendor=1".to_owned()))));
        let later = parent.replacen("00", "01", 1) + "-more";
        assert_eq!(
            SpanLink::from_headers(&later, None).headers(),
            Some((parent.to_owned(), None))
        );
        for nonsense in [
            "",
            "00",
            &parent.replace("0af7", "0AF7"),
            &parent.replace("0af7", "0af"),
            &format!("{parent}-more"),
            &parent.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert_eq!(
                SpanLink::from_headers(nonsense, None),
                SpanLink::default(),
                "{nonsense}"
            );
        }
    }
}
