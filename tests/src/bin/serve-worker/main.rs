//! A worker that is called, for the tests of serving: over stdin and stdout, HTTP or gRPC. It
//! writes down the key of each request before it acts on it, so that a test can compare what was
//! executed with what callers learned.
//!
//! `ostler-serve-worker PROTOCOL RECORD TAG`: `packet`, `json`, `http`, `http2` or `grpc`; the file
//! to write keys to. HTTP and gRPC are served at `OSTLER_SOCKET`, or at `PORT` of 127.0.0.1.

mod act;
mod grpc;
mod health;
mod listen;
mod stdio;
mod web;

use std::path::PathBuf;
use std::sync::Arc;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let protocol = arguments.next().expect("a protocol");
    let record = PathBuf::from(arguments.next().expect("a record"));
    let actor = Arc::new(act::Actor::new(&record));
    match protocol.as_str() {
        "packet" => stdio::serve(&actor, stdio::Framing::Packet),
        "json" => stdio::serve(&actor, stdio::Framing::Json),
        "http" | "http2" => listen::run(web::serve(actor)),
        "grpc" => listen::run(grpc::serve(actor)),
        other => panic!("protocol {other:?} is unknown"),
    }
}
