//! Single values: each from its form in a table, or a message that says what was found and what is
//! expected.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::section::nearest;
use super::value::{Value, shortened};
use crate::signal::Signal;
use crate::spec::{Affinity, Mode, OnCancel, OnGiveUp, Port, PortOwner, QueueOrder, Stdin};
use crate::supervision::Restart;

type Read<T> = Result<T, String>;

fn expected<T>(value: &Value, what: &str) -> Read<T> {
    Err(format!("expected {what}, found {}", value.found()))
}

/// A string.
pub fn string(value: &Value) -> Read<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => expected(other, "a string"),
    }
}

/// A path.
pub fn path(value: &Value) -> Read<PathBuf> {
    let text = string(value)?;
    if text.is_empty() || text.contains('\0') {
        return Err(format!("expected a path, found {text:?}"));
    }
    Ok(PathBuf::from(text))
}

/// A list of strings.
pub fn strings(value: &Value) -> Read<Vec<String>> {
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| string(item).map_err(|message| format!("item {}: {message}", index + 1)))
            .collect(),
        Value::String(text) => Err(format!(
            "expected a list such as [\"python3\", \"worker.py\"], found the string {:?}: no shell splits it",
            shortened(text)
        )),
        other => expected(other, "a list of strings"),
    }
}

/// A boolean.
pub(super) fn boolean(value: &Value) -> Read<bool> {
    match value {
        Value::Boolean(boolean) => Ok(*boolean),
        other => expected(other, "true or false"),
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    }
}

/// A count.
pub(super) fn count(value: &Value) -> Read<u32> {
    match integer(value).and_then(|number| u32::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => expected(value, "an integer from 0 to 4294967295"),
    }
}

/// A fraction; whether it is between 0 and 1 is the specification's rule.
pub fn fraction(value: &Value) -> Read<f64> {
    match value {
        Value::Float(number) => Ok(*number),
        Value::Integer(number) => Ok(*number as f64),
        _ => expected(value, "a number between 0 and 1"),
    }
}

/// A duration: `"5s"`, `"100ms"`, `"1m 30s"`.
pub fn duration(value: &Value) -> Read<Duration> {
    const FORM: &str = "a duration such as \"5s\", \"100ms\" or \"1m 30s\"";
    let Value::String(text) = value else {
        return expected(value, FORM);
    };
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(duration),
        Err(_) => expected(value, FORM),
    }
}

/// A size: `"64KiB"`, or a number of bytes.
pub(super) fn size(value: &Value) -> Read<usize> {
    let bytes = match value {
        Value::String(text) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
        other => integer(other).and_then(|number| u64::try_from(number).ok()),
    };
    match bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
        Some(bytes) => Ok(bytes),
        None => expected(value, "a size such as \"64KiB\", \"1MiB\" or a number of bytes"),
    }
}

/// A number of things.
pub(super) fn number(value: &Value) -> Read<usize> {
    match integer(value).and_then(|number| usize::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => expected(value, "an integer from 0 on"),
    }
}

/// An address.
pub(super) fn address(value: &Value) -> Read<IpAddr> {
    match string(value)?.parse() {
        Ok(address) => Ok(address),
        Err(_) => expected(value, "an IP address such as \"127.0.0.1\", \"0.0.0.0\" or \"::1\""),
    }
}

/// A signal's name.
pub(super) fn signal(value: &Value) -> Read<Signal> {
    string(value)?.parse().map_err(|error| format!("{error}"))
}

/// `true`; `false` has to be left out.
pub(super) fn only_true(value: &Value) -> Read<()> {
    match value {
        Value::Boolean(true) => Ok(()),
        Value::Boolean(false) => Err("expected true; leave the key out instead of setting it to false".to_owned()),
        other => expected(other, "true"),
    }
}

/// The service that grpc.health.v1 is asked for; `true`: the server as a whole.
pub(super) fn grpc_service(value: &Value) -> Read<String> {
    match value {
        Value::String(service) => Ok(service.clone()),
        Value::Boolean(true) => Ok(String::new()),
        other => expected(other, "true, or the name of a gRPC service"),
    }
}

/// One of several words.
pub fn word<T: Copy>(value: &Value, words: &[(&'static str, T)]) -> Read<T> {
    let allowed = || {
        words
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(" | ")
    };
    let Value::String(text) = value else {
        return expected(value, &allowed());
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Ok(*value);
    }
    let hint = nearest(text, words.iter().map(|(word, _)| *word))
        .map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"));
    Err(format!("expected {}, found {:?}{hint}", allowed(), shortened(text)))
}

/// The word for one of several values; all of them are in `words`.
pub(super) fn name_of<T: PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    let found = words.iter().find(|(_, of)| *of == value);
    found.map_or("", |(word, _)| word)
}

/// The words for restart types.
pub(super) const RESTARTS: [(&str, Restart); 3] = [
    ("permanent", Restart::Permanent),
    ("transient", Restart::Transient),
    ("temporary", Restart::Temporary),
];

/// A restart type.
pub(super) fn restart(value: &Value) -> Read<Restart> {
    word(value, &RESTARTS)
}

/// The words for what it means that a slot gives up.
pub(super) const ON_GIVE_UPS: [(&str, OnGiveUp); 2] = [("worker", OnGiveUp::Worker), ("pool", OnGiveUp::Pool)];

/// What it means that a slot gives up.
pub(super) fn on_give_up(value: &Value) -> Read<OnGiveUp> {
    word(value, &ON_GIVE_UPS)
}

/// The words for whose socket may answer a probe.
pub(super) const OWNERS: [(&str, PortOwner); 2] = [("worker", PortOwner::Worker), ("any", PortOwner::Any)];

/// Whose socket may answer a probe.
pub(super) fn owner(value: &Value) -> Read<PortOwner> {
    word(value, &OWNERS)
}

/// The words for what a worker's stdin is.
pub(super) const STDINS: [(&str, Stdin); 2] = [("null", Stdin::Null), ("pipe", Stdin::Pipe)];

/// What a worker's stdin is.
pub(super) fn stdin(value: &Value) -> Read<Stdin> {
    word(value, &STDINS)
}

/// The words for who waits first in a queue.
pub(super) const QUEUE_ORDERS: [(&str, QueueOrder); 2] = [("fifo", QueueOrder::Fifo), ("lifo", QueueOrder::Lifo)];

/// Which waiting call goes first.
pub(super) fn queue_order(value: &Value) -> Read<QueueOrder> {
    word(value, &QUEUE_ORDERS)
}

/// The words for how strictly a session keeps to its worker.
pub(super) const AFFINITIES: [(&str, Affinity); 3] = [
    ("hint", Affinity::Hint),
    ("strict_queue", Affinity::StrictQueue),
    ("strict_fail_fast", Affinity::StrictFailFast),
];

/// How strictly a session keeps to its worker.
pub(super) fn affinity(value: &Value) -> Read<Affinity> {
    word(value, &AFFINITIES)
}

/// The words for what becomes of a worker whose caller gave up.
pub(super) const ON_CANCELS: [(&str, OnCancel); 2] = [("replace", OnCancel::Replace), ("reuse", OnCancel::Reuse)];

/// What becomes of a worker whose caller gave up.
pub(super) fn on_cancel(value: &Value) -> Read<OnCancel> {
    word(value, &ON_CANCELS)
}

/// The words for modes.
pub(super) const MODES: [(&str, Mode); 4] = [
    ("coupled", Mode::Coupled),
    ("independent", Mode::Independent),
    ("supervised", Mode::Supervised),
    ("distributed", Mode::Distributed),
];

/// A mode; which ones are built is the specification's rule.
pub(super) fn mode(value: &Value) -> Read<Mode> {
    word(value, &MODES)
}

const PORT_FORMS: &str = "a port from 1 to 65535, a range \"7000-7099\", \"any\", \"reported\", \"listen\" or \"unix\"";

/// A port; `None` for `"none"`.
pub(super) fn port(value: &Value) -> Read<Option<Port>> {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Integer(_) => {
            let number = integer(value).and_then(|number| u16::try_from(number).ok());
            return number.map_or_else(|| expected(value, PORT_FORMS), |number| Ok(Some(Port::Fixed(number))));
        }
        other => return expected(other, PORT_FORMS),
    };
    match text {
        "none" => Ok(None),
        "any" => Ok(Some(Port::Any)),
        "reported" => Ok(Some(Port::Reported)),
        "listen" => Ok(Some(Port::Listen)),
        "unix" => Ok(Some(Port::Unix)),
        number if number.parse::<u16>().is_ok() => {
            Err(format!("expected a port without quotes, found the string {number:?}"))
        }
        range => match range
            .split_once('-')
            .map(|(first, last)| (first.trim().parse(), last.trim().parse()))
        {
            Some((Ok(first), Ok(last))) => Ok(Some(Port::Range(first, last))),
            _ => expected(value, PORT_FORMS),
        },
    }
}

/// A port among several with names.
pub(super) fn named_port(value: &Value) -> Read<Port> {
    port(value)?.ok_or_else(|| "expected a port, found \"none\"; leave it out instead".to_owned())
}
