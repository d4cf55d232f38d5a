//! Every failure reason from a user's view: caused by a real run, with its event, its text on
//! stderr and the exit status.
//!
//! Not covered here: `store_failed` at a reservation. By design, a full disk does not prevent a
//! restart (`tests/store.rs` fills one). `limits.rs` covers the host's own files that a worker
//! needs.

mod file_system;
mod giving_up;
mod guardian;
mod life;
mod limits;
mod machine;
mod memory;
mod refused;
mod release;
mod restart_types;
mod start;

use ostler_tests::{SOON, Up};
use serde_json::Value;

/// Waits for a run to end because its worker gave up. Checks the first failure for what all
/// failures have in common, and returns it with stderr.
fn gives_up(up: &mut Up, reason: &str) -> (Value, String) {
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}\n{}", up.story());
    let failure = up.named("worker.failed").next().expect("worker.failed event").clone();
    assert_eq!(failure["reason"], reason, "{failure}");
    assert_on_stderr(&failure, &stderr);
    for end in ["worker.gave_up", "pool.gave_up"] {
        let end = up
            .named(end)
            .next()
            .unwrap_or_else(|| panic!("no {end}: {}", up.story()));
        assert_eq!(end["reason"], reason, "{end}");
        assert!(text(end, "message").contains(text(&failure, "message")), "{end}");
    }
    assert_eq!(up.count("cleanup.success"), 1);
    up.assert_nothing_left();
    (failure, stderr)
}

/// Asserts that stderr has the event's reason, message and suggestion, with control characters
/// written out.
fn assert_on_stderr(failure: &Value, stderr: &str) {
    for key in ["reason", "message", "suggestion"] {
        let expected = text(failure, key);
        assert!(!expected.is_empty(), "{failure}");
        let shown = expected.replace('\n', "\\n");
        assert!(stderr.contains(&shown), "{shown:?} is not on stderr:\n{stderr}");
    }
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}"))
}

/// Asserts that the event's message contains all of these.
fn assert_message(event: &Value, facts: &[&str]) {
    let message = text(event, "message");
    for fact in facts {
        assert!(message.contains(fact), "{fact:?} missing in {message:?}");
    }
}

/// A system program that runs forever under any user and has the tag.
fn resident(tag: &str) -> String {
    format!("[\"sh\", \"-c\", \"while :; do sleep 3600; done\", \"sh\", {tag:?}]")
}
