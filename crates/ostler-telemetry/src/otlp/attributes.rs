//! Converts an event's fields to attributes.

use opentelemetry::{Array, KeyValue, StringValue, Value};
use ostler_core::failure::ExitStatus;
use ostler_core::signal::Signal;

use crate::event::{Event, Facts};
use crate::names::attribute;

/// All fields of an event, including its subject.
pub(crate) fn of_event(event: &Event) -> Vec<KeyValue> {
    let mut list = vec![
        KeyValue::new(attribute::APP, event.app.clone()),
        KeyValue::new(attribute::RUN, event.run.to_string()),
    ];
    if let Some(pool) = event.pool_name() {
        list.push(KeyValue::new(attribute::POOL, pool.to_owned()));
    }
    if let Some(worker) = &event.worker {
        list.push(KeyValue::new(attribute::WORKER, worker.to_string()));
    }
    if let Some(incarnation) = event.incarnation {
        list.push(KeyValue::new(attribute::INCARNATION, integer(incarnation.0)));
    }
    list.push(KeyValue::new(attribute::SEQ, integer(event.seq)));
    add_facts(&mut list, &event.facts);
    list
}

/// The attributes of a span event: the event's number, and fields that the span itself does not
/// have.
pub(crate) fn of_note(event: &Event) -> Vec<KeyValue> {
    let mut list = Vec::with_capacity(3);
    list.push(KeyValue::new(attribute::SEQ, integer(event.seq)));
    let Facts {
        exit, signal, cause, ..
    } = &event.facts;
    add_exit(&mut list, *exit, *signal);
    list.extend(cause.map(|cause| KeyValue::new(attribute::CAUSE, cause.name())));
    list
}

fn add_exit(list: &mut Vec<KeyValue>, exit: Option<ExitStatus>, signal: Option<Signal>) {
    let code = exit.and_then(ExitStatus::code).map(i64::from);
    list.extend(code.map(|code| KeyValue::new(attribute::EXIT_CODE, code)));
    let signal = exit.map_or(signal, ExitStatus::signal);
    list.extend(signal.map(|signal| KeyValue::new(attribute::SIGNAL, signal.name())));
}

fn add_facts(list: &mut Vec<KeyValue>, facts: &Facts) {
    let Facts {
        pid,
        port,
        ports,
        socket,
        sockets,
        containment,
        reason,
        message,
        suggestion,
        exit,
        signal,
        cause,
        stderr_tail,
        holder,
        count,
        orphans,
        attempt,
        delay,
        elapsed,
    } = facts;
    add_exit(list, *exit, *signal);
    let sockets: Vec<String> = sockets.iter().map(|(name, path)| format!("{name}={path}")).collect();
    let ports: Vec<String> = ports.iter().map(|(name, port)| format!("{name}={port}")).collect();
    let mut add = |key: &'static str, value: Option<Value>| {
        list.extend(value.map(|value| KeyValue::new(key, value)));
    };
    add(attribute::PID, pid.map(|pid| i64::from(pid).into()));
    add(attribute::PORT, port.map(|port| i64::from(port).into()));
    add(attribute::PORTS, texts(&ports));
    add(attribute::SOCKET, text(socket.as_ref()));
    add(attribute::SOCKETS, texts(&sockets));
    add(
        attribute::CONTAINMENT,
        containment.map(|containment| containment.name().into()),
    );
    add(attribute::REASON, reason.map(|reason| reason.name().into()));
    add(attribute::MESSAGE, text(message.as_ref()));
    add(attribute::SUGGESTION, text(suggestion.as_ref()));
    add(attribute::CAUSE, cause.map(|cause| cause.name().into()));
    add(attribute::STDERR_TAIL, texts(stderr_tail));
    add(attribute::HOLDER, text(holder.as_ref()));
    add(attribute::COUNT, count.map(|count| integer(count).into()));
    add(attribute::ORPHANS, texts(orphans));
    add(attribute::ATTEMPT, attempt.map(|attempt| i64::from(attempt).into()));
    add(attribute::DELAY, delay.map(|delay| delay.as_secs_f64().into()));
    add(attribute::ELAPSED, elapsed.map(|elapsed| elapsed.as_secs_f64().into()));
}

/// OTLP integers are signed.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn text(value: Option<&String>) -> Option<Value> {
    value.map(|value| value.clone().into())
}

fn texts(values: &[String]) -> Option<Value> {
    (!values.is_empty()).then(|| Value::Array(Array::String(values.iter().cloned().map(StringValue::from).collect())))
}
