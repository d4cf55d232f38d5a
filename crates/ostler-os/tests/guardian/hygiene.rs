//! A worker starts as if from a plain shell: descriptors, signals, limits, session and death.

use std::collections::BTreeMap;

use ostler_os::guardian::GuardianOptions;

use crate::support::{Bench, parent, python, request, rest, shell, stat, with_output};

#[tokio::test]
async fn worker_has_only_the_standard_three_descriptors() {
    let mut bench = Bench::launch().await;
    // Fill other slots, whose sockets could leak.
    for slot in 1..4 {
        bench.start(slot, 1, shell("sleep 1000")).await;
    }
    let mut spawn_request = request("/bin/ls", &["-l", "/proc/self/fd"]);
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let text = rest(output).await;
    let open: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(l, to)| (l.rsplit(' ').next().unwrap_or(""), to))
        .collect();
    assert_eq!(
        open.keys().copied().collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "3 is the directory being listed\n{text}"
    );
    assert_eq!((open["0"], open["2"]), ("/dev/null", "/dev/null"));
    assert!(
        open["1"].starts_with("pipe:") && open["3"].starts_with("/proc/"),
        "{text}"
    );
    bench.gone(0, 1).await;
    for slot in 1..4 {
        bench.kill(slot, 1);
        bench.gone(slot, 1).await;
    }
    bench.quit().await;
}

#[tokio::test]
async fn worker_can_read_and_write_its_null_device() {
    let mut bench = Bench::launch().await;
    bench
        .start(
            0,
            1,
            python("import os; assert os.read(0, 1) == b''; os.write(0, b'x')"),
        )
        .await;
    assert!(bench.gone(0, 1).await.0.success());
    bench.quit().await;
}

#[tokio::test]
async fn signals_are_neither_blocked_nor_ignored_and_death_of_the_sitter_is_fatal() {
    let mut bench = Bench::launch().await;
    let mut spawn_request = request("/bin/cat", &["/proc/self/status"]);
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let text = rest(output).await;
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .expect(name)
            .trim()
            .to_owned()
    };
    for name in ["SigBlk:", "SigIgn:", "SigCgt:", "SigPnd:", "ShdPnd:"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    bench.gone(0, 1).await;
    bench.quit().await;
}

#[tokio::test]
async fn worker_leads_its_group_and_its_session() {
    let mut bench = Bench::launch().await;
    let worker = bench.start(0, 1, shell("sleep 1000")).await as i32;
    let fields = stat(worker);
    assert_eq!((&*fields[2], &*fields[3]), (&*worker.to_string(), &*worker.to_string()));
    let sitter = parent(worker);
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{sitter}/comm")).expect("there"),
        "ostler-sitter\n"
    );
    bench.kill(0, 1);
    bench.gone(0, 1).await;
    bench.quit().await;
}

#[tokio::test]
async fn descriptor_limits_are_those_of_the_request() {
    let mut bench = Bench::launch_with(GuardianOptions {
        worker_nofile: Some((123, 456)),
        ..GuardianOptions::default()
    })
    .await;
    let mut spawn_request = shell("ulimit -Sn; ulimit -Hn");
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    assert_eq!(rest(output).await, "123\n456\n");
    bench.gone(0, 1).await;
    bench.quit().await;

    let mut bench = Bench::launch().await;
    let mut spawn_request = shell("ulimit -Sn; ulimit -Hn");
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    assert_eq!(
        rest(output).await,
        format!("{}\n{}\n", text(own.current), text(own.maximum))
    );
    bench.gone(0, 1).await;
    bench.quit().await;
}

#[tokio::test]
async fn environment_and_directory_are_those_of_the_request() {
    let mut bench = Bench::launch().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut spawn_request = request("/usr/bin/env", &[]);
    spawn_request.env = vec![("A".into(), "1".into()), ("EMPTY".into(), "".into())];
    let output = with_output(&mut spawn_request);
    bench.start(0, 1, spawn_request).await;
    assert_eq!(rest(output).await, "A=1\nEMPTY=\n");
    bench.gone(0, 1).await;
    let mut spawn_request = request("/bin/pwd", &[]);
    spawn_request.cwd = Some(directory.path().to_owned());
    let output = with_output(&mut spawn_request);
    bench.start(0, 2, spawn_request).await;
    assert_eq!(rest(output).await.trim_end(), directory.path().to_str().expect("text"));
    bench.gone(0, 2).await;
    bench.quit().await;
}
