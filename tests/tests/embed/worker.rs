//! What a worker's handle does beside starting and stopping: signals, output, placeholders.

use futures_util::StreamExt;
use ostler::{Backoff, EventKind, NotSignalled, OUTPUT_BUFFER, OutputItem, PoolSpec, Port, Ready, Signal};

use super::scene::{Place, in_time, start, stop};
use ostler_tests::SOON;

fn shell(script: &str) -> PoolSpec {
    let mut spec = PoolSpec::new("p", ["sh", "-c", script]);
    spec.worker.output.log = false;
    spec.worker.ready = Some(Ready::line("^up"));
    spec
}

/// Waits for a reader of the fifo.
async fn write(fifo: std::path::PathBuf, text: &'static str) {
    let written = tokio::task::spawn_blocking(move || std::fs::write(fifo, text));
    in_time(written).await.unwrap().unwrap();
}

fn text(item: Option<OutputItem>) -> String {
    match item {
        Some(OutputItem::Line(line)) => format!("{}#{}: {}", line.stream, line.incarnation, line.text),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_worker_alone() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let script = "trap 'echo got USR1' USR1; echo up; while :; do sleep 0.01; done";
    let pool = ostler.add_pool(shell(script)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let worker = pool.worker(0).unwrap();
    let mut output = worker.output();
    assert_eq!(text(in_time(output.recv()).await), "stdout#1: up");
    worker.signal(Signal::USR1).unwrap();
    assert_eq!(text(in_time(output.recv()).await), "stdout#1: got USR1");

    // A worker that a signal ends has ended by itself: it comes back.
    worker.signal(Signal::KILL).unwrap();
    let exited = seen.kind(EventKind::WorkerExited).await;
    assert_eq!(
        exited.facts.exit.map(|exit| exit.to_string()),
        Some(ostler::ExitStatus::Signal(Signal::KILL).to_string())
    );
    assert_eq!(text(in_time(output.recv()).await), "stdout#2: up");
    in_time(pool.wait_ready()).await.unwrap();

    in_time(worker.stop()).await.unwrap();
    let refused = worker.signal(Signal::KILL).unwrap_err();
    assert!(matches!(refused, NotSignalled::NoProcess { .. }), "{refused}");
    stop(&place, ostler, &mut seen).await;
    assert!(in_time(output.recv()).await.is_none(), "it ends with its pool");
}

/// A race: a call is lost with its worker, which has ended, so the worker must be replaced. Its
/// supervisor is about to restart it, and the successor would be replaced as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_ended_is_left_to_its_supervisor() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let mut spec = place.pool("p", "sleep");
    spec.backoff = Some(Backoff::new(SOON * 100, SOON * 100));
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let worker = pool.worker(0).unwrap();
    let first = worker.incarnation().unwrap();
    worker.signal(Signal::KILL).unwrap();
    seen.kind(EventKind::WorkerRestarting).await;
    assert!(!in_time(worker.restart_if(first)).await.unwrap());
    assert_eq!(worker.incarnation(), Some(first));
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_begins_with_what_is_kept_and_goes_on_in_the_next_process() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let script = "printf 'one\\ntwo\\n\\033[1mhalf' >&2; echo up; read -r line < {fifo}; echo \" $line\" >&2; exit 3";
    let fifo = place.state().join("fifo");
    std::fs::create_dir_all(place.state()).unwrap();
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = script.replace("{fifo}", &fifo.display().to_string());
    let pool = ostler.add_pool(shell(&script)).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let worker = pool.worker(0).unwrap();
    let mut output = worker.output();
    for expected in ["stdout#1: up", "stderr#1: one", "stderr#1: two"] {
        assert_eq!(text(in_time(output.recv()).await), expected);
    }
    // For display: escaped, and with the line that is not complete.
    assert_eq!(worker.stderr_tail(2), ["two", "\\u{1b}[1mhalf"]);
    write(fifo, "whole\n").await;
    assert_eq!(text(in_time(output.recv()).await), "stderr#1: \u{1b}[1mhalf whole");
    let next: Vec<String> = in_time(output.by_ref().take(3).map(|item| text(Some(item))).collect()).await;
    assert!(next.contains(&"stderr#2: one".to_owned()), "{next:?}");
    stop(&place, ostler, &mut seen).await;
    // It is there after the end, too.
    assert_eq!(worker.stderr_tail(1), ["\\u{1b}[1mhalf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_output_learns_what_it_lost_and_slows_no_one() {
    const LINES: usize = 4 * OUTPUT_BUFFER;
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let script = format!("echo up; read -r _ < {{cwd}}/go; seq {LINES}; echo up to here; exec sleep 600");
    let script = script.replace("{cwd}", &place.state().display().to_string());
    std::fs::create_dir_all(place.state()).unwrap();
    let go = place.state().join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut spec = shell(&script);
    spec.worker.ready = Some(Ready::line("^up to here"));
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(async {
        while pool.worker(0).unwrap().pid().is_none() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let (mut slow, worker) = (pool.worker(0).unwrap().output(), pool.worker(0).unwrap());
    write(go, "\n").await;
    // It does not read, and the worker writes on.
    in_time(worker.ready()).await.unwrap();
    let (mut read, mut lost) = (0, 0);
    loop {
        match in_time(slow.recv()).await {
            Some(OutputItem::Lagged(lines)) => lost += lines,
            Some(OutputItem::Line(line)) if line.text == "up to here" => break,
            Some(OutputItem::Line(_)) => read += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0);
    // "up" is among them.
    assert_eq!(read + lost, LINES as u64 + 1);
    stop(&place, ostler, &mut seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_process_gets_its_own_values_for_placeholders() {
    let place = Place::new();
    let (ostler, mut seen) = start(&place).await;
    let directory = place.state().join("of-1");
    std::fs::create_dir_all(&directory).unwrap();
    let script = "echo \"$0 $NAME $(basename \"$PWD\")\"; echo up; exec sleep 600";
    let run = ostler.run_id();
    let mut spec = shell(script).workers(2).port(Port::Any);
    let zeroth = place.state().join("of-0");
    std::fs::create_dir_all(zeroth).unwrap();
    spec.worker.command.push("{index}.{incarnation} {port} {other}".into());
    spec = spec.env("NAME", "{run}-{index}").cwd(place.state().join("of-{index}"));
    let pool = ostler.add_pool(spec).await.unwrap();
    in_time(pool.wait_ready()).await.unwrap();
    let worker = pool.worker(1).unwrap();
    let mut output = worker.output();
    let port = worker.addr().unwrap().port();
    assert_eq!(
        text(in_time(output.recv()).await),
        format!("stdout#1: 1.1 {port} {{other}} {run}-1 of-1")
    );
    in_time(worker.restart()).await.unwrap();
    assert_eq!(text(in_time(output.recv()).await), "stdout#1: up");
    let again = text(in_time(output.recv()).await);
    assert!(again.starts_with("stdout#2: 1.2 "), "{again}");
    stop(&place, ostler, &mut seen).await;
}
