//! The single values that the program alone reads: each from its form in the file, or a message
//! that says what was found and what is expected.

use ostler::Engine;
use ostler::otlp::{self, Protocol};
use ostler_core::config::Value;
use ostler_core::config::values::{string, word};

type Read<T> = Result<T, String>;

/// The name of an app.
pub(super) fn name(value: &Value) -> Read<String> {
    let name = string(value)?;
    ostler::check_app_name(&name).map_err(|error| error.to_string())?;
    Ok(name)
}

/// The address of an OTLP receiver.
pub(super) fn receiver(value: &Value) -> Read<String> {
    let address = string(value)?;
    otlp::check_endpoint(&address)?;
    Ok(address)
}

/// The OTLP transport.
pub(super) fn protocol(value: &Value) -> Read<Protocol> {
    word(value, &Protocol::ALL.map(|protocol| (protocol.name(), protocol)))
}

/// How workers are placed on cores.
pub(super) fn cpus(value: &Value) -> Read<()> {
    word(value, &[("auto", ())])
}

/// A store that is compiled in.
pub(super) fn store(value: &Value) -> Read<Engine> {
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
