//! OTP's restart types with each kind of exit, end to end.

use ostler_tests::scene::pool;
use ostler_tests::{SOON, Up};

/// The number of restarts before the slot gives up, set by `intensity`.
const INTENSITY: usize = 2;

struct Case {
    restart: &'static str,
    modes: &'static str,
    /// The failure reason, if the exit is a failure.
    reason: Option<&'static str>,
    restarted: bool,
}

const fn case(restart: &'static str, modes: &'static str, reason: Option<&'static str>, restarted: bool) -> Case {
    Case {
        restart,
        modes,
        reason,
        restarted,
    }
}

const CASES: [Case; 9] = [
    case("permanent", "exit=0", None, true),
    case("permanent", "exit=1", Some("exited"), true),
    case("permanent", "kill-self", Some("killed"), true),
    case("transient", "exit=0", None, false),
    case("transient", "exit=1", Some("exited"), true),
    case("transient", "kill-self", Some("killed"), true),
    case("temporary", "exit=0", None, false),
    case("temporary", "exit=1", Some("exited"), false),
    case("temporary", "kill-self", Some("killed"), false),
];

#[test]
fn restart_types_and_exits() {
    for case in CASES {
        let keys = format!("restart = \"{}\"\nintensity = {INTENSITY}", case.restart);
        let mut up = Up::start(|tag| pool(case.modes, tag, &keys));
        let (status, stderr) = up.end(SOON);
        let what = format!("{} and {}: {stderr}\n{}", case.restart, case.modes, up.story());
        let lives = if case.restarted { INTENSITY + 1 } else { 1 };
        assert_eq!(up.count("worker.spawned"), lives, "{what}");
        assert_eq!(up.count("worker.released"), lives, "{what}");
        assert_eq!(up.count("worker.restarting"), lives - 1, "{what}");
        assert_eq!(
            up.count("worker.failed"),
            if case.reason.is_some() { lives } else { 0 },
            "{what}"
        );
        assert!(
            up.named("worker.failed")
                .all(|event| event["reason"].as_str() == case.reason),
            "{what}"
        );
        let (gave_up, finished) = (usize::from(case.restarted), usize::from(!case.restarted));
        assert_eq!(up.count("worker.gave_up"), gave_up, "{what}");
        assert_eq!(up.count("pool.gave_up"), gave_up, "{what}");
        assert_eq!(up.count("worker.finished"), finished, "{what}");
        assert_eq!(up.count("pool.finished"), finished, "{what}");
        assert_eq!(status.code(), Some(i32::from(case.restarted)), "{what}");
        up.assert_nothing_left();
    }
}

#[test]
fn pool_whose_workers_all_finish_ends_the_run() {
    let mut up = Up::start(|tag| {
        pool(
            "pause=50+exit=0",
            tag,
            "workers = 5\nmax_starting = 2\nrestart = \"transient\"",
        )
    });
    let (status, stderr) = up.end(SOON);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(up.count("worker.finished"), 5);
    assert_eq!(up.count("pool.finished"), 1);
    assert_eq!(up.count("worker.failed"), 0);
    up.assert_nothing_left();
}
