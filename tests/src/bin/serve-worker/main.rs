//! A worker that is called, for the tests of serving: over stdin and stdout. It writes down the key
//! of each request before it acts on it, so that a test can compare what was executed with what
//! callers learned.
//!
//! `ostler-serve-worker PROTOCOL RECORD TAG`: `packet` or `json`; the file to write keys to.

mod act;
mod stdio;

use std::path::PathBuf;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let protocol = arguments.next().expect("a protocol");
    let record = PathBuf::from(arguments.next().expect("a record"));
    let actor = act::Actor::new(&record);
    match protocol.as_str() {
        "packet" => stdio::serve(&actor, stdio::Framing::Packet),
        "json" => stdio::serve(&actor, stdio::Framing::Json),
        other => panic!("protocol {other:?} is unknown"),
    }
}
