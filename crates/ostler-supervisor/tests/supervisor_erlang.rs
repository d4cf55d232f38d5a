//! Differential test: random supervision trees with random histories under Erlang's own
//! `supervisor` and under ours. The traces must be the same: which children are started and
//! stopped, in which order, what each request returns, what is reported, and which supervisors give
//! up.
//!
//! Needs Erlang (Debian: `erlang-base`); without it the test passes with a message.
//! `OSTLER_HISTORIES=10000` sets the number of histories.

#[path = "supervisor_erlang/erlang.rs"]
mod erlang;
#[path = "supervisor_erlang/history.rs"]
mod history;
#[path = "supervisor_erlang/world.rs"]
mod world;

use erlang::Erlang;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

fn cases(default: u32) -> u32 {
    std::env::var("OSTLER_HISTORIES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(default)
}

#[test]
fn erlang_and_ostler_agree() {
    let Some(erlang) = Erlang::start() else { return };
    let erlang = std::cell::RefCell::new(erlang);
    let mut runner = TestRunner::new(Config {
        cases: cases(500),
        max_shrink_iters: 2_000,
        ..Config::default()
    });
    let agreed = runner.run(&history::histories(), |history| {
        let theirs = erlang.borrow_mut().run(&history);
        let ours = world::run(&history);
        if theirs == ours {
            return Ok(());
        }
        let difference = format!(
            "{}\nErlang:\n{}\nOstler:\n{}",
            history.term(),
            theirs.join("\n"),
            ours.join("\n")
        );
        Err(TestCaseError::fail(difference))
    });
    if let Err(failure) = agreed {
        panic!("{failure}");
    }
}

/// Histories in which time passes. Erlang counts whole seconds, so the histories have a period of
/// one second and wait for more than two, which both sides judge the same way. All histories wait
/// at the same time.
#[test]
fn erlang_and_ostler_agree_on_time() {
    let Some(mut erlang) = Erlang::start() else { return };
    let mut runner = TestRunner::deterministic();
    let timed = history::timed_histories();
    let histories: Vec<_> = (0..200)
        .map(|_| timed.new_tree(&mut runner).expect("generating a history").current())
        .collect();
    let theirs = erlang.run_in_parallel(&histories);
    for (history, theirs) in histories.iter().zip(theirs) {
        assert_eq!(theirs, world::run(history), "{}", history.term());
    }
}
