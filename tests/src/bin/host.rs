//! A program that embeds Ostler and ends in a chosen way.
//!
//! `ostler-test-host WAY FILE TAG` starts a worker of each kind in the file (one kind per line),
//! with its state next to the file. It prints a line when they are ready, waits for a line on
//! stdin, and ends.

use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use ostler::{Ostler, PoolSpec, Ready};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, file, tag] = &arguments[..] else {
        eprintln!("usage: ostler-test-host WAY FILE TAG");
        return ExitCode::from(2);
    };
    let ostler = Ostler::builder("test")
        .state_dir(Path::new(file).with_file_name("state"))
        .start()
        .await
        .expect("instance starts");
    let kinds = std::fs::read_to_string(file).expect("reading the kinds of workers");
    for (number, modes) in kinds.lines().enumerate() {
        let spec = pool(&format!("k{number}"), modes, tag);
        let pool = ostler.pool_from(spec).start().await.expect("pool starts");
        // A kind that ends or gives up is ready for its test, too.
        let _ = pool.wait_ready().await;
    }
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next())
        .await
        .expect("reading a line");
    end(way);
    // The remaining ways return from main without stopping anything.
    drop(ostler);
    ExitCode::from(4)
}

/// A pool of one worker, which is ready once its descendants have been started.
fn pool(name: &str, modes: &str, tag: &str) -> PoolSpec {
    let host = std::env::current_exe().expect("path of this program");
    let worker = host.with_file_name("ostler-test-worker").display().to_string();
    let mut spec = PoolSpec::new(name, [worker.as_str(), modes, "{port}", tag]);
    spec.worker.ready = Some(Ready::Line("ready to serve".to_owned()));
    spec
}

fn end(way: &str) {
    match way {
        "abort" => std::process::abort(),
        "panic" => panic!("the host panics"),
        // As under `panic = "abort"`, which can only be set for a whole build: a panic in any
        // thread ends the process.
        "panic-aborts" => {
            std::panic::set_hook(Box::new(|_| std::process::abort()));
            let thread = std::thread::spawn(|| panic!("a thread of the host panics"));
            thread.join().expect("does not return");
        }
        "exit-from-a-thread" => {
            std::thread::spawn(|| std::process::exit(3))
                .join()
                .expect("does not return");
        }
        // Another program replaces the host: the process survives, but it is no longer a host.
        "exec" => {
            let error = Command::new("sleep").arg("3600").exec();
            panic!("sleep: {error}");
        }
        // The host ends, but a fork of it survives with all its descriptors: socket, lock, pidfds
        // and pipes.
        "fork" => {
            nix::unistd::daemon(true, true).expect("forking");
            loop {
                std::thread::park();
            }
        }
        "return" => {}
        other => panic!("unknown way {other}"),
    }
}
