//! Measures what a restart through guardian and sitter costs, compared with the floor:
//! `posix_spawn` and `waitpid` of the same program.
//!
//! `cargo run --release -p ostler-os --example restart_cost [PROGRAM]`. The program (default
//! /bin/true) should exit immediately. One cycle starts it and waits until its exit and, with the
//! guardian, the end of its whole tree are reported. Rounds of both kinds take turns; medians are
//! printed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ostler_os::guardian::{EndPolicy, Events, Guardian, GuardianEvent, GuardianOptions, SpawnRequest};

const ROUNDS: usize = 5;
const CYCLES: u64 = 300;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let program = std::env::args().nth(1).unwrap_or_else(|| "/bin/true".to_owned());
    let (guardian, mut events) = Guardian::launch(GuardianOptions::default())
        .await
        .expect("the guardian starts");
    let mut incarnation = 0;
    for round in 1..=ROUNDS {
        let floor = median((0..CYCLES).map(|_| floor(&program)).collect());
        let mut cycles = Vec::new();
        for _ in 0..CYCLES {
            incarnation += 1;
            cycles.push(cycle(&guardian, &mut events, incarnation, &program).await);
        }
        let ours = median(cycles);
        let ratio = ours.as_secs_f64() / floor.as_secs_f64();
        println!("round {round}: floor {floor:?}, through guardian and sitter {ours:?}, {ratio:.2} x");
    }
    guardian.quit(Duration::from_secs(5)).await.expect("nothing is left");
}

fn floor(program: &str) -> Duration {
    let begun = Instant::now();
    let null = || Stdio::from(null());
    let mut child = Command::new(program)
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()
        .expect("it starts");
    child.wait().expect("it ends");
    begun.elapsed()
}

async fn cycle(guardian: &Guardian, events: &mut Events, incarnation: u64, program: &str) -> Duration {
    let begun = Instant::now();
    let request = SpawnRequest {
        program: program.into(),
        argv: vec![program.into()],
        env: std::env::vars_os().collect(),
        cwd: None,
        stdin: None,
        stdout: null(),
        stderr: null(),
        cgroup: None,
        listen: Vec::new(),
        host_death: EndPolicy::default(),
    };
    guardian.spawn(0, incarnation, request).expect("the order is taken");
    loop {
        match events.recv().await.expect("the guardian lives") {
            GuardianEvent::TreeGone { .. } => return begun.elapsed(),
            GuardianEvent::SpawnFailed { step, errno, .. } => panic!("{step:?}: errno {errno}"),
            _ => {}
        }
    }
}

fn null() -> OwnedFd {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .expect("/dev/null opens")
        .into()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
