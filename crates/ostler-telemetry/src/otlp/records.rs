//! Converts events and worker output to log records.

use std::borrow::Cow;

use opentelemetry::Value;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, Severity};
use opentelemetry_sdk::logs::SdkLogger;

use super::attributes;
use crate::context::SpanLink;
use crate::event::Event;
use crate::names::attribute;
use crate::observe::Output;

#[derive(Debug)]
pub(super) struct Records {
    logger: SdkLogger,
}

impl Records {
    pub(super) fn new(logger: SdkLogger) -> Self {
        Self { logger }
    }

    pub(super) fn event(&self, event: &Event, SpanLink(span): &SpanLink) {
        let mut record = self.logger.create_log_record();
        record.set_event_name(event.kind.full_name());
        record.set_timestamp(event.time);
        let (severity, text) = if event.is_trouble() {
            (Severity::Warn, "WARN")
        } else {
            (Severity::Info, "INFO")
        };
        record.set_severity_number(severity);
        record.set_severity_text(text);
        let about = event.worker.as_ref().map(ToString::to_string);
        let about = about.as_deref().or(event.pool.as_deref()).unwrap_or(&event.app);
        let body = match &event.facts.message {
            Some(message) => format!("{} {about}: {message}", event.kind.name()),
            None => format!("{} {about}", event.kind.name()),
        };
        record.set_body(body.into());
        if span.is_valid() {
            record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
        }
        for pair in attributes::of_event(event) {
            record.add_attribute(pair.key, any(pair.value));
        }
        self.logger.emit(record);
    }

    pub(super) fn output(&self, output: &Output<'_>) {
        let mut record = self.logger.create_log_record();
        record.set_timestamp(output.time);
        // Programs do not only write errors to stderr, so the severity is unknown.
        record.set_severity_number(Severity::Info);
        record.set_severity_text("INFO");
        record.set_body(output.text.to_owned().into());
        record.add_attribute(attribute::APP, output.app.to_owned());
        record.add_attribute(attribute::POOL, output.worker.pool.clone());
        record.add_attribute(attribute::WORKER, output.worker.to_string());
        record.add_attribute(attribute::INCARNATION, attributes::integer(output.incarnation.0));
        record.add_attribute(attribute::STREAM, output.stream);
        if output.limited > 0 {
            record.add_attribute(attribute::LIMITED, attributes::integer(output.limited));
        }
        self.logger.emit(record);
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => value.into(),
        Value::I64(value) => value.into(),
        Value::F64(value) => value.into(),
        Value::String(value) => AnyValue::String(value),
        Value::Array(opentelemetry::Array::String(list)) => list.into_iter().map(AnyValue::String).collect(),
        other => AnyValue::from(Cow::<'static, str>::from(other.to_string())),
    }
}
