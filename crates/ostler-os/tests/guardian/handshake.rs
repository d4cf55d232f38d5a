//! Launching a guardian, the handshake, and programs that are not a guardian.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ostler_core::lifecycle::LATE;
use ostler_os::guardian::{Guardian, GuardianOptions, LaunchError};

use crate::executable::install;
use crate::support::{
    Bench, DEADLINE, Role, alive, line_with, role, role_process, shell, stat, unprivileged, write_script,
};

#[tokio::test]
async fn guardian_starts_in_its_own_session_and_quits() {
    let bench = Bench::launch_with(GuardianOptions {
        label: "run-7".into(),
        ..GuardianOptions::default()
    })
    .await;
    let pid = bench.guardian.pid() as i32;
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/comm")).expect("there"),
        "ostler-guardian\n"
    );
    assert_eq!(
        fs::read(format!("/proc/{pid}/cmdline")).expect("there"),
        b"ostler-guardian\0run-7\0"
    );
    assert_eq!(stat(pid)[3], pid.to_string(), "it must lead its session");
    bench.quit().await;
}

#[tokio::test]
async fn signals_that_end_programs_do_not_end_the_guardian() {
    use rustix::process::Signal;
    let mut bench = Bench::launch().await;
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::PIPE,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
    ] {
        crate::support::send(bench.guardian.pid() as i32, signal);
    }
    bench.start(0, 1, shell("exit 0")).await;
    let (status, ..) = bench.gone(0, 1).await;
    assert!(status.success());
    bench.quit().await;
}

/// A program that speaks like a guardian of version 99.
fn of_another_version(directory: &std::path::Path) -> PathBuf {
    let path = directory.join("old-guardian");
    let script = "#!/usr/bin/env python3
import array, socket, struct
control = socket.socket(fileno=0)
data, rights, _, _ = control.recvmsg(64, socket.CMSG_SPACE(8))
events = socket.socket(fileno=array.array('i', rights[0][2][:8])[0])
events.send(struct.pack('=HHIQiiQ', 1, 0, 0x4F53544C, 0, 0, 0, 99))
control.recv(1)
";
    write_script(&path, script);
    path
}

#[tokio::test]
async fn other_version_is_refused_by_number() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = Some(of_another_version(directory.path()));
    let error = Guardian::launch(GuardianOptions {
        program,
        ..GuardianOptions::default()
    })
    .await
    .expect_err("refused");
    assert!(
        matches!(
            error,
            LaunchError::Version {
                ours: ostler_os::protocol::VERSION,
                theirs: 99
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn program_that_exits_is_not_a_guardian() {
    let program = Some("/bin/true".into());
    let error = Guardian::launch(GuardianOptions {
        program,
        ..GuardianOptions::default()
    })
    .await
    .expect_err("refused");
    assert!(
        matches!(error, LaunchError::Died { status: Some(status) } if status.success()),
        "{error}"
    );
}

#[tokio::test]
async fn program_that_does_not_answer_times_out() {
    let options = GuardianOptions {
        program: Some("/bin/cat".into()),
        handshake_timeout: Duration::from_millis(50),
        ..GuardianOptions::default()
    };
    let error = Guardian::launch(options).await.expect_err("refused");
    assert!(matches!(error, LaunchError::Timeout { .. }), "{error}");
}

/// The host was suspended, and so was the guardian, which answers soon after both run again.
#[tokio::test]
async fn a_host_that_could_not_run_waits_for_the_answer_once_more() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (path, program) = (directory.path().join("late"), directory.path().join("guardian"));
    let (begun, go) = (directory.path().join("begun"), directory.path().join("go"));
    let plain = Bench::launch().await;
    install(format!("/proc/{}/exe", plain.guardian.pid()), &program, 0o755);
    plain.quit().await;
    rustix::fs::mkfifoat(rustix::fs::CWD, &go, rustix::fs::Mode::RWXU).expect("a FIFO");
    let (start, resume) = (begun.display(), go.display());
    write_script(
        &path,
        &format!(
            "#!/bin/sh\n: > {start}\nread line < {resume}\nexec {}\n",
            program.display()
        ),
    );
    let limit = Duration::from_secs(3);
    let options = GuardianOptions {
        program: Some(path),
        handshake_timeout: limit,
        ..GuardianOptions::default()
    };
    let launch = tokio::spawn(Guardian::launch(options));
    let has_begun = async {
        while !begun.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, has_begun).await.expect("it is started");
    // The runtime stands still: this is what is tested.
    std::thread::sleep(limit * 2);
    tokio::time::sleep(LATE).await;
    // Opened for reading as well, so that it does not wait for a reader that is gone.
    let mut go = fs::File::options().read(true).write(true).open(go).expect("opened");
    std::io::Write::write_all(&mut go, b"\n").expect("room");
    let (guardian, events) = launch.await.expect("no panic").expect("it answers");
    Bench { guardian, events }.quit().await;
}

/// The program does not read its stdin, so closing it has no effect.
#[tokio::test]
async fn program_that_is_not_a_guardian_is_killed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (path, pid_file) = (directory.path().join("sleeper"), directory.path().join("pid"));
    let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 5151\n", pid_file.display());
    write_script(&path, &script);
    let mut time = Duration::from_millis(100);
    // On a busy machine the script may not have reached its first line in such a short time.
    let pid = loop {
        let options = GuardianOptions {
            program: Some(path.clone()),
            handshake_timeout: time,
            ..GuardianOptions::default()
        };
        let error = Guardian::launch(options).await.expect_err("refused");
        assert!(matches!(error, LaunchError::Timeout { .. }), "{error}");
        match fs::read_to_string(&pid_file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
        {
            Some(pid) => break pid,
            None => time *= 2,
        }
    };
    crate::support::assert_gone(pid);
}

#[tokio::test]
async fn missing_program_is_named() {
    let options = GuardianOptions {
        program: Some("/nowhere/guardian".into()),
        ..GuardianOptions::default()
    };
    let error = Guardian::launch(options).await.expect_err("refused").to_string();
    assert!(
        error.contains("/nowhere/guardian") && error.contains("OSTLER_GUARDIAN"),
        "{error}"
    );
}

/// Launches a guardian as this process's environment and system allow, prints the path of its
/// program, and runs one worker.
#[tokio::test]
async fn role_launch() {
    if role().as_deref() != Some("launch") {
        return;
    }
    let memfd = std::env::var_os("OSTLER_TEST_NO_MEMFD").is_none();
    let state_dir = std::env::var_os("OSTLER_TEST_STATE").map(PathBuf::from);
    let mut bench = match Guardian::launch(GuardianOptions {
        memfd,
        state_dir,
        ..GuardianOptions::default()
    })
    .await
    {
        Ok((guardian, events)) => Bench { guardian, events },
        Err(error) => return println!("\nrefused={error}"),
    };
    let program = fs::read_link(format!("/proc/{}/exe", bench.guardian.pid())).expect("path of the guardian's program");
    bench.start(0, 1, shell("exit 3")).await;
    assert_eq!(bench.gone(0, 1).await.0.code(), Some(3));
    bench.quit().await;
    println!("\nran={}", program.display());
}

const LAUNCH: &str = "handshake::role_launch";

#[tokio::test]
async fn program_runs_from_memory_and_leaves_nothing_on_disk() {
    let home = tempfile::tempdir().expect("temporary directory");
    let mut command = role_process(LAUNCH, "launch");
    command.env("XDG_CACHE_HOME", home.path()).env_remove("OSTLER_GUARDIAN");
    let (_role, output) = Role::start(command);
    let (program, _) = line_with(output, "ran=").await;
    assert!(program.starts_with("/memfd:ostler-guardian"), "{program}");
    assert_eq!(fs::read_dir(home.path()).expect("there").count(), 0);
}

#[tokio::test]
async fn without_memory_files_the_program_runs_from_the_cache_or_the_state_directory() {
    let home = tempfile::tempdir().expect("temporary directory");
    for (variable, below) in [
        ("XDG_CACHE_HOME", "ostler"),
        ("HOME", ".cache/ostler"),
        ("OSTLER_TEST_STATE", ""),
    ] {
        let mut command = role_process(LAUNCH, "launch");
        command
            .env("OSTLER_TEST_NO_MEMFD", "1")
            .env_remove("OSTLER_GUARDIAN")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("HOME");
        let (_role, output) = Role::start({
            command.env(variable, home.path());
            command
        });
        let (program, _) = line_with(output, "ran=").await;
        assert!(
            program.starts_with(home.path().join(below).to_str().expect("text")),
            "{variable}: {program}"
        );
    }
}

#[tokio::test]
async fn environment_variable_sets_the_program() {
    let home = tempfile::tempdir().expect("temporary directory");
    let copy = home.path().join("my-guardian");
    let bench = Bench::launch().await;
    install(format!("/proc/{}/exe", bench.guardian.pid()), &copy, 0o755);
    bench.quit().await;
    let mut command = role_process(LAUNCH, "launch");
    command.env("OSTLER_GUARDIAN", &copy);
    let (_role, output) = Role::start(command);
    assert_eq!(line_with(output, "ran=").await.0, copy.to_str().expect("UTF-8 path"));
}

/// Memory files must not be executed at all. The setting belongs to a PID namespace, so the test
/// needs one, and root.
#[tokio::test]
async fn forbidden_memory_files_make_the_program_run_from_the_cache() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: vm.memfd_noexec needs root and a PID namespace of its own");
    }
    let home = tempfile::tempdir().expect("temporary directory");
    let script = "echo 2 > /proc/sys/vm/memfd_noexec && exec \"$0\" \"$@\"";
    let role = role_process(LAUNCH, "launch");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]);
    command.arg(role.get_program()).args(role.get_args());
    command
        .env("OSTLER_TEST_ROLE", "launch")
        .env("XDG_CACHE_HOME", home.path())
        .env_remove("OSTLER_GUARDIAN");
    let (_role, output) = Role::start(command);
    let (program, _) = line_with(output, "ran=").await;
    assert!(program.starts_with(home.path().to_str().expect("text")), "{program}");
}

#[tokio::test]
async fn dropping_the_handle_ends_the_guardian_and_all_workers() {
    let mut bench = Bench::launch().await;
    let pid = bench.guardian.pid() as i32;
    let worker = bench.start(0, 1, shell("sleep 1000")).await as i32;
    assert!(alive(worker));
    drop(bench.guardian);
    bench.events.recv().await.expect("receiving the end");
    crate::support::assert_gone(worker);
    crate::support::assert_gone(pid);
}

/// A set-uid host runs with rights that the user who set its environment lacks.
#[tokio::test]
async fn set_uid_host_ignores_a_program_in_its_environment() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: making a set-uid program needs root");
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let role = role_process(LAUNCH, "launch");
    let mut command = unprivileged(&[], &role, directory.path());
    let copy = directory.path().join("test");
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("set-uid");
    // no-new-privs would disable set-uid.
    let args: Vec<_> = command
        .get_args()
        .filter(|arg| *arg != "--no-new-privs")
        .map(std::ffi::OsString::from)
        .collect();
    let envs: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = std::process::Command::new(command.get_program());
    command
        .args(args)
        .envs(envs)
        .env("OSTLER_GUARDIAN", "/nowhere/guardian")
        .current_dir("/");
    let (_role, output) = Role::start(command);
    let (program, _) = line_with(output, "ran=").await;
    assert!(program.starts_with("/memfd:ostler-guardian"), "{program}");
}
