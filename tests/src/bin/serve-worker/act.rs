//! What a request asks the worker to do.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Acts on requests, and writes down which.
pub(crate) struct Actor {
    record: File,
}

/// How a request is answered.
pub(crate) enum Answer {
    /// With this.
    Ok(Value),
    /// With an exception.
    Error(Value),
    /// With the first half of a frame, and then no more.
    Half,
    /// With text that is no frame.
    Noise,
}

impl Actor {
    pub(crate) fn new(record: &Path) -> Self {
        let record = File::options().append(true).create(true).open(record);
        Self {
            record: record.expect("the record can be written"),
        }
    }

    /// Writes a key down.
    pub(crate) fn note(&self, key: u64) {
        // One write of an append-only file is not torn.
        let line = format!("{key}\n");
        (&self.record).write_all(line.as_bytes()).expect("it is written down");
    }

    /// `key` is written down; `do` says what then: `echo`, `sleep` (`ms`), `hang`, `crash`,
    /// `raise`, `half`, `noise`, `leak` (128 MiB), `quit` (exit 0).
    pub(crate) fn act(&self, body: &Value) -> Answer {
        if let Some(key) = body["key"].as_u64() {
            self.note(key);
        }
        match body["do"].as_str().unwrap_or("echo") {
            "sleep" => std::thread::sleep(Duration::from_millis(body["ms"].as_u64().unwrap_or(0))),
            "hang" => loop {
                std::thread::park();
            },
            "crash" => {
                eprintln!("Traceback: this request crashes the worker");
                std::process::abort();
            }
            "quit" => std::process::exit(0),
            "leak" => std::mem::forget(std::hint::black_box(vec![1u8; 128 << 20])),
            "raise" => {
                return Answer::Error(json!({
                    "code": "exception", "type": "KeyError", "message": "no such key",
                    "bases": ["KeyError", "LookupError", "Exception"], "executed": true,
                }));
            }
            "half" => return Answer::Half,
            "noise" => return Answer::Noise,
            _ => {}
        }
        Answer::Ok(json!({"key": body["key"], "pid": std::process::id()}))
    }
}
