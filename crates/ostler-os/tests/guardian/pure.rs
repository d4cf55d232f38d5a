//! The guardian program's pure files, compiled here: when a tree is signalled, and text parsing.

#[path = "../../guardian/life.rs"]
mod life;
#[path = "../../guardian/text.rs"]
mod text;

use life::{Do, Life, Phase, Policy, SIGKILL};
use ostler_os::protocol::Cause;

const TERM: i32 = 15;
const INT: i32 = 2;
const MS: u64 = 1_000_000;

fn running() -> Life {
    let mut life = Life::new();
    life.begin(
        7,
        Policy {
            signal: TERM,
            grace_ms: 50,
        },
    );
    life.executed();
    assert_eq!((life.phase(), life.incarnation()), (Phase::Running, 7));
    life
}

#[test]
fn own_exit_kills_the_rest_immediately() {
    let mut life = running();
    assert_eq!(life.worker_ended(0), Do::Kill(Cause::TreeKill));
    assert_eq!(life.phase(), Phase::Killing);
    life.finish();
    assert_eq!(
        (life.phase(), life.incarnation(), life.deadline()),
        (Phase::Idle, 7, None)
    );
}

#[test]
fn grace_runs_from_the_first_signal_and_is_never_extended() {
    let mut life = running();
    assert_eq!(life.end(TERM, 100, Cause::Stop, 0), Do::Signal(TERM, Cause::Stop));
    assert_eq!(life.deadline(), Some(100 * MS));
    assert_eq!(
        life.end(TERM, 500, Cause::Stop, 10 * MS),
        Do::Nothing,
        "the same signal is sent only once"
    );
    assert_eq!(life.deadline(), Some(100 * MS), "no order extends it");
    assert_eq!(life.end(INT, 20, Cause::Stop, 10 * MS), Do::Signal(INT, Cause::Stop));
    assert_eq!(life.deadline(), Some(30 * MS));
    assert_eq!(life.tick(30 * MS - 1), Do::Nothing);
    assert_eq!(life.tick(30 * MS), Do::Kill(Cause::GraceOver));
    assert_eq!(life.tick(31 * MS), Do::Nothing, "the kill is requested only once");
}

#[test]
fn group_has_the_rest_of_the_grace() {
    let mut life = running();
    life.end(TERM, 100, Cause::Stop, 0);
    assert_eq!(life.worker_ended(10 * MS), Do::Nothing);
    assert_eq!(life.phase(), Phase::Draining);
    assert_eq!(
        life.end(INT, 50, Cause::Stop, 10 * MS),
        Do::Nothing,
        "no worker to signal"
    );
    assert_eq!(life.drained(), Do::Kill(Cause::TreeKill));

    let mut life = running();
    life.end(TERM, 100, Cause::Stop, 0);
    life.worker_ended(10 * MS);
    assert_eq!(life.tick(100 * MS), Do::Kill(Cause::GraceOver));

    let mut life = running();
    life.end(TERM, 100, Cause::Stop, 0);
    assert_eq!(
        life.worker_ended(100 * MS),
        Do::Kill(Cause::TreeKill),
        "the grace ends at the deadline"
    );
}

/// A frozen cgroup or a paused container stops sitter and worker alike: the worker has not had its
/// grace.
#[test]
fn grace_that_ended_while_the_sitter_could_not_run_is_extended_once() {
    let mut life = running();
    life.end(TERM, 1_000, Cause::Stop, 0);
    assert_eq!(life.tick(4_000 * MS), Do::Nothing);
    assert_eq!(life.deadline(), Some(5_000 * MS), "by no more than its own length");
    assert_eq!(life.tick(9_000 * MS), Do::Kill(Cause::GraceOver), "only once");

    let mut life = running();
    life.end(TERM, 1_000, Cause::Stop, 0);
    assert_eq!(life.tick(1_400 * MS), Do::Nothing);
    assert_eq!(life.deadline(), Some(1_800 * MS), "by the time that was lost");

    let mut life = running();
    life.end(TERM, 1_000, Cause::Stop, 0);
    assert_eq!(
        life.tick(1_250 * MS),
        Do::Kill(Cause::GraceOver),
        "a little late is in time"
    );

    let mut life = running();
    life.end(TERM, 1_000, Cause::Stop, 0);
    assert_eq!(
        life.worker_ended(4_000 * MS),
        Do::Nothing,
        "the rest of its group has it too"
    );
    assert_eq!((life.phase(), life.deadline()), (Phase::Draining, Some(5_000 * MS)));
}

#[test]
fn kill_and_zero_grace_take_effect_immediately_in_every_state() {
    for (signal, grace_ms) in [(SIGKILL, 1000), (TERM, 0)] {
        let mut starting = Life::new();
        starting.begin(
            1,
            Policy {
                signal: SIGKILL,
                grace_ms: 0,
            },
        );
        let mut draining = running();
        draining.end(TERM, 100, Cause::Stop, 0);
        draining.worker_ended(1);
        for mut life in [starting, running(), draining] {
            assert_eq!(life.end(signal, grace_ms, Cause::Stop, 2), Do::Kill(Cause::Stop));
            assert_eq!(life.end(signal, grace_ms, Cause::Stop, 3), Do::Nothing);
            assert_eq!(life.worker_ended(4), Do::Nothing);
        }
    }
    let mut idle = Life::new();
    assert_eq!(idle.end(SIGKILL, 0, Cause::Stop, 0), Do::Nothing);
    assert_eq!(idle.master_gone(Cause::HostDeath, 0), Do::Nothing);
}

#[test]
fn orphaned_sitter_follows_its_policy_and_shortens_an_ordered_grace() {
    let mut life = running();
    assert_eq!(
        life.master_gone(Cause::HostDeath, 0),
        Do::Signal(TERM, Cause::HostDeath)
    );
    assert_eq!(life.deadline(), Some(50 * MS));
    let mut life = running();
    life.end(TERM, 60_000, Cause::Stop, 0);
    assert_eq!(life.master_gone(Cause::GuardianDeath, 0), Do::Nothing);
    assert_eq!(life.deadline(), Some(50 * MS));
}

#[test]
fn worker_that_dies_before_exec_has_exited() {
    let mut life = Life::new();
    life.begin(
        1,
        Policy {
            signal: SIGKILL,
            grace_ms: 0,
        },
    );
    life.executed();
    assert_eq!(life.worker_ended(0), Do::Kill(Cause::TreeKill));
    life.executed();
    assert_eq!(life.phase(), Phase::Killing, "a late exec result changes nothing");
}

#[test]
fn longest_grace_does_not_overflow_the_clock() {
    let mut life = running();
    life.end(TERM, u64::MAX, Cause::Stop, u64::MAX - 5);
    assert_eq!(life.deadline(), Some(u64::MAX));
}

#[test]
fn start_time_is_parsed_after_any_name() {
    let fields = "S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10";
    for name in ["sh", "a b", "a) S 1 2", ") ) )", ""] {
        let stat = format!("42 ({name}) {fields}");
        assert_eq!(text::start_time(stat.as_bytes()), Some(987_654), "{name:?}");
    }
    for broken in [
        "",
        "42 (sh",
        "42 (sh)",
        "42 (sh) S 1",
        "42 (sh) S 1 42 42 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 12x 0",
    ] {
        assert_eq!(text::start_time(broken.as_bytes()), None, "{broken:?}");
    }
}

#[test]
fn only_integers_are_pids() {
    assert_eq!(text::pid_of(b"4194304"), Some(4_194_304));
    for other in [&b""[..], b"self", b"1a", b"-1", b"1234567890", b" 1"] {
        assert_eq!(text::pid_of(other), None);
    }
}

#[test]
fn decimals_are_written_completely_or_not_at_all() {
    let mut room = [b'#'; 4];
    assert_eq!((text::write_decimal(1234, &mut room), &room), (4, b"1234"));
    assert_eq!((text::write_decimal(0, &mut room), &room), (1, b"0234"));
    assert_eq!((text::write_decimal(12345, &mut room), &room), (0, b"0234"));
}

#[test]
fn cgroup_populated_is_parsed() {
    assert_eq!(text::populated(b"populated 0\nfrozen 0\n"), Some(false));
    assert_eq!(text::populated(b"frozen 0\npopulated 1\n"), Some(true));
    assert_eq!(text::populated(b"frozen 0\n"), None);
    assert_eq!(text::populated(b"populated 10\n"), None);
}
