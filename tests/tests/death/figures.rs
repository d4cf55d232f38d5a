//! How long the last descendant outlives a host that is killed. Bounds are those of the promise in the long form, which has the
//! machine to itself, and loose ones beside other tests.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::sweep::sweep;
use ostler_tests::world::{await_count, long_form, rounds};
use ostler_tests::{SOON, Up};

use crate::{KINDS, pools, processes};

/// From the kill of the host to the last process gone, and nothing left.
fn one_death(kinds: &[(&str, usize)], workers: usize) -> Duration {
    let mut up = Up::start(|tag| pools(kinds, workers, tag).replace("max_starting = 8", "max_starting = 32"));
    for _ in kinds {
        up.wait_for("a ready pool", Duration::from_secs(60), |event| {
            event["event"] == "pool.ready"
        });
    }
    let all = processes(kinds, workers);
    await_count(&up.tag, "all there", |count| count == all);
    let begun = Instant::now();
    up.signal(Signal::SIGKILL);
    await_count(&up.tag, "gone", |count| count == 0);
    let time = begun.elapsed();
    // The lock is free when the host has ended.
    up.end(SOON);
    sweep(&up.state());
    up.assert_nothing_left();
    time
}

fn median_of(deaths: u32, kinds: &[(&str, usize)], workers: usize) -> Duration {
    let mut times: Vec<Duration> = (0..deaths).map(|_| one_death(kinds, workers)).collect();
    times.sort();
    println!(
        "SIGKILL of the host to the last of {} processes gone: {times:?}",
        processes(kinds, workers)
    );
    times[times.len() / 2]
}

#[test]
fn forty_of_the_worst_are_gone_at_once() {
    let bound = Duration::from_millis(if long_form() { 300 } else { 1000 });
    let median = median_of(rounds(3, 10), &KINDS, 8);
    assert!(median < bound, "{median:?}");
}

#[test]
fn a_thousand_plain_ones_are_gone_within_a_second() {
    let (workers, deaths) = if long_form() { (1000, 3) } else { (100, 1) };
    let median = median_of(deaths, &KINDS[..1], workers);
    assert!(median < Duration::from_secs(1), "{median:?}");
}
