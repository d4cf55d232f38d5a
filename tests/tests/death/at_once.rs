//! The guardian dies; host and guardian die at once; host, guardian and sitters die at once.

use nix::sys::signal::Signal;
use ostler_tests::sweep::sweep;
use ostler_tests::world::{Anatomy, Stranger, World, await_count, kill_at_once, rounds};
use ostler_tests::{Up, pids, send};

use crate::told_when_all_are_there;

/// Two workers of five processes that ignore TERM: the worker, a child, a daemon with the marker, two without.
const MODES: &str = "ignore-term+daemon-naked+daemon-naked+daemon+child+sleep";
const WORKERS: usize = 2;
const PROCESSES: usize = 5 * WORKERS;
/// Those that bear no marker, and are no record's.
const NAKED: usize = 2 * WORKERS;

fn begun(world: World) -> (Up, Anatomy, Stranger) {
    let keys = format!("workers = {WORKERS}\nintensity = 0");
    let pool = |tag: &str| told_when_all_are_there(MODES, tag, &keys);
    let mut up = Up::start_with(pool, |command| world.apply(command));
    up.wait_for_event("pool.ready");
    await_count(&up.tag, "all there", |count| count == PROCESSES);
    let anatomy = Anatomy::of(up.pid());
    assert_eq!(anatomy.sitters.len(), WORKERS);
    let stranger = Stranger::like_a_worker("ignore-term+sleep", &up.tag);
    (up, anatomy, stranger)
}

/// Rounds in each world in turn.
fn in_turn(long: u32) -> impl Iterator<Item = World> {
    let worlds = World::all();
    let few = u32::try_from(worlds.len()).unwrap();
    worlds.into_iter().cycle().take(rounds(few, long) as usize)
}

#[test]
fn the_guardian_is_killed_and_the_workers_are_replaced() {
    for world in in_turn(100) {
        let (mut up, anatomy, mut stranger) = begun(world);
        let before = pids(&up.tag);
        send(anatomy.guardian, Signal::SIGKILL);
        up.wait_for_event("guardian.lost");
        up.wait_for_event("pool.ready");
        await_count(&up.tag, "all back", |count| count == PROCESSES);
        let after = pids(&up.tag);
        assert!(before.is_disjoint(&after), "{world:?}: {before:?} {after:?}");
        assert_eq!(up.count("worker.gave_up"), 0, "{}", up.story());
        up.stop_cleanly();
        stranger.assert_untouched();
    }
}

#[test]
fn host_and_guardian_are_killed_at_once_and_the_sitters_end_their_trees() {
    for world in in_turn(100) {
        let (mut up, anatomy, mut stranger) = begun(world);
        kill_at_once(&[anatomy.guardian, anatomy.host]);
        await_count(&up.tag, "gone", |count| count == 0);
        // The lock is free when the host has ended.
        up.end(ostler_tests::SOON);
        sweep(&up.state());
        up.assert_nothing_left();
        stranger.assert_untouched();
    }
}

/// Nobody is left who would end anything, until the next start: with a cgroup it ends everything. Without, it ends what has a
/// record or the marker; what has cut every tie it can't know, as the documentation says.
#[test]
fn host_guardian_and_sitters_are_killed_at_once_and_the_next_start_ends_what_can_be_known() {
    for world in in_turn(100) {
        let (mut up, anatomy, mut stranger) = begun(world);
        let all = pids(&up.tag);
        let spawned = up.named("worker.spawned").next().unwrap().clone();
        let naked: Vec<i32> = all.iter().copied().filter(|pid| is_naked(*pid)).collect();
        assert_eq!(naked.len(), NAKED);
        kill_at_once(&anatomy.all());
        // The lock is free when the host has ended.
        up.end(ostler_tests::SOON);
        sweep(&up.state());
        stranger.assert_untouched();
        let left = pids(&up.tag);
        if spawned["containment"] == "cgroup" {
            assert!(left.is_empty(), "{world:?}: {left:?}");
        } else {
            assert!(
                left.iter().all(|pid| naked.contains(pid)),
                "{world:?}: {left:?} of {all:?}"
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
