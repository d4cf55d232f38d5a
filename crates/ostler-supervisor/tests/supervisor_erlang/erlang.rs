//! Erlang, as a process that runs histories.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::history::History;

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/erlang/supervisor_traces.escript"
);

pub(crate) struct Erlang {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Erlang {
    /// `None`, with a message, if Erlang is not installed.
    pub(crate) fn start() -> Option<Self> {
        let spawned = Command::new("escript")
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        match spawned {
            Ok(mut process) => {
                let input = process.stdin.take();
                let output = BufReader::new(process.stdout.take().expect("piped stdout"));
                Some(Erlang { process, input, output })
            }
            Err(error) => {
                eprintln!("SKIPPED: no Erlang to compare with (escript: {error}); on Debian, install erlang-base");
                None
            }
        }
    }

    pub(crate) fn run(&mut self, history: &History) -> Vec<String> {
        self.say(&history.term());
        in_order(history, self.read_trace())
    }

    pub(crate) fn run_in_parallel(&mut self, histories: &[History]) -> Vec<Vec<String>> {
        let terms: Vec<String> = histories.iter().map(History::term).collect();
        self.say(&format!("{{parallel, [{}]}}", terms.join(", ")));
        histories
            .iter()
            .map(|history| in_order(history, self.read_trace()))
            .collect()
    }

    fn say(&mut self, term: &str) {
        let input = self.input.as_mut().expect("piped stdin");
        writeln!(input, "{term}.")
            .and_then(|()| input.flush())
            .expect("writing to Erlang");
    }

    fn read_trace(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("reading from Erlang");
            assert!(read > 0, "Erlang ended; so far: {lines:#?}");
            match line.trim_end() {
                "END" => return lines,
                line => lines.push(line.to_owned()),
            }
        }
    }
}

impl Drop for Erlang {
    fn drop(&mut self) {
        drop(self.input.take());
        self.process.wait().expect("waiting for Erlang");
    }
}

/// Dynamic children are stopped in parallel and listed in no order. What OTP leaves unordered is
/// sorted on both sides.
pub(crate) fn in_order(history: &History, lines: Vec<String>) -> Vec<String> {
    if !history.is_simple() {
        return lines;
    }
    let (mut unordered, mut ordered) = (Vec::new(), Vec::new());
    for line in lines {
        // OTP has no progress reports for dynamic children; ours are an extension.
        if line.starts_with("progress ") {
            continue;
        }
        if line.starts_with("stop ") || line.starts_with("shutdown_error ") {
            unordered.push(line);
            continue;
        }
        unordered.sort();
        ordered.append(&mut unordered);
        ordered.push(line);
    }
    unordered.sort();
    ordered.append(&mut unordered);
    ordered
}
