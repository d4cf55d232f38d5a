//! All ways in which a host dies.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostler_tests::leftovers::TestDirectory;
use ostler_tests::scene::{limit, pool_of, python};
use ostler_tests::sweep::{sweep, without_guardians_lock};
use ostler_tests::world::{
    Anatomy, Bystander, World, assert_all_end_with_the_host, await_count, children, is_alive, kill_at_once, rounds,
};
use ostler_tests::{SOON, Up, pids, program, run_directories, survivors, tagged_directory, worker};

use crate::{KINDS, RESTLESS, pools, processes, with_ready_message};

fn every_kind(tag: &str) -> String {
    let restless = pools(&RESTLESS, 1, tag).replace("[pool.k", "[pool.r");
    format!("{}{restless}", pools(&KINDS, 1, tag))
}

/// The minimum number of processes of a run with every kind of worker.
fn all_kinds() -> usize {
    processes(&KINDS, 1) + processes(&RESTLESS, 1)
}

/// Starts a worker of every kind and waits until all their processes exist.
fn every_kind_in(world: World) -> Up {
    let mut up = Up::start_with(every_kind, |command| world.apply(command));
    for _ in KINDS.iter().chain(&RESTLESS) {
        up.wait_for_event("pool.ready");
    }
    await_count(&up.tag, "all processes", |count| count >= all_kinds());
    up
}

#[test]
fn killed_host_leaves_nothing_in_any_environment() {
    for world in World::all() {
        let mut up = every_kind_in(world);
        let mut bystander = Bystander::like_a_worker("sleep", &up.tag);
        up.signal(Signal::SIGKILL);
        assert_all_end_with_the_host(&mut up);
        bystander.assert_untouched();
    }
}

#[test]
fn stop_ends_every_kind_of_worker() {
    for world in World::all() {
        let mut up = every_kind_in(world);
        up.stop_cleanly();
    }
}

#[test]
fn events_name_the_containment_of_the_environment() {
    for world in World::all() {
        let mut up = Up::start_with(|tag| pools(&KINDS[..1], 1, tag), |command| world.apply(command));
        let spawned = up.wait_for_event("worker.spawned");
        up.wait_for_event("pool.ready");
        let containment = spawned["containment"].as_str().unwrap();
        assert!(
            world == World::AsItIs || containment == "sitter",
            "{world:?}: {spawned}"
        );
        up.stop_cleanly();
    }
}

#[test]
fn halted_host_keeps_its_workers_and_leaves_none_when_killed() {
    for world in World::all() {
        let mut up = every_kind_in(world);
        let anatomy = Anatomy::of(up.pid());
        up.signal(Signal::SIGSTOP);
        // The guardian has been scheduled, and has ended nothing.
        await_count(&up.tag, "all processes", |count| count >= all_kinds());
        assert_eq!(children(anatomy.guardian).len(), anatomy.sitters.len());
        up.signal(Signal::SIGKILL);
        assert_all_end_with_the_host(&mut up);
    }
}

/// Another process of the same user may lower the limits of guardian and sitters: ppoll(2) refuses
/// more entries than the limit on descriptors, and without ppoll they would not notice the host's
/// death.
#[test]
fn guardian_and_sitters_survive_limits_set_by_others() {
    let mut up = every_kind_in(World::AsItIs);
    for pid in &Anatomy::of(up.pid()).all()[1..] {
        limit(*pid, "--nofile=0:");
    }
    up.signal(Signal::SIGKILL);
    assert_all_end_with_the_host(&mut up);

    // With a hard limit it cannot recover: it exits and is replaced.
    let mut up = Up::start(|tag| pools(&KINDS, 1, tag).replace("workers = 1", "workers = 1\nintensity = 0"));
    for _ in KINDS {
        up.wait_for_event("pool.ready");
    }
    let guardian = Anatomy::of(up.pid()).guardian;
    limit(guardian, "--nofile=0:0");
    // It notices the limit in its next loop iteration.
    ostler_tests::send(guardian, Signal::SIGSTOP);
    ostler_tests::send(guardian, Signal::SIGCONT);
    up.wait_for_event("guardian.lost");
    for _ in KINDS {
        up.wait_for_event("pool.ready");
    }
    up.stop_cleanly();
}

/// systemd stops a unit with a TERM to all its processes at once: host, guardian, sitters and
/// workers.
#[test]
fn term_to_all_processes_is_a_clean_stop() {
    for world in World::all() {
        let mut up = every_kind_in(world);
        for pid in Anatomy::of(up.pid()).all() {
            ostler_tests::send(pid, Signal::SIGTERM);
        }
        for (pid, _) in survivors(&up.tag) {
            ostler_tests::send(u32::try_from(pid).unwrap(), Signal::SIGTERM);
        }
        let (status, stderr) = up.end(SOON);
        assert_eq!(status.code(), Some(0), "{stderr}\n{}", up.story());
        assert_eq!(up.count("cleanup.success"), 1, "{}", up.story());
        assert_eq!(up.count("guardian.lost"), 0, "{}", up.story());
        assert_eq!(up.count("worker.gave_up"), 0, "{}", up.story());
        up.assert_nothing_left();
    }
}

/// The ways in which an embedding program ends on its own.
const WAYS: [&str; 7] = [
    "abort",
    "panic",
    "panic-aborts",
    "exit-from-a-thread",
    "return",
    "exec",
    "fork",
];

/// An embedding program with a worker of every kind.
struct Host {
    child: Child,
    directory: TestDirectory,
    tag: String,
}

impl Host {
    fn start(way: &str, world: World) -> Self {
        let (directory, tag) = tagged_directory();
        let kinds: Vec<String> = KINDS
            .iter()
            .chain(&RESTLESS)
            .map(|(modes, _)| with_ready_message(modes))
            .collect();
        let file = directory.path().join("kinds");
        std::fs::write(&file, kinds.join("\n")).unwrap();
        let mut command = Command::new(program("ostler-test-host"));
        command.arg(way).arg(file).arg(&tag);
        world.apply(&mut command);
        command
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("RUNTIME_DIRECTORY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let mut host = Self { child, directory, tag };
        let mut line = String::new();
        let stdout = host.child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{way} in {world:?}");
        // The host itself has the tag too.
        await_count(&host.tag, "all processes", |count| count > all_kinds());
        host
    }

    fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn embedding_host_leaves_nothing_however_it_ends() {
    let worlds = World::all();
    // Each way in one environment, and in the long form in all of them.
    let each = rounds(1, u32::try_from(worlds.len()).unwrap()) as usize;
    for (number, way) in WAYS.into_iter().enumerate() {
        for world in worlds.iter().cycle().skip(number).take(each) {
            end_of_a_host(way, *world);
        }
    }
}

fn end_of_a_host(way: &str, world: World) {
    let mut host = Host::start(way, world);
    let anatomy = Anatomy::of(host.child.id());
    host.go();
    let copies = usize::from(way == "fork");
    await_count(&host.tag, "gone", |count| count == copies);
    let deadline = Instant::now() + SOON;
    for pid in anatomy.sitters.iter().chain([&anatomy.guardian]) {
        while is_alive(*pid) {
            assert!(
                Instant::now() < deadline,
                "{way} in {world:?}: {pid} of {anatomy:?} is still running"
            );
            std::thread::yield_now();
        }
    }
    match way {
        "exec" => assert!(is_alive(anatomy.host), "it is an unrelated program now"),
        _ => drop(host.child.wait().unwrap()),
    }
    let state = host.directory.path().join("state");
    for copy in pids(&host.tag) {
        // It still holds the lock, but no process of the run is left.
        assert!(sweep(&state).contains("1 live run left alone"), "{way} in {world:?}");
        ostler_tests::send(u32::try_from(copy).unwrap(), Signal::SIGKILL);
    }
    await_count(&host.tag, "gone", |count| count == 0);
    // A forked copy loses its command line before it releases the lock, and it is not a child of
    // the test.
    let deadline = Instant::now() + SOON;
    while sweep(&state).contains("1 live run") && Instant::now() < deadline {}
    assert_eq!(run_directories(&state), Vec::<PathBuf>::new(), "{way} in {world:?}");
}

/// On TERM it takes a while, then writes a file.
const DATABASE: &str = "import os, signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print('up', flush=True)
signal.sigwait([signal.SIGTERM])
time.sleep(0.5)
open(os.environ['CHECKPOINT'], 'w').write('done')
os._exit(0)";

/// A pool `p` of one such worker, with a grace of an hour after its host's death.
fn database(tag: &str, checkpoint: &Path) -> String {
    let keys = format!(
        "env = {{ CHECKPOINT = {:?} }}\nready = {{ line = \"up\" }}\nhost_death = {{ signal = \"TERM\", grace = \"1h\" }}",
        checkpoint.display().to_string()
    );
    pool_of(&python(DATABASE, tag), &keys)
}

/// `host_death` with TERM and a grace: workers that finish within it are left alone, others are
/// killed after it, and a start in the meantime waits for that.
#[test]
fn host_death_grace_is_honoured() {
    const GRACE: Duration = Duration::from_secs(2);
    let directory = TestDirectory::new();
    let checkpoint = directory.path().join("checkpoint");
    let mut dead = Up::start(|tag| {
        let deaf = pool_of(
            &worker("ignore-term+sleep", tag),
            "host_death = { signal = \"TERM\", grace = \"2s\" }",
        );
        format!(
            "{}{}",
            database(tag, &checkpoint),
            deaf.replace("[pool.p]", "[pool.deaf]")
        )
    });
    for _ in 0..2 {
        dead.wait_for_event("pool.ready");
    }
    let begun = Instant::now();
    dead.signal(Signal::SIGKILL);
    // The lock is released once it has ended.
    dead.end(SOON);
    let swept = sweep(&dead.state());
    let took = begun.elapsed();
    assert_eq!(std::fs::read_to_string(&checkpoint).unwrap(), "done");
    assert!(
        took >= GRACE,
        "the worker that ignores TERM has {GRACE:?}, but the sweep was done after {took:?}"
    );
    assert!(
        swept.contains("0 processes killed"),
        "the guardian ended them, not the sweep: {swept}"
    );
    dead.assert_nothing_left();
}

/// The same when the guardian is killed with the host, or has been replaced before: the sitters
/// give the grace and a sweep waits for them, although they do not belong to a guardian on record.
#[test]
fn sweep_waits_for_orphaned_sitters() {
    for replaced in [false, true] {
        let directory = TestDirectory::new();
        let checkpoint = directory.path().join("checkpoint");
        let mut dead = Up::start(|tag| database(tag, &checkpoint));
        dead.wait_for_event("pool.ready");
        let anatomy = Anatomy::of(dead.pid());
        if replaced {
            ostler_tests::send(anatomy.guardian, Signal::SIGKILL);
            dead.wait_for_event("guardian.lost");
            dead.signal(Signal::SIGKILL);
        } else {
            kill_at_once(&[anatomy.guardian, anatomy.host]);
        }
        dead.end(SOON);
        let swept = sweep(&dead.state());
        let checkpointed = std::fs::read_to_string(&checkpoint);
        assert_eq!(checkpointed.ok().as_deref(), Some("done"), "{replaced} {swept}");
        assert!(swept.contains("0 processes killed"), "the sitters ended them: {swept}");
        dead.assert_nothing_left();
    }
}

/// A run of a version without that lock: the sweep waits for the guardian on record, and keeps the
/// run no longer than that.
#[test]
fn sweep_without_the_lock_waits_for_the_guardian_on_record() {
    let directory = TestDirectory::new();
    let checkpoint = directory.path().join("checkpoint");
    let mut dead = Up::start(|tag| database(tag, &checkpoint));
    dead.wait_for_event("pool.ready");
    without_guardians_lock(&dead.state());
    dead.signal(Signal::SIGKILL);
    dead.end(SOON);
    let swept = sweep(&dead.state());
    let checkpointed = std::fs::read_to_string(&checkpoint);
    assert_eq!(checkpointed.ok().as_deref(), Some("done"), "{swept}");
    assert!(
        swept.starts_with("test: 1 dead run removed, 0 processes killed"),
        "{swept}"
    );
    dead.assert_nothing_left();
}
