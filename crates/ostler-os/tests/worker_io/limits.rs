//! Limits as the kernel has them.

use std::fs::{self, File};
use std::io::Read;

use ostler_core::failure::Reason;
use ostler_os::limits::{descriptors, original_descriptors, processes, raise_descriptors, reason_of_errno};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One test: the limit and its memory are the process's.
#[test]
fn the_soft_limit_is_raised_to_the_hard_one_and_the_first_is_remembered() {
    let (_, hard) = descriptors();
    assert!(hard > 512, "this test needs room below the hard limit: {hard}");
    let lower = Rlimit {
        current: Some(512),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, lower).expect("a lower limit");
    assert_eq!((descriptors(), original_descriptors()), ((512, hard), None));
    assert_eq!(raise_descriptors().expect("a raise"), (hard, hard));
    assert_eq!(
        (descriptors(), original_descriptors()),
        ((hard, hard), Some((512, hard)))
    );
    raise_descriptors().expect("a second raise");
    assert_eq!(
        original_descriptors(),
        Some((512, hard)),
        "not what the first raise made of it"
    );
}

#[test]
fn errnos_at_a_spawn_have_reasons() {
    let of = |error: rustix::io::Errno| reason_of_errno(error.raw_os_error());
    use rustix::io::Errno;
    assert_eq!(of(Errno::AGAIN), Some(Reason::ProcessLimit));
    assert_eq!(of(Errno::NOMEM), Some(Reason::OutOfMemory));
    assert_eq!(of(Errno::MFILE), Some(Reason::DescriptorLimit));
    assert_eq!(of(Errno::NFILE), Some(Reason::DescriptorLimit));
    assert_eq!(of(Errno::TOOMANYREFS), Some(Reason::DescriptorLimit));
    assert_eq!(of(Errno::NOENT), None);
}

#[test]
fn the_limits_on_processes_are_the_kernels() {
    let limits = processes();
    assert_eq!(limits.user, getrlimit(Resource::Nproc).current);
    let mut threads = String::new();
    File::open("/proc/sys/kernel/threads-max")
        .and_then(|mut file| file.read_to_string(&mut threads))
        .expect("a limit");
    assert_eq!(limits.threads_max, threads.trim().parse().ok());
    let text = limits.to_string();
    println!("{text}");
    assert!(text.contains(&format!("system {}", threads.trim())), "{text}");
    if let Some(group) = limits.cgroup {
        let max = fs::read_to_string(group.path.join("pids.max")).expect("pids.max");
        assert_eq!(max.trim().parse().ok(), Some(group.max));
        assert!(group.current > 0);
    }
}
