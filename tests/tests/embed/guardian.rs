//! Deaths of the guardian, its sitters and the root's other parts.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use ostler::{EventKind, Ostler, Pool, Ready, StopSpec};
use ostler_tests::{SOON, send, survivors};

use super::scene::{Place, Seen, WORST, in_time, start, stop};

pub(super) async fn begun(place: &Place, workers: u32) -> (Ostler, Pool, Seen) {
    let (ostler, mut seen) = start(place).await;
    let mut spec = place.pool("p", WORST);
    (spec.workers, spec.intensity, spec.max_starting) = (workers, 0, 32);
    let pool = ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(workers as usize * 3);
    (ostler, pool, seen)
}

pub(super) fn guardian(ostler: &Ostler) -> u32 {
    ostler.guardian_pid().expect("guardian is running")
}

/// The sitters: the guardian's children.
pub(super) fn sitters(guardian: u32) -> Vec<u32> {
    procfs::process::all_processes()
        .unwrap()
        .flatten()
        .filter_map(|process| process.stat().ok())
        .filter(|stat| u32::try_from(stat.ppid) == Ok(guardian) && stat.state != 'Z')
        .map(|stat| u32::try_from(stat.pid).unwrap())
        .collect()
}

pub(super) fn alive(tag: &str) -> HashSet<i32> {
    survivors(tag).into_iter().map(|(pid, _)| pid).collect()
}

/// Waits until all workers have been replaced and none of `old` is left.
pub(super) async fn all_back(place: &Place, pool: &Pool, seen: &mut Seen, old: &HashSet<i32>) {
    seen.kind(EventKind::PoolReady).await;
    assert_eq!(in_time(pool.wait_ready()).await, Ok(()));
    assert_eq!(seen.count(EventKind::WorkerGaveUp), 0, "{}", seen.story());
    place.await_processes(pool.workers().len() * 3);
    let left: Vec<_> = alive(&place.tag).intersection(old).copied().collect();
    assert!(left.is_empty(), "left of the old trees: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_guardian_restarts_all_workers_uncounted() {
    let place = Place::new();
    let (ostler, pool, mut seen) = begun(&place, 5).await;
    for _ in 0..3 {
        let (old, lost) = (alive(&place.tag), guardian(&ostler));
        send(lost, Signal::SIGKILL);
        seen.kind(EventKind::GuardianLost).await;
        all_back(&place, &pool, &mut seen, &old).await;
        assert_ne!(guardian(&ostler), lost);
    }
    assert_eq!(seen.count(EventKind::WorkerGaveUp), 0);
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guardian_that_keeps_dying_ends_the_instance() {
    let place = Place::new();
    let (ostler, _pool, mut seen) = begun(&place, 2).await;
    for name in ["a", "b", "c", "d", "e", "f"] {
        ostler.pool_from(place.pool(name, "sleep")).start().await.unwrap();
        seen.kind(EventKind::PoolReady).await;
    }
    let ending = ostler.ended();
    tokio::pin!(ending);
    let killing = async {
        for _ in 0..20 {
            send(guardian(&ostler), Signal::SIGKILL);
            seen.kind(EventKind::GuardianLost).await;
            while ostler.guardian_pid().is_none() {
                tokio::task::yield_now().await;
            }
        }
    };
    let report = tokio::select! {
        report = &mut ending => report,
        () = killing => panic!("instance is still running"),
        () = tokio::time::sleep(SOON) => panic!("timeout"),
    };
    assert!(
        report.root_gave_up.as_ref().is_some_and(|why| why.part == "guardian"),
        "{report}"
    );
    seen.until_run_stopped().await;
    assert!(report.is_clean() && !report.is_success(), "{report}; {}", seen.story());
    seen.assert_balanced();
    assert_eq!(seen.count(EventKind::RunGaveUp), 1);
    assert_eq!(
        seen.count(EventKind::GuardianLost),
        11,
        "10 losses within a minute are allowed"
    );
    // Workers that find no guardian must not be restarted over and over while the instance goes
    // down.
    let after = seen.events.iter().rev();
    let after = after.take_while(|event| event.kind != EventKind::GuardianLost);
    let starts = after.filter(|event| event.kind == EventKind::WorkerReserved).count();
    assert!(starts <= 2 * 8, "{starts} reservations; {}", seen.story());
    place.assert_nothing_left();
}

/// The sitters of a lost guardian give the grace of `host_death` and take no requests: a kill of
/// the instance must bypass them.
#[tokio::test(flavor = "multi_thread")]
async fn kill_bypasses_the_grace_of_orphaned_sitters() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", WORST);
    spec.workers = 2;
    spec.worker.host_death = StopSpec::term(Duration::from_secs(3600));
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(2 * 3);
    send(guardian(&ostler), Signal::SIGKILL);
    seen.kind(EventKind::GuardianLost).await;
    assert_eq!(alive(&place.tag).len(), 2 * 3, "they have a grace of an hour");
    ostler.killer().kill();
    stop(&place, ostler, &mut seen).await;
}

/// The same if the leader has exited within the grace and no cgroup contains the rest, which is
/// found below its sitter.
#[tokio::test(flavor = "multi_thread")]
async fn kill_reaches_descendants_of_a_dead_leader_and_guardian() {
    let place = Place::new();
    let builder = place.builder().cgroups(false);
    let mut seen = Seen::new(builder.subscribe());
    let ostler = in_time(builder.start()).await.unwrap();
    let mut spec = place.pool("p", "notify+sleep");
    // The child ignores TERM from its start; the leader does not.
    let script = r#"trap "" TERM; "$0" sleep 0 "$3" & trap - TERM; exec "$0" "$@""#;
    let shell = ["sh", "-c", script].map(str::to_owned);
    spec.worker.command.splice(..0, shell);
    spec.worker.ready = Some(Ready::Notify);
    spec.workers = 2;
    spec.worker.host_death = StopSpec::term(Duration::from_secs(3600));
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(2 * 2);
    send(guardian(&ostler), Signal::SIGKILL);
    for _ in 0..2 {
        seen.kind(EventKind::WorkerExited).await;
    }
    assert_eq!(alive(&place.tag).len(), 2, "they have a grace of an hour");
    ostler.killer().kill();
    stop(&place, ostler, &mut seen).await;
}

/// The guardian is halted, receives a kill request, and dies before it handles it.
#[tokio::test(flavor = "multi_thread")]
async fn kill_lost_with_the_guardian_is_repeated() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", WORST);
    let hour = Duration::from_secs(3600);
    spec.worker.host_death = StopSpec::term(hour);
    spec.worker.release_timeout = hour;
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(3);
    let guardian = guardian(&ostler);
    send(guardian, Signal::SIGSTOP);
    ostler.killer().kill();
    seen.kind(EventKind::WorkerStopping).await;
    send(guardian, Signal::SIGKILL);
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guardian_and_sitters_die_together() {
    let place = Place::new();
    let (ostler, pool, mut seen) = begun(&place, 3).await;
    for how_many in [1, 3] {
        let (old, lost) = (alive(&place.tag), guardian(&ostler));
        let sitters = sitters(lost);
        assert!(sitters.len() >= 3);
        send(lost, Signal::SIGKILL);
        for sitter in sitters.into_iter().take(how_many) {
            send(sitter, Signal::SIGKILL);
        }
        seen.kind(EventKind::GuardianLost).await;
        all_back(&place, &pool, &mut seen, &old).await;
    }
    stop(&place, ostler, &mut seen).await;
}

/// The host looks for what each worker has left, through all processes: once for all workers, not
/// once for each, or the looks of many workers at once pass their time limit.
#[tokio::test(flavor = "multi_thread")]
async fn guardian_and_all_sitters_of_many_workers_die_together() {
    const WORKERS: u32 = 100;
    let place = Place::new();
    let builder = place.builder().cgroups(false);
    let mut seen = Seen::new(builder.subscribe());
    let ostler = in_time(builder.start()).await.unwrap();
    let mut spec = place.pool("p", "sleep");
    (spec.workers, spec.intensity, spec.max_starting) = (WORKERS, 0, 32);
    let pool = ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(WORKERS as usize);
    let (old, lost) = (alive(&place.tag), guardian(&ostler));
    let sitters = sitters(lost);
    assert_eq!(sitters.len(), WORKERS as usize);
    // The guardian stands still: it must not end what its sitters leave.
    send(lost, Signal::SIGSTOP);
    for sitter in sitters {
        send(sitter, Signal::SIGKILL);
    }
    send(lost, Signal::SIGKILL);
    seen.kind(EventKind::GuardianLost).await;
    seen.kind(EventKind::PoolReady).await;
    assert_eq!(in_time(pool.wait_ready()).await, Ok(()));
    place.await_processes(WORKERS as usize);
    assert!(alive(&place.tag).is_disjoint(&old), "{}", seen.story());
    // Without cgroups nothing proves more, but nothing was left unread.
    let unseen = in_time(ostler.stop())
        .await
        .expect_err("no end is proven")
        .report
        .unseen;
    assert_eq!(unseen.len(), WORKERS as usize, "{unseen:?}");
    assert!(
        !unseen.iter().any(|why| why.contains("could not be searched")),
        "{unseen:?}"
    );
    seen.until_run_stopped().await;
    assert_eq!(seen.count(EventKind::WorkerGaveUp), 0, "{}", seen.story());
    place.assert_gone(SOON);
}

/// A late kill for a worker that had lost its sitter must not hit a process created in the same
/// cgroup since.
#[tokio::test(flavor = "multi_thread")]
async fn no_process_starts_in_the_cgroup_of_a_worker_without_sitter() {
    let place = Place::new();
    let (ostler, pool, mut seen) = begun(&place, 3).await;
    let (old, lost) = (alive(&place.tag), guardian(&ostler));
    let killed = cgroups(&old);
    let sitters = sitters(lost);
    // The halted guardian does not end what its sitters leave, and they do not see it die, which
    // would make them end their trees.
    send(lost, Signal::SIGSTOP);
    for sitter in sitters {
        send(sitter, Signal::SIGKILL);
    }
    send(lost, Signal::SIGKILL);
    seen.kind(EventKind::GuardianLost).await;
    all_back(&place, &pool, &mut seen, &old).await;
    let reused: Vec<_> = cgroups(&alive(&place.tag)).intersection(&killed).cloned().collect();
    assert!(reused.is_empty(), "{reused:?}");
    stop(&place, ostler, &mut seen).await;
}

/// The cgroups of these processes; empty on a machine without cgroups.
fn cgroups(pids: &HashSet<i32>) -> HashSet<String> {
    let of = |pid: &i32| procfs::process::Process::new(*pid).ok()?.cgroups().ok();
    let groups = pids.iter().filter_map(of).flatten();
    let paths = groups
        .map(|group| group.pathname)
        .filter(|path| path.contains("/ostler-"));
    paths.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sitters_die_alone() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", WORST);
    spec.workers = 3;
    spec.limit_restarts(Some(100), None);
    let pool = ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    for how_many in [1, 3] {
        place.await_processes(9);
        let old = alive(&place.tag);
        let keeper = guardian(&ostler);
        let chosen: Vec<u32> = sitters(keeper).into_iter().take(how_many).collect();
        let trees: HashSet<i32> = old
            .iter()
            .copied()
            .filter(|pid| top(*pid, keeper).is_some_and(|sitter| chosen.contains(&sitter)))
            .collect();
        assert_eq!(trees.len(), how_many * 3);
        for sitter in &chosen {
            send(*sitter, Signal::SIGKILL);
        }
        all_back(&place, &pool, &mut seen, &trees).await;
        assert_eq!(guardian(&ostler), keeper);
        assert_eq!(alive(&place.tag).intersection(&old).count(), 9 - how_many * 3);
    }
    assert_eq!(seen.count(EventKind::GuardianLost), 0);
    stop(&place, ostler, &mut seen).await;
}

/// The ancestor of the process that is a child of the guardian; `None` if one of them has ended: a
/// daemon's parent does, once it has forked.
fn top(pid: i32, guardian: u32) -> Option<u32> {
    let mut pid = pid;
    loop {
        let parent = procfs::process::Process::new(pid).ok()?.stat().ok()?.ppid;
        if u32::try_from(parent) == Ok(guardian) {
            return u32::try_from(pid).ok();
        }
        assert!(parent > 1, "{pid} is not below the guardian");
        pid = parent;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guardian_is_killed_during_twenty_starts() {
    let mut random = fastrand::Rng::with_seed(20_261_121);
    for _ in 0..5 {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let mut spec = place.pool("p", WORST);
        (spec.workers, spec.intensity, spec.max_starting) = (20, 0, 20);
        let pool = ostler.pool_from(spec).start().await.unwrap();
        for _ in 0..random.u32(1..20) {
            seen.kind(EventKind::WorkerSpawned).await;
        }
        send(guardian(&ostler), Signal::SIGKILL);
        seen.kind(EventKind::GuardianLost).await;
        seen.kind(EventKind::PoolReady).await;
        in_time(pool.wait_ready()).await.unwrap();
        assert_eq!(seen.count(EventKind::WorkerGaveUp), 0, "{}", seen.story());
        place.await_processes(60);
        stop(&place, ostler, &mut seen).await;
    }
}

/// Cleaner, table and keeper are actors like any other: when killed they are restarted, and all
/// workers are running in the end.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_the_root_are_killed() {
    let place = Place::new();
    let (ostler, pool, mut seen) = begun(&place, 2).await;
    let before = guardian(&ostler);
    let mut parts = ostler.cell().get_children();
    parts.sort_by_key(|cell| cell.get_id().pid());
    let [cleaner, table, keeper, _pool] = parts.as_slice() else {
        panic!("{parts:?}");
    };
    cleaner.kill();
    table.kill();
    let old = alive(&place.tag);
    in_time(pool.restart_worker(0)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    assert_eq!(
        alive(&place.tag).intersection(&old).count(),
        3,
        "the processes of the other worker"
    );

    let old = alive(&place.tag);
    keeper.kill();
    seen.kind(EventKind::GuardianLost).await;
    all_back(&place, &pool, &mut seen, &old).await;
    assert_ne!(guardian(&ostler), before);
    let report = stop(&place, ostler, &mut seen).await;
    assert!(report.is_success(), "{report}");
    place.assert_gone(Duration::ZERO);
}

/// Found by chaos: the guardian is halted and resumes with a spawn request for a sitter that has
/// been killed in the meantime. This must not be counted: a second counted failure would make this
/// worker give up.
#[tokio::test(flavor = "multi_thread")]
async fn sitter_that_dies_before_its_spawn_request_is_not_counted() {
    for _ in 0..5 {
        let place = Place::new();
        let (ostler, mut seen) = start(&place).await;
        let mut spec = place.pool("p", "sleep");
        spec.intensity = 1;
        let pool = ostler.pool_from(spec).start().await.unwrap();
        seen.kind(EventKind::PoolReady).await;
        let guardian = guardian(&ostler);
        let [sitter] = sitters(guardian)[..] else {
            panic!("one worker, one sitter")
        };
        send(guardian, Signal::SIGSTOP);
        send(pool.workers()[0].pid.unwrap(), Signal::SIGKILL);
        let again = |event: &ostler::Event| event.kind == EventKind::WorkerReserved;
        seen.wait_for("the next reservation", again).await;
        send(sitter, Signal::SIGKILL);
        let deadline = std::time::Instant::now() + SOON;
        while sitters(guardian).contains(&sitter) {
            assert!(std::time::Instant::now() < deadline, "the sitter is still running");
            tokio::task::yield_now().await;
        }
        send(guardian, Signal::SIGCONT);
        seen.kind(EventKind::PoolReady).await;
        assert_eq!(in_time(pool.wait_ready()).await, Ok(()), "{}", seen.story());
        assert_eq!(seen.count(EventKind::WorkerGaveUp), 0, "{}", seen.story());
        stop(&place, ostler, &mut seen).await;
    }
}

/// Its daemon has cleared its environment, and there is no cgroup: when guardian and sitter are
/// killed together, nothing can tell whether the daemon lives. The worker is back, and the run says
/// so.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_not_proven_gone_is_never_reported_as_released() {
    let place = Place::new();
    let builder = place.builder().cgroups(false);
    let mut seen = Seen::new(builder.subscribe());
    let ostler = in_time(builder.start()).await.unwrap();
    let spec = place.pool("p", "daemon-naked+sleep");
    ostler.pool_from(spec).start().await.unwrap();
    seen.kind(EventKind::PoolReady).await;
    place.await_processes(2);
    let keeper = guardian(&ostler);
    let [sitter] = sitters(keeper)[..] else {
        panic!("one worker, one sitter")
    };
    // The guardian stands still: it must not end what the sitter leaves.
    send(keeper, Signal::SIGSTOP);
    send(sitter, Signal::SIGKILL);
    send(keeper, Signal::SIGKILL);
    let is_unseen = |event: &ostler::Event| event.facts.cause == Some(ostler::Cause::Unseen);
    let unseen = seen.wait_for("the end that nothing proves", is_unseen).await;
    assert_eq!(
        (unseen.kind, unseen.incarnation),
        (EventKind::WorkerFailed, Some(ostler::Incarnation(1)))
    );
    seen.kind(EventKind::WorkerReady).await;
    let error = in_time(ostler.stop()).await.expect_err("one end is not proven");
    assert!(error.report.unseen.join(" ").contains("p/0#1"), "{error}");
    seen.until_run_stopped().await;
    assert_eq!(seen.count(EventKind::CleanupSuccess), 0, "{}", seen.story());
    let released = seen
        .events
        .iter()
        .filter(|event| event.kind == EventKind::WorkerReleased);
    let released: Vec<_> = released.map(|event| event.incarnation).collect();
    assert_eq!(released, [Some(ostler::Incarnation(2))], "{}", seen.story());
    // Nothing but this test knows of the first daemon.
    let left = alive(&place.tag);
    assert_eq!(left.len(), 1, "{left:?}");
    left.into_iter()
        .for_each(|pid| send(pid.cast_unsigned(), Signal::SIGKILL));
    place.assert_gone(SOON);
}
