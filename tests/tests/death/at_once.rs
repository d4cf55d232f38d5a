//! Simultaneous deaths: of the guardian; of host and guardian; of host, guardian and sitters.

use nix::sys::signal::Signal;
use ostler_tests::sweep::sweep;
use ostler_tests::world::{Anatomy, Bystander, World, assert_all_end_with_the_host, await_count, kill_at_once, rounds};
use ostler_tests::{Up, pids, send};

use crate::pool_ready_when_complete;

/// Two workers of five processes that ignore TERM: the worker, a child, a daemon with the marker,
/// and two without.
const MODES: &str = "ignore-term+daemon-naked+daemon-naked+daemon+child+sleep";
const WORKERS: usize = 2;
const PROCESSES: usize = 5 * WORKERS;
/// Processes with neither marker nor record.
const NAKED: usize = 2 * WORKERS;

fn begun(world: World) -> (Up, Anatomy, Bystander) {
    let keys = format!("workers = {WORKERS}\nintensity = 0");
    let pool = |tag: &str| pool_ready_when_complete(MODES, tag, &keys);
    let mut up = Up::start_with(pool, |command| world.apply(command));
    up.wait_for_event("pool.ready");
    await_count(&up.tag, "all processes", |count| count == PROCESSES);
    let anatomy = Anatomy::of(up.pid());
    assert_eq!(anatomy.sitters.len(), WORKERS);
    let bystander = Bystander::like_a_worker("ignore-term+sleep", &up.tag);
    (up, anatomy, bystander)
}

/// The number of rounds, in alternating environments.
fn in_turn(long: u32) -> impl Iterator<Item = World> {
    let worlds = World::all();
    let few = u32::try_from(worlds.len()).unwrap();
    worlds.into_iter().cycle().take(rounds(few, long) as usize)
}

#[test]
fn killed_guardian_replaces_the_workers() {
    for world in in_turn(100) {
        let (mut up, anatomy, mut bystander) = begun(world);
        let before = pids(&up.tag);
        send(anatomy.guardian, Signal::SIGKILL);
        up.wait_for_event("guardian.lost");
        up.wait_for_event("pool.ready");
        await_count(&up.tag, "all back", |count| count == PROCESSES);
        let after = pids(&up.tag);
        assert!(before.is_disjoint(&after), "{world:?}: {before:?} {after:?}");
        assert_eq!(up.count("worker.gave_up"), 0, "{}", up.story());
        up.stop_cleanly();
        bystander.assert_untouched();
    }
}

#[test]
fn sitters_end_their_trees_when_host_and_guardian_are_killed() {
    for world in in_turn(100) {
        let (mut up, anatomy, mut bystander) = begun(world);
        kill_at_once(&[anatomy.guardian, anatomy.host]);
        assert_all_end_with_the_host(&mut up);
        bystander.assert_untouched();
    }
}

/// Nothing ends the rest until the next start. With a cgroup, that ends everything. Without, it
/// ends processes with a record or the marker; those that have neither are beyond what is promised.
#[test]
fn next_start_ends_what_is_identifiable_when_host_guardian_and_sitters_are_killed() {
    for world in in_turn(100) {
        let (mut up, anatomy, mut bystander) = begun(world);
        let all = pids(&up.tag);
        let spawned = up.named("worker.spawned").next().unwrap().clone();
        let naked: Vec<i32> = all.iter().copied().filter(|pid| is_naked(*pid)).collect();
        assert_eq!(naked.len(), NAKED);
        kill_at_once(&anatomy.all());
        // The lock is released once the host has ended.
        up.end(ostler_tests::SOON);
        sweep(&up.state());
        bystander.assert_untouched();
        let left = pids(&up.tag);
        if spawned["containment"] == "cgroup" {
            assert!(left.is_empty(), "{world:?}: {left:?}");
        } else {
            assert!(
                left.iter().all(|pid| naked.contains(pid)),
                "{world:?}: {left:?} of {all:?} left"
            );
        }
        for pid in left {
            send(u32::try_from(pid).unwrap(), Signal::SIGKILL);
        }
        await_count(&up.tag, "gone", |count| count == 0);
        up.assert_nothing_left();
    }
}

/// Whether a process has an empty environment.
fn is_naked(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.is_empty())
}
