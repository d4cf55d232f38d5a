//! Output is always drained, in bounded memory, and nothing waits for its end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ostler_os::output::{Capture, CaptureOptions, OnLine, pipe};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd};

use crate::common::{DEADLINE, Process, soon, until};

const MIB: u64 = 1024 * 1024;

fn shell(script: &str, stdout: OwnedFd) -> Process {
    Process::start(
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(stdout),
    )
}

fn capture(options: CaptureOptions) -> (Capture, OwnedFd) {
    let (read, write) = pipe().expect("creating a pipe");
    (Capture::start(read, options).expect("starting the capture"), write)
}

/// A hook that forwards the lines.
fn forwarding_hook() -> (Option<OnLine>, mpsc::Receiver<String>) {
    let (sender, lines) = mpsc::channel();
    (
        Some(Box::new(move |line: &str| drop(sender.send(line.to_owned())))),
        lines,
    )
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("number of kB")
        * 1024
}

#[tokio::test]
async fn half_a_gibibyte_is_drained_in_flat_memory_and_every_line_is_counted() {
    let (capture, write) = capture(CaptureOptions::default());
    let before = resident_bytes();
    let start = Instant::now();
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde";
    let child = shell(&format!("yes {line} | head -c {}", 512 * MIB), write);
    assert!(child.exit().await.success());
    capture.drain_after_exit().await;
    let (took, grown) = (start.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "512 MiB in {took:?}, {:.0} MB/s, {grown} bytes more resident",
        536.87 / took.as_secs_f64()
    );
    assert_eq!(capture.bytes(), 512 * MIB);
    let kept = capture.tail(usize::MAX);
    assert!(kept.iter().all(|kept| kept == line));
    assert_eq!(capture.dropped() + kept.len() as u64, 512 * MIB / 64);
    assert_eq!((kept.len(), capture.cut()), (1024, 0));
    assert!(grown < 16 * MIB, "{grown}");
}

#[tokio::test]
async fn endless_line_is_cut_and_blocks_nothing() {
    let (capture, write) = capture(CaptureOptions {
        ring: 8192,
        ..CaptureOptions::default()
    });
    let child = shell(
        &format!(
            "echo first; head -c {} /dev/zero | tr '\\0' x; echo; echo last",
            32 * MIB
        ),
        write,
    );
    assert!(child.exit().await.success());
    capture.drain_after_exit().await;
    let tail = capture.tail(5);
    assert_eq!(
        tail,
        ["last"],
        "the cut line fills the ring and is evicted by the next one"
    );
    assert_eq!((capture.cut(), capture.dropped()), (1, 2));
}

#[tokio::test]
async fn last_lines_are_in_the_tail_once_the_exit_is_observed() {
    for round in 0..100 {
        let (capture, write) = capture(CaptureOptions::default());
        let child = shell(&format!("echo one; echo round {round}; exit 3"), write);
        assert_eq!(child.exit().await.code(), Some(3));
        capture.drain_after_exit().await;
        assert_eq!(capture.tail(1), [format!("round {round}")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_reaches_the_hook_in_order_with_two_reading_threads() {
    let (on_line, lines) = forwarding_hook();
    let (capture, write) = capture(CaptureOptions {
        on_line,
        ..CaptureOptions::default()
    });
    let child = shell("seq 1 200000; printf end", write);
    let exit = child.exit();
    tokio::pin!(exit);
    while futures_poll(exit.as_mut()).await.is_none() {
        capture.drain_after_exit().await;
    }
    capture.close();
    let seen: Vec<String> = lines.try_iter().collect();
    assert_eq!(seen.len(), 200_001);
    assert!(
        seen[..200_000]
            .iter()
            .enumerate()
            .all(|(at, line)| *line == (at + 1).to_string())
    );
    assert_eq!(seen[200_000], "end", "an unterminated last line counts");
}

/// The future's result, if it is ready after one poll.
async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = &mut future => Some(output),
        () = tokio::task::yield_now() => None,
    }
}

#[tokio::test]
async fn pipe_held_by_a_grandchild_is_drained_without_waiting_for_its_end() {
    let (on_line, lines) = forwarding_hook();
    let (capture, write) = capture(CaptureOptions {
        on_line,
        ..CaptureOptions::default()
    });
    let mut grandchild = File::from(write.try_clone().expect("cloning the pipe"));
    assert!(shell("echo last", write).exit().await.success());
    let start = Instant::now();
    capture.drain_after_exit().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(
        (lines.try_iter().collect::<Vec<_>>(), capture.tail(9)),
        (vec!["last".into()], vec!["last".into()])
    );

    // More than a pipe holds, so it must still be drained.
    let late =
        tokio::task::spawn_blocking(move || grandchild.write_all(&b"late\n".repeat(100_000)).map(|()| grandchild));
    let mut grandchild = soon(late)
        .await
        .expect("writing thread")
        .expect("writing to a drained pipe");
    grandchild.write_all(b"unfinished").expect("room");
    capture.close();
    assert_eq!(capture.bytes(), 5 + 500_000 + 10, "the pipe must be read to the end");
    assert_eq!(lines.try_iter().last().as_deref(), Some("unfinished"));
    closes(&mut grandchild).await;
    capture.close();
    capture.drain_after_exit().await;
    assert_eq!(capture.tail(1), ["unfinished"]);
}

#[tokio::test]
async fn grandchild_that_never_stops_writing_blocks_nothing() {
    let (capture, write) = capture(CaptureOptions::default());
    let grandchild = Process::start(Command::new("yes").stdout(write));
    until(|| capture.bytes() > MIB).await;
    let start = Instant::now();
    capture.drain_after_exit().await;
    capture.close();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!grandchild.exit().await.success(), "the closed pipe must end it");
}

#[tokio::test]
async fn pipe_that_is_never_empty_does_not_starve_other_tasks() {
    let (read, write) = pipe().expect("creating a pipe");
    let mut writer = File::from(write);
    let line = [&[b'x'; 4095][..], b"\n"].concat();
    writer.write_all(&line.repeat(15)).expect("room");
    // Each line that is read is written again, so that the next read finds it. Bounded, so that the
    // test ends.
    let mut rounds = 0;
    let on_line: OnLine = Box::new(move |_| {
        rounds += 1;
        if rounds < 10_000 {
            writer.write_all(&line).expect("room");
        }
    });
    let capture = Capture::start(
        read,
        CaptureOptions {
            on_line: Some(on_line),
            ..CaptureOptions::default()
        },
    );
    let capture = capture.expect("starting the capture");
    until(|| capture.bytes() > MIB).await;
    assert!(
        capture.bytes() < 2 * MIB,
        "{} bytes before another task ran",
        capture.bytes()
    );
}

#[tokio::test]
async fn draining_ends_with_the_last_handle() {
    let (capture, write) = capture(CaptureOptions::default());
    let mut writer = File::from(write);
    let other = capture.clone();
    drop(capture);
    writer.write_all(b"hello\n").expect("pipe has a reader");
    until(|| other.bytes() == 6).await;
    drop(other);
    closes(&mut writer).await;
}

#[test]
fn draining_ends_with_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio runtime");
    let (capture, write) = {
        let _entered = runtime.enter();
        capture(CaptureOptions::default())
    };
    let mut writer = File::from(write);
    runtime.shutdown_timeout(DEADLINE);
    assert_eq!(
        writer.write(b"x").map_err(|error| error.kind()),
        Err(io::ErrorKind::BrokenPipe)
    );
    capture.close();
    assert_eq!(capture.tail(1), [""; 0]);
}

#[tokio::test]
async fn hook_sees_its_line_in_the_tail() {
    let cell = Arc::new(std::sync::OnceLock::<Capture>::new());
    let (sender, tails) = mpsc::channel();
    let seen = Arc::clone(&cell);
    let on_line: OnLine = Box::new(move |_| drop(sender.send(seen.get().map(|capture| capture.tail(1)))));
    let (capture, write) = capture(CaptureOptions {
        on_line: Some(on_line),
        ..CaptureOptions::default()
    });
    assert!(cell.set(capture.clone()).is_ok());
    File::from(write).write_all(b"ready\n").expect("pipe has a reader");
    until(|| capture.bytes() == 6).await;
    assert_eq!(tails.try_recv(), Ok(Some(vec!["ready".to_owned()])));
    capture.close();
}

#[test]
fn only_the_hosts_end_is_non_blocking_and_neither_end_is_inherited() {
    let (read, write) = pipe().expect("creating a pipe");
    assert!(fcntl_getfl(&read).expect("flags").contains(OFlags::NONBLOCK));
    assert!(!fcntl_getfl(&write).expect("flags").contains(OFlags::NONBLOCK));
    for end in [&read, &write] {
        assert!(fcntl_getfd(end).expect("flags").contains(FdFlags::CLOEXEC));
    }
}

/// Waits until the reading end of `writer` is closed.
async fn closes(writer: &mut File) {
    until(|| {
        writer
            .write(b"\n")
            .is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
    .await;
}
