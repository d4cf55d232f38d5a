//! Single values: each from its TOML form, or a message that says what was found and what is
//! expected.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ostler::Engine;
use ostler::otlp::{self, Protocol};
use ostler_core::signal::Signal;
use ostler_core::spec::{Affinity, Mode, OnCancel, OnGiveUp, Port, PortOwner, QueueOrder, Stdin};
use ostler_core::supervision::Restart;
use toml::de::DeValue;

use super::mistake::nearest;

type Read<T> = Result<T, String>;

/// What was found, for people.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {:?}", shortened(text)),
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the float {number}"),
        DeValue::Boolean(boolean) => format!("the boolean {boolean}"),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

fn expected<T>(value: &DeValue<'_>, what: &str) -> Read<T> {
    Err(format!("expected {what}, found {}", found(value)))
}

/// A string.
pub(super) fn string(value: &DeValue<'_>) -> Read<String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => expected(other, "a string"),
    }
}

/// The name of an app.
pub(super) fn name(value: &DeValue<'_>) -> Read<String> {
    let name = string(value)?;
    ostler::check_app_name(&name).map_err(|error| error.to_string())?;
    Ok(name)
}

/// A path.
pub(super) fn path(value: &DeValue<'_>) -> Read<PathBuf> {
    let text = string(value)?;
    if text.is_empty() || text.contains('\0') {
        return Err(format!("expected a path, found {text:?}"));
    }
    Ok(PathBuf::from(text))
}

/// A list of strings.
pub(super) fn strings(value: &DeValue<'_>) -> Read<Vec<String>> {
    match value {
        DeValue::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| string(item.get_ref()).map_err(|message| format!("item {}: {message}", index + 1)))
            .collect(),
        DeValue::String(text) => Err(format!(
            "expected a list such as [\"python3\", \"worker.py\"], found the string {:?}: no shell splits it",
            shortened(text)
        )),
        other => expected(other, "a list of strings"),
    }
}

/// A boolean.
pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    match value {
        DeValue::Boolean(boolean) => Ok(*boolean),
        other => expected(other, "true or false"),
    }
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    match value {
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// A count.
pub(super) fn count(value: &DeValue<'_>) -> Read<u32> {
    match integer(value).and_then(|number| u32::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => expected(value, "an integer from 0 to 4294967295"),
    }
}

/// A fraction; whether it is between 0 and 1 is the specification's rule.
pub(super) fn fraction(value: &DeValue<'_>) -> Read<f64> {
    let number = match value {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => None,
    };
    match number {
        Some(number) => Ok(number),
        None => expected(value, "a number between 0 and 1"),
    }
}

/// A duration: `"5s"`, `"100ms"`, `"1m 30s"`.
pub(super) fn duration(value: &DeValue<'_>) -> Read<Duration> {
    const FORM: &str = "a duration such as \"5s\", \"100ms\" or \"1m 30s\"";
    let DeValue::String(text) = value else {
        return expected(value, FORM);
    };
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(duration),
        Err(_) => expected(value, FORM),
    }
}

/// A size: `"64KiB"`, or a number of bytes.
pub(super) fn size(value: &DeValue<'_>) -> Read<usize> {
    let bytes = match value {
        DeValue::String(text) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
        other => integer(other).and_then(|number| u64::try_from(number).ok()),
    };
    match bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
        Some(bytes) => Ok(bytes),
        None => expected(value, "a size such as \"64KiB\", \"1MiB\" or a number of bytes"),
    }
}

/// A number of things.
pub(super) fn number(value: &DeValue<'_>) -> Read<usize> {
    match integer(value).and_then(|number| usize::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => expected(value, "an integer from 0 on"),
    }
}

/// An address.
pub(super) fn address(value: &DeValue<'_>) -> Read<IpAddr> {
    match string(value)?.parse() {
        Ok(address) => Ok(address),
        Err(_) => expected(value, "an IP address such as \"127.0.0.1\", \"0.0.0.0\" or \"::1\""),
    }
}

/// A signal's name.
pub(super) fn signal(value: &DeValue<'_>) -> Read<Signal> {
    string(value)?.parse().map_err(|error| format!("{error}"))
}

/// `true`; `false` has to be left out.
pub(super) fn only_true(value: &DeValue<'_>) -> Read<()> {
    match value {
        DeValue::Boolean(true) => Ok(()),
        DeValue::Boolean(false) => Err("expected true; leave the key out instead of setting it to false".to_owned()),
        other => expected(other, "true"),
    }
}

/// The service that grpc.health.v1 is asked for; `true`: the server as a whole.
pub(super) fn grpc_service(value: &DeValue<'_>) -> Read<String> {
    match value {
        DeValue::String(service) => Ok(service.to_string()),
        DeValue::Boolean(true) => Ok(String::new()),
        other => expected(other, "true, or the name of a gRPC service"),
    }
}

/// One of several words.
fn word<T: Copy>(value: &DeValue<'_>, words: &[(&'static str, T)]) -> Read<T> {
    let allowed = || {
        words
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(" | ")
    };
    let DeValue::String(text) = value else {
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

/// The address of an OTLP receiver.
pub(super) fn receiver(value: &DeValue<'_>) -> Read<String> {
    let address = string(value)?;
    otlp::check_endpoint(&address)?;
    Ok(address)
}

/// The OTLP transport.
pub(super) fn protocol(value: &DeValue<'_>) -> Read<Protocol> {
    word(value, &Protocol::ALL.map(|protocol| (protocol.name(), protocol)))
}

/// The words for restart types.
pub(super) const RESTARTS: [(&str, Restart); 3] = [
    ("permanent", Restart::Permanent),
    ("transient", Restart::Transient),
    ("temporary", Restart::Temporary),
];

/// A restart type.
pub(super) fn restart(value: &DeValue<'_>) -> Read<Restart> {
    word(value, &RESTARTS)
}

/// What it means that a slot gives up.
pub(super) fn on_give_up(value: &DeValue<'_>) -> Read<OnGiveUp> {
    word(value, &[("worker", OnGiveUp::Worker), ("pool", OnGiveUp::Pool)])
}

/// Whose socket may answer a probe.
pub(super) fn owner(value: &DeValue<'_>) -> Read<PortOwner> {
    word(value, &[("worker", PortOwner::Worker), ("any", PortOwner::Any)])
}

/// How workers are placed on cores.
pub(super) fn cpus(value: &DeValue<'_>) -> Read<()> {
    word(value, &[("auto", ())])
}

/// The words for what a worker's stdin is.
pub(super) const STDINS: [(&str, Stdin); 2] = [("null", Stdin::Null), ("pipe", Stdin::Pipe)];

/// What a worker's stdin is.
pub(super) fn stdin(value: &DeValue<'_>) -> Read<Stdin> {
    word(value, &STDINS)
}

/// The words for who waits first in a queue.
pub(super) const QUEUE_ORDERS: [(&str, QueueOrder); 2] = [("fifo", QueueOrder::Fifo), ("lifo", QueueOrder::Lifo)];

/// Which waiting call goes first.
pub(super) fn queue_order(value: &DeValue<'_>) -> Read<QueueOrder> {
    word(value, &QUEUE_ORDERS)
}

/// The words for how strictly a session keeps to its worker.
pub(super) const AFFINITIES: [(&str, Affinity); 3] = [
    ("hint", Affinity::Hint),
    ("strict_queue", Affinity::StrictQueue),
    ("strict_fail_fast", Affinity::StrictFailFast),
];

/// How strictly a session keeps to its worker.
pub(super) fn affinity(value: &DeValue<'_>) -> Read<Affinity> {
    word(value, &AFFINITIES)
}

/// The words for what becomes of a worker whose caller gave up.
pub(super) const ON_CANCELS: [(&str, OnCancel); 2] = [("replace", OnCancel::Replace), ("reuse", OnCancel::Reuse)];

/// What becomes of a worker whose caller gave up.
pub(super) fn on_cancel(value: &DeValue<'_>) -> Read<OnCancel> {
    word(value, &ON_CANCELS)
}

/// A mode; which ones are built is the specification's rule.
pub(super) fn mode(value: &DeValue<'_>) -> Read<Mode> {
    word(
        value,
        &[
            ("coupled", Mode::Coupled),
            ("independent", Mode::Independent),
            ("supervised", Mode::Supervised),
            ("distributed", Mode::Distributed),
        ],
    )
}

/// A store that is compiled in.
pub(super) fn store(value: &DeValue<'_>) -> Read<Engine> {
    let engine = word(value, &Engine::ALL.map(|engine| (engine.name(), engine)))?;
    if engine.is_compiled_in() {
        return Ok(engine);
    }
    Err(format!(
        "{:?} is not compiled into this program; {:?} is (the cargo feature {:?} adds it)",
        engine.name(),
        Engine::DEFAULT.name(),
        engine.name()
    ))
}

const PORT_FORMS: &str = "a port from 1 to 65535, a range \"7000-7099\", \"any\", \"reported\", \"listen\" or \"unix\"";

/// A port; `None` for `"none"`.
pub(super) fn port(value: &DeValue<'_>) -> Read<Option<Port>> {
    let text = match value {
        DeValue::String(text) => text.as_ref(),
        DeValue::Integer(_) => {
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
pub(super) fn named_port(value: &DeValue<'_>) -> Read<Port> {
    port(value)?.ok_or_else(|| "expected a port, found \"none\"; leave it out instead".to_owned())
}
