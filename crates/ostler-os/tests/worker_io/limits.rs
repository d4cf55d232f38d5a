//! Limits as the kernel reports them.

use std::fs::{self, File};
use std::io::Read;

use ostler_os::limits::{descriptors, original_descriptors, processes, raise_descriptors, reserve_descriptors};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A single test, because the limit and its remembered first value belong to the process.
#[test]
fn soft_limit_is_raised_and_its_first_value_remembered() {
    let (_, hard) = descriptors();
    assert!(hard > 512, "this test needs room below the hard limit: {hard}");
    let lower = Rlimit {
        current: Some(512),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, lower).expect("lowering the limit");
    assert_eq!((descriptors(), original_descriptors()), ((512, hard), None));
    assert_eq!(raise_descriptors().expect("raising the limit"), (hard, hard));
    assert_eq!(
        (descriptors(), original_descriptors()),
        ((hard, hard), Some((512, hard)))
    );
    raise_descriptors().expect("raising the limit again");
    assert_eq!(
        original_descriptors(),
        Some((512, hard)),
        "the original limit, not the raised one"
    );
}

/// FDSize is the size of the table (proc_pid_status(5)).
#[test]
fn reserved_descriptors_are_in_the_table_and_not_open() {
    let size = || procfs::process::Process::myself().unwrap().status().unwrap().fdsize;
    reserve_descriptors(0).expect("nothing to do");
    let before = size();
    assert!(before < 500, "{before}");
    reserve_descriptors(500).expect("room for 500");
    assert!(size() >= 500, "{}", size());
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 100, "{open} are open");
}

#[test]
fn process_limits_match_the_kernel() {
    let limits = processes();
    assert_eq!(limits.user, getrlimit(Resource::Nproc).current);
    let mut threads = String::new();
    File::open("/proc/sys/kernel/threads-max")
        .and_then(|mut file| file.read_to_string(&mut threads))
        .expect("limit from the kernel");
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
