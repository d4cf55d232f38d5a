//! A program that embeds Ostler, and ends in the way that it is told.
//!
//! `ostler-test-host WAY FILE TAG`: starts a worker of each kind that the file names, one a line, with its state beside the file;
//! prints a line when they are ready, waits for a line on stdin, and ends.

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
        .expect("it starts");
    let kinds = std::fs::read_to_string(file).expect("the kinds of workers");
    for (number, modes) in kinds.lines().enumerate() {
        let spec = pool(&format!("k{number}"), modes, tag);
        let pool = ostler.pool_from(spec).start().await.expect("the pool starts");
        pool.wait_ready().await;
    }
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next())
        .await
        .expect("a line");
    end(way);
    // What is left of the ways: it returns from main, and has stopped nothing.
    drop(ostler);
    ExitCode::from(4)
}

/// A worker that has said that all is there which it leaves.
fn pool(name: &str, modes: &str, tag: &str) -> PoolSpec {
    let host = std::env::current_exe().expect("a path");
    let worker = host.with_file_name("ostler-test-worker").display().to_string();
    let mut spec = PoolSpec::new(name, [worker.as_str(), modes, "{port}", tag]);
    spec.worker.ready = Some(Ready::Line("ready to serve".to_owned()));
    spec
}

fn end(way: &str) {
    match way {
        "abort" => std::process::abort(),
        "panic" => panic!("the host panics"),
        // As under `panic = "abort"`, which is a setting of the whole build: the whole host ends with any thread of it.
        "panic-aborts" => {
            std::panic::set_hook(Box::new(|_| std::process::abort()));
            let thread = std::thread::spawn(|| panic!("a thread of the host panics"));
            thread.join().expect("it never returns");
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
        // The host ends, and a copy of it lives on that holds everything it held: socket, lock, pidfds, pipes.
        "fork" => {
            nix::unistd::daemon(true, true).expect("it forks");
            loop {
                std::thread::park();
            }
        }
        "return" => {}
        other => panic!("no way is called {other}"),
    }
}
