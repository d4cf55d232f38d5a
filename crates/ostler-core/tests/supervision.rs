//! Tests the supervision policy against an independent, naive model of OTP's `supervisor`: random
//! supervisors with random histories must produce the same trace.
//!
//! `OSTLER_HISTORIES=1000000 cargo test --release -p ostler-core --test supervision` runs a million
//! histories.

#[path = "supervision/history.rs"]
mod history;
#[path = "supervision/model.rs"]
mod model;
#[path = "supervision/world.rs"]
mod world;

use history::History;
use proptest::prelude::*;

/// Runs a history through the policy and through the model.
fn traces(history: &History) -> (Vec<String>, Vec<String>) {
    (world::run(history), model::run(history))
}

fn cases() -> u32 {
    let asked = std::env::var("OSTLER_HISTORIES")
        .ok()
        .and_then(|count| count.parse().ok());
    asked.unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn policy_matches_the_model(history in history::histories()) {
        let (policy, model) = traces(&history);
        prop_assert_eq!(policy, model);
    }
}
