//! Each failure reason as a user meets it: reached by a real run, told by its event and on stderr, with the exit status.
//!
//! Not reached here, and why:
//! - `oom_killed`: wants the `memory.events` of a cgroup with the memory controller delegated; containment as it is
//!   built needs no controllers. Such a worker is told as `killed`, and the suggestion names the kernel's log.
//! - `store_failed` at a reservation: a full disk does not stop a restart, by design (`tests/store.rs` fills one). What
//!   is reached of it is in `limits.rs`: the host's own files that a worker needs.

mod giving_up;
mod guardian;
mod life;
mod limits;
mod machine;
mod release;
mod restart_types;
mod start;

use ostler_tests::{SOON, Up};
use serde_json::Value;

/// A run that ends because its worker gave up: the first failure, checked as far as all have it in common, and what
/// people read.
fn gives_up(up: &mut Up, reason: &str) -> (Value, String) {
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(1), "{stderr}\n{}", up.story());
    let failure = up.named("worker.failed").next().expect("a failure").clone();
    assert_eq!(failure["reason"], reason, "{failure}");
    assert_told(&failure, &stderr);
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

/// What the event says is what people read: the reason, what happened, what to do.
fn assert_told(failure: &Value, stderr: &str) {
    for key in ["reason", "message", "suggestion"] {
        let told = text(failure, key);
        assert!(!told.is_empty(), "{failure}");
        assert!(stderr.contains(told), "{told:?} is not on stderr:\n{stderr}");
    }
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}"))
}

/// Every one of these is in the event's message.
fn assert_message(event: &Value, facts: &[&str]) {
    let message = text(event, "message");
    for fact in facts {
        assert!(message.contains(fact), "{fact:?} is missing in {message:?}");
    }
}

/// A program from the system that runs for ever, whoever runs it, and holds the tag.
fn resident(tag: &str) -> String {
    format!("[\"sh\", \"-c\", \"while :; do sleep 3600; done\", \"sh\", {tag:?}]")
}
