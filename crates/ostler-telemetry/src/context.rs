//! OpenTelemetry context of `tracing` spans: their place in a trace, their links and attributes.
//!
//! Without the feature `otlp`, and for a span that no OpenTelemetry layer has recorded, these
//! functions do nothing.

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
    use super::{Event, Failure, Span};

    /// A span's place in its trace. Empty without the feature `otlp`.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct SpanLink(());

    impl SpanLink {
        /// The W3C headers `traceparent` and, if there is one, `tracestate`.
        pub fn headers(&self) -> Option<(String, Option<String>)> {
            None
        }
    }

    pub(super) fn link_of(_: &Span) -> SpanLink {
        SpanLink(())
    }
    pub(super) fn follow(_: &Span, _: &SpanLink) {}
    pub(super) fn place_below(_: &Span, _: &SpanLink) {}
    pub(super) fn note(_: &Span, _: &Event) {}
    pub(super) fn describe(_: &Span, _: &Event) {}
    pub(super) fn fail(_: &Span, _: &Failure) {}
}

#[cfg(feature = "otlp")]
mod imp {
    use opentelemetry::trace::{SpanContext, Status, TraceContextExt as _};
    use opentelemetry::{Array, Context, StringValue, Value};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::{Event, Failure, Span};
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
