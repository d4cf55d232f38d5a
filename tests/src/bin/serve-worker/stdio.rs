//! The worker protocol over stdin and stdout, a thread for each request. An answer has the
//! request's `traceparent`, if it has one.

use std::io::{BufRead, Write};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::act::{Actor, Answer};

#[derive(Clone, Copy)]
pub(crate) enum Framing {
    Packet,
    Json,
}

pub(crate) fn serve(actor: &Actor, framing: Framing) {
    let stdout = Mutex::new(std::io::stdout());
    let mut stdin = std::io::stdin().lock();
    std::thread::scope(|threads| {
        while let Some(request) = framing.read(&mut stdin) {
            if request["type"].as_str().is_some_and(|kind| kind != "request") {
                continue;
            }
            let stdout = &stdout;
            threads.spawn(move || {
                let answer = actor.act(&request["body"]);
                let id = &request["id"];
                let frame = match answer {
                    Answer::Ok(mut value) => {
                        if let trace @ Value::String(_) = &request["traceparent"] {
                            value["traceparent"] = trace.clone();
                        }
                        framing.frame(&json!({"type": "response", "id": id, "ok": value}))
                    }
                    Answer::Error(error) => framing.frame(&json!({"type": "response", "id": id, "error": error})),
                    Answer::Noise => b"Loading the model ...\n".to_vec(),
                    Answer::Half => {
                        let mut frame = framing.frame(&json!({"type": "response", "id": id, "ok": "0123456789"}));
                        frame.truncate(frame.len() / 2);
                        stdout.lock().expect("no panics").write_all(&frame).expect("it is read");
                        std::io::stdout().flush().expect("it is read");
                        std::process::exit(3);
                    }
                };
                let mut stdout = stdout.lock().expect("no panics");
                // The host is gone when it does not read any more.
                let _ = stdout.write_all(&frame).and_then(|()| stdout.flush());
            });
        }
        // The end of stdin: what runs is not waited for.
        std::process::exit(0);
    });
}

impl Framing {
    fn read(self, stdin: &mut impl BufRead) -> Option<Value> {
        match self {
            Self::Json => {
                let mut line = String::new();
                stdin.read_line(&mut line).ok().filter(|count| *count > 0)?;
                Some(serde_json::from_str(&line).expect("a request"))
            }
            Self::Packet => {
                let mut length = [0; 4];
                stdin.read_exact(&mut length).ok()?;
                let mut frame = vec![0; u32::from_be_bytes(length) as usize];
                stdin.read_exact(&mut frame).ok()?;
                Some(rmp_serde::from_slice(&frame).expect("a request"))
            }
        }
    }

    fn frame(self, message: &Value) -> Vec<u8> {
        match self {
            Self::Json => format!("{message}\n").into_bytes(),
            Self::Packet => {
                let content = rmp_serde::to_vec_named(message).expect("a message");
                let mut frame = (content.len() as u32).to_be_bytes().to_vec();
                frame.extend(content);
                frame
            }
        }
    }
}
