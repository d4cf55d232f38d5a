//! How long the last descendant outlives a killed host. The long form, which has the machine to
//! itself, checks the promised limits; otherwise the limits are loose.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::sweep::sweep;
use ostler_tests::world::{await_count, long_form, rounds};
use ostler_tests::{SOON, Up};

use crate::{KINDS, pools, processes};

/// The time from the kill of the host until the last process is gone. Asserts that nothing is left.
fn one_death(kinds: &[(&str, usize)], workers: usize) -> Duration {
    let mut up = Up::start(|tag| pools(kinds, workers, tag).replace("max_starting = 8", "max_starting = 32"));
    for _ in kinds {
        up.wait_for("a ready pool", Duration::from_secs(60), |event| {
            event["event"] == "pool.ready"
        });
    }
    let all = processes(kinds, workers);
    await_count(&up.tag, "all processes", |count| count == all);
    let begun = Instant::now();
    up.signal(Signal::SIGKILL);
    await_count(&up.tag, "gone", |count| count == 0);
    let time = begun.elapsed();
    // The lock is released once the host has ended.
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
fn forty_of_the_worst_workers_are_gone_promptly() {
    let bound = Duration::from_millis(if long_form() { 300 } else { 1000 });
    let median = median_of(rounds(3, 10), &KINDS, 8);
    assert!(median < bound, "{median:?}");
}

#[test]
fn thousand_plain_workers_are_gone_within_a_second() {
    let (workers, deaths) = if long_form() { (1000, 3) } else { (100, 1) };
    let median = median_of(deaths, &KINDS[..1], workers);
    assert!(median < Duration::from_secs(1), "{median:?}");
}
