//! A program that embeds Ostler, and ends in the way that it is told.
//!
//! `ostler-test-host WAY STATE_DIR TAG`: starts three of the worst workers, prints a line when they are ready, waits for a line
//! on stdin, and ends.

use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use ostler::{Ostler, PoolSpec};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, state_dir, tag] = &arguments[..] else {
        eprintln!("usage: ostler-test-host WAY STATE_DIR TAG");
        return ExitCode::from(2);
    };
    let ostler = Ostler::builder("test")
        .state_dir(state_dir)
        .start()
        .await
        .expect("it starts");
    let worker = std::env::current_exe()
        .expect("a path")
        .with_file_name("ostler-test-worker");
    let worker = worker.display().to_string();
    let modes = "ignore-term+daemon+daemon-naked+sleep";
    let mut spec = PoolSpec::new("p", [worker.as_str(), modes, "{port}", tag]);
    spec.workers = 3;
    let pool = ostler.pool_from(spec).start().await.expect("the pool starts");
    pool.wait_ready().await;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next())
        .await
        .expect("a line");
    end(way);
    // What is left of the ways: it returns from main, and has stopped nothing.
    drop(ostler);
    ExitCode::from(4)
}

fn end(way: &str) {
    match way {
        "abort" => std::process::abort(),
        // As under `panic = "abort"`, which is a setting of the whole build.
        "panic" => {
            std::panic::set_hook(Box::new(|_| std::process::abort()));
            panic!("the host panics");
        }
        "exit-from-a-thread" => {
            std::thread::spawn(|| std::process::exit(3))
                .join()
                .expect("it never returns");
        }
        // Another program takes the place of the host: the process lives on, and is no host any more.
        "exec" => {
            let error = Command::new("sleep").arg("3600").exec();
            panic!("sleep: {error}");
        }
        "wait" => std::thread::sleep(Duration::from_secs(3600)),
        "return" => {}
        other => panic!("no way is called {other}"),
    }
}
