//! Measures how long after SIGKILL of the host its last descendant is gone.
//!
//! `cargo run --release -p ostler-os --example host_death_cost [WORKERS] [plain|worst]`. `worst`
//! starts six processes per worker that ignore TERM, in groups and sessions of their own; four of
//! them are observed. The time ends when every pidfd reports the exit.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use ostler_os::guardian::{EndPolicy, Guardian, GuardianEvent, GuardianOptions, SpawnRequest};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

const WORST: &str = "trap '' TERM INT HUP; echo $$; \
    env -i setsid /bin/sh -c 'echo $$; while true; do sleep 1000; done' & \
    setsid sh -c 'setsid sleep 1000 & echo $$ $!; wait' & \
    while true; do sleep 1000; done";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let workers: u32 = args
        .next()
        .map_or(1_000, |text| text.parse().expect("a number of workers"));
    let kind = args.next().unwrap_or_else(|| "plain".to_owned());
    match args.next() {
        None => measure(workers, &kind),
        Some(_) => host(workers, &kind).await,
    }
}

fn measure(workers: u32, kind: &str) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let mut host = command
        .args([&workers.to_string(), kind, "host"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the host starts");
    let mut lines = BufReader::new(host.stdout.take().expect("its output"))
        .lines()
        .map_while(Result::ok);
    let pids: BTreeSet<i32> = lines
        .by_ref()
        .take_while(|line| line != "ready")
        .flat_map(|line| {
            line.split(' ')
                .map(|pid| pid.parse().expect("a pid"))
                .collect::<Vec<i32>>()
        })
        .collect();
    let pidfds: Vec<OwnedFd> = pids
        .iter()
        .filter_map(|pid| rustix::process::pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok())
        .collect();
    let begun = Instant::now();
    host.kill().expect("it is killed");
    for pidfd in &pidfds {
        rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).expect("polled");
    }
    println!(
        "{workers} {kind} workers, {} processes looked at: gone after {:?}",
        pidfds.len(),
        begun.elapsed()
    );
    host.wait().expect("it is reaped");
}

async fn host(workers: u32, kind: &str) {
    let (guardian, mut events) = Guardian::launch(GuardianOptions::default())
        .await
        .expect("the guardian starts");
    println!("{}", guardian.pid());
    let words = if kind == "worst" { 4 } else { 0 };
    for slot in 0..workers {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let script = if kind == "worst" { WORST } else { "exec sleep 1000" };
        let request = SpawnRequest {
            program: "/bin/sh".into(),
            argv: vec!["sh".into(), "-c".into(), script.into()],
            env: std::env::vars_os().collect(),
            cwd: None,
            stdin: None,
            stdout: writer.try_clone().expect("a copy").into(),
            stderr: writer.into(),
            cgroup: None,
            listen: Vec::new(),
            host_death: EndPolicy::default(),
        };
        guardian.spawn(slot, 1, request).expect("the order is taken");
        while !matches!(events.recv().await, Some(GuardianEvent::Spawned { worker, .. }) if print(worker.pid)) {}
        let mut read = 0;
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        while read < words {
            let line = lines.next().expect("pids of the worker");
            read += line.split(' ').count();
            println!("{line}");
        }
        std::mem::forget(lines);
    }
    println!("ready");
    std::future::pending::<()>().await;
}

fn print(pid: u32) -> bool {
    println!("{pid}");
    true
}
