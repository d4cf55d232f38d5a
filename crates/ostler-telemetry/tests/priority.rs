//! The priority of telemetry's threads. Alone in its program: another test's exporter would have
//! threads that are about to get it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ostler_telemetry::otlp::{Settings, Telemetry};

/// Name and nice value (field 19 of proc_pid_stat(5)) of a thread.
fn of(task: &Path) -> Option<(String, i32)> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
}

/// The same of each thread of this process.
fn threads() -> Vec<(String, i32)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.flatten().filter_map(|task| of(&task.path())).collect()
}

/// The nice value of this thread.
fn own() -> i32 {
    of(Path::new("/proc/thread-self")).unwrap().1
}

#[test]
fn telemetrys_threads_let_others_go_first() {
    let before = own();
    let settings = Settings {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        ..Settings::default()
    };
    let telemetry = Telemetry::start(&settings).unwrap().expect("it is not disabled");
    let threads = threads();
    let its = |name: &str| name.starts_with("ostler-") || name.starts_with("OpenTelemetry");
    let its: Vec<_> = threads.iter().filter(|(name, _)| its(name)).collect();
    assert!(its.len() >= 5, "{threads:?}");
    assert!(its.iter().all(|(_, nice)| *nice == (before + 5).min(19)), "{threads:?}");
    assert_eq!(own(), before);
    telemetry.shutdown(Duration::ZERO);
}
