//! Machine limits: each is a failed start with its step and error, and loses nothing.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ostler_os::guardian::{Guardian, GuardianEvent, GuardianOptions, LaunchError, SpawnStep};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal};

use crate::executable::install;
use crate::support::{Bench, Role, line_with, null, role, role_process, send, shell, write_script};

/// A guardian started by a line of shell in which `$0` is its program.
async fn launched_by(directory: &Path, line: &str) -> Bench {
    let plain = Bench::launch().await;
    let program = directory.join("guardian");
    install(format!("/proc/{}/exe", plain.guardian.pid()), &program, 0o755);
    plain.quit().await;
    let script = directory.join("launch");
    write_script(&script, &format!("#!/bin/bash\nset -- {}\n{line}\n", program.display()));
    fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).expect("set");
    Bench::launch_with(GuardianOptions {
        program: Some(script),
        ..GuardianOptions::default()
    })
    .await
}

async fn works(bench: &mut Bench, slot: u32, incarnation: u64) {
    bench.start(slot, incarnation, shell("exit 6")).await;
    assert_eq!(bench.gone(slot, incarnation).await.0.code(), Some(6));
}

/// Fills slot after slot until a start fails. Returns how many run, and the failure.
async fn fill(bench: &mut Bench) -> (u32, SpawnStep, i32) {
    for slot in 0..1_000 {
        bench
            .guardian
            .spawn(slot, 1, shell("exec sleep 1000"))
            .expect("queuing the request");
        match bench.next().await {
            GuardianEvent::Spawned { .. } => {}
            GuardianEvent::SpawnFailed { step, errno, .. } => return (slot, step, errno),
            other => panic!("{other:?}"),
        }
    }
    panic!("no limit was reached");
}

async fn empty(bench: &mut Bench, slots: u32) {
    for slot in 0..slots {
        bench.kill(slot, 1);
        bench.gone(slot, 1).await;
    }
}

#[tokio::test]
async fn process_limit_fails_a_start_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root, to use a user id without other processes");
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    // One for the guardian and two for each slot: an odd limit is reached by a worker, an even one
    // by a sitter.
    for (limit, user, step) in [(6, 54_321, SpawnStep::Fork), (7, 54_322, SpawnStep::SitterFork)] {
        let line = format!("exec prlimit --nproc={limit} setpriv --reuid={user} --clear-groups $1");
        let mut bench = launched_by(directory.path(), &line).await;
        let (slots, at, errno) = fill(&mut bench).await;
        assert_eq!((at, errno), (step, Errno::AGAIN.raw_os_error()), "after {slots} slots");
        empty(&mut bench, slots).await;
        works(&mut bench, 0, 2).await;
        bench.quit().await;
    }
}

#[tokio::test]
async fn guardian_without_descriptors_fails_a_start_and_nothing_else() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut bench = launched_by(directory.path(), "ulimit -n 24; exec $1").await;
    let (slots, step, errno) = fill(&mut bench).await;
    assert!(
        slots > 8 && matches!(step, SpawnStep::Receive | SpawnStep::SitterSocket),
        "{slots} {step:?}"
    );
    assert_eq!(errno, Errno::MFILE.raw_os_error());
    empty(&mut bench, slots).await;
    works(&mut bench, 0, 2).await;
    bench.quit().await;
}

#[tokio::test]
async fn child_without_descriptors_fails_its_start_and_nothing_else() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut bench = launched_by(directory.path(), "ulimit -n 13; exec $1").await;
    works(&mut bench, 0, 1).await;
    let mut spawn_request = shell("true");
    spawn_request.listen = vec![null()];
    assert_eq!(
        bench.fail(0, spawn_request).await,
        (SpawnStep::Descriptors, Errno::MFILE.raw_os_error())
    );
    let mut spawn_request = shell("true");
    spawn_request.listen = vec![null(), null(), null()];
    assert_eq!(
        bench.fail(0, spawn_request).await,
        (SpawnStep::Receive, Errno::MFILE.raw_os_error())
    );
    works(&mut bench, 0, 2).await;
    bench.quit().await;
}

/// More orders than fit in the socket.
const MANY: usize = 2_000;

/// Launches a guardian with as few descriptors as possible: either the launch says what it lacks,
/// or all orders get through, including those that had to wait.
#[tokio::test]
async fn role_few_descriptors() {
    if role().as_deref() != Some("few descriptors") {
        return;
    }
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let first_free = rustix::io::dup(std::io::stdin())
        .expect("duplicating stdin")
        .as_raw_fd() as u64;
    let limit = |soft| {
        rustix::process::setrlimit(
            Resource::Nofile,
            Rlimit {
                current: soft,
                maximum: hard,
            },
        )
    };
    let mut refused = 0;
    let (guardian, events) = loop {
        limit(Some(first_free + refused)).expect("set");
        match Guardian::launch(GuardianOptions::default()).await {
            Ok(launched) => break launched,
            Err(error) => assert!(
                matches!(error, LaunchError::Setup { .. } | LaunchError::NoProgram { .. }),
                "{error}"
            ),
        }
        refused += 1;
    };
    assert!(refused > 3, "{refused} descriptors cannot be enough");
    // None is left when the launch's own tasks first run.
    limit(Some(first_free)).expect("setting the limit");
    tokio::task::yield_now().await;
    limit(hard).expect("set");
    let mut bench = Bench { guardian, events };
    let pid = bench.guardian.pid() as i32;
    send(pid, Signal::STOP);
    for _ in 0..MANY {
        bench.guardian.close(&[0]).expect("queuing the request");
    }
    send(pid, Signal::CONT);
    for _ in 0..MANY {
        match bench.next().await {
            GuardianEvent::Closed { slot: 0 } => {}
            other => panic!("{other:?}"),
        }
    }
    bench.quit().await;
    println!("\nserved={refused}");
}

#[tokio::test]
async fn host_without_descriptors_fails_a_launch_and_never_an_order() {
    let (_role, output) = Role::start(role_process("faults::role_few_descriptors", "few descriptors"));
    line_with(output, "served=").await;
}

#[tokio::test]
async fn guardian_closes_descriptors_leaked_by_its_host() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut bench = launched_by(directory.path(), "exec 9</etc/passwd 77</etc/passwd; exec $1").await;
    let open = fs::read_dir(format!("/proc/{}/fd", bench.guardian.pid()))
        .expect("there")
        .count();
    assert_eq!(
        open,
        8 + 56,
        "four of /dev/null (one in place of a lock), orders, events, signals, the host, and the places of new sitters"
    );
    works(&mut bench, 0, 1).await;
    bench.quit().await;
}

/// The lowest SEQPACKET socket of this process: the host's end of the control socket.
fn control_socket() -> std::os::fd::OwnedFd {
    let mut descriptors: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .expect("readable")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    descriptors.sort_unstable();
    let is_seqpacket = |raw: &i32| {
        let link = std::fs::read_link(format!("/proc/self/fd/{raw}"));
        // SAFETY: the descriptor is only borrowed for this call, and nothing else in this process
        // closes sockets now.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*raw) };
        link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
            && rustix::net::sockopt::socket_type(fd) == Ok(rustix::net::SocketType::SEQPACKET)
    };
    let raw = descriptors.into_iter().find(is_seqpacket).expect("a control socket");
    // SAFETY: as above.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) }
        .try_clone_to_owned()
        .expect("copied")
}

/// Plays the host of the tests below, in a process of its own: it forks and inspects descriptors.
#[tokio::test]
async fn role_forked_copy() {
    match role().as_deref() {
        Some("copy drops") => {
            let mut bench = Bench::launch().await;
            // SAFETY: the child only drops the handle and exits, without using the runtime.
            match unsafe { nix::unistd::fork() }.expect("forked") {
                nix::unistd::ForkResult::Child => {
                    drop(bench.guardian);
                    // SAFETY: ends the child at once, without running exit handlers of the copied
                    // process.
                    unsafe { nix::libc::_exit(0) }
                }
                nix::unistd::ForkResult::Parent { child } => {
                    nix::sys::wait::waitpid(child, None).expect("reaped");
                }
            }
            works(&mut bench, 0, 1).await;
            bench.quit().await;
            println!("\nserved=yes");
        }
        Some("copy shuts down") => {
            let mut bench = Bench::launch().await;
            bench.start(0, 1, shell("sleep 1000")).await;
            rustix::net::shutdown(control_socket(), rustix::net::Shutdown::Both).expect("shut down");
            bench
                .until(|event| matches!(event, GuardianEvent::Lost { .. }).then_some(()))
                .await;
            bench
                .until(|event| matches!(event, GuardianEvent::Ended).then_some(()))
                .await;
            println!("\nlost=yes");
        }
        _ => {}
    }
}
#[tokio::test]
async fn forked_copy_of_the_host_does_not_let_go_of_the_guardian() {
    let (_role, output) = Role::start(role_process("faults::role_forked_copy", "copy drops"));
    line_with(output, "served=").await;
}

/// The guardian leaves cleanly, but nothing in the host asked it to.
#[tokio::test]
async fn guardian_that_leaves_unasked_is_lost() {
    let (_role, output) = Role::start(role_process("faults::role_forked_copy", "copy shuts down"));
    line_with(output, "lost=").await;
}
