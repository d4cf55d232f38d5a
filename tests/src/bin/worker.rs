//! The worker of the tests. Each mode is a behaviour of a real program, good or bad.
//!
//! Modes can be joined with `+`. They run in order, and the last one keeps running. The tag is
//! passed to every process that the worker starts, so that a test can count them all, even those
//! with an empty environment.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio, exit};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, setsid};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(modes) = arguments.first() else {
        eprintln!("usage: ostler-test-worker MODE[+MODE...] [PORT [TAG]]");
        return ExitCode::from(2);
    };
    let port = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let tag = arguments.get(2).map_or("", String::as_str);
    for mode in modes.split('+') {
        run(mode, port, tag);
    }
    ExitCode::SUCCESS
}

fn run(mode: &str, port: u16, tag: &str) {
    let (name, number) = mode.split_once('=').unwrap_or((mode, "0"));
    let number: u64 = number.parse().unwrap_or(0);
    match name {
        "sleep" => park(),
        "exit" => exit(i32::try_from(number).unwrap_or(1)),
        "stderr" => eprintln!("ModuleNotFoundError: No module named 'nonesuch'"),
        "pause" => std::thread::sleep(Duration::from_millis(number)),
        "burn" => burn(Duration::from_millis(number)),
        "exit-on-term" => exit_on_term(Duration::from_millis(number)),
        "report-on-term" => report_on_term(number),
        "report" => report(number),
        "ignore-term" => block_polite_signals(),
        "flood" => flood(number),
        "http" => serve(&bind(port), number),
        "http6" => serve(&bind_to("::1", port), number),
        "http-unix" => serve_on_socket(),
        "refuse" => serve_status(&bind(port), "503 Service Unavailable"),
        "metrics" => serve_metrics(),
        "tcp" => accept(&bind(port)),
        "say-out" => println!("ready to serve"),
        "say-err" => eprintln!("ready to serve"),
        "trace-parent" => println!("{} {}", set("TRACEPARENT"), set("TRACESTATE")),
        "traceback" => eprintln!("before\n{TRACEBACK}\nafter"),
        "notify" => notify("READY=1"),
        "notify-status" => notify("STATUS=warming up"),
        "notify-child" => notify_by_child(tag),
        "notify-port" => report_port(|port| notify(&format!("READY=1\nPORT={port}"))),
        "notify-anyway" => drop(try_notify("READY=1")),
        "beat" => beat(notify),
        "beat-anyway" => beat(|message| drop(try_notify(message))),
        "await-loss" => await_loss(),
        "file" => write_ready_file("ready"),
        "file-empty" => write_ready_file(""),
        "file-port" => report_port(|port| write_ready_file(&format!("{port}\n"))),
        "http-soon" => {
            std::thread::sleep(Duration::from_millis(200));
            serve(&bind(port), number);
        }
        "daemon" => leave_daemon(tag, false, Stdio::null()),
        "daemon-naked" => leave_daemon(tag, true, Stdio::null()),
        "strays" => (0..number).for_each(|_| leave_daemon(tag, false, Stdio::null())),
        "port-keeper" => keep_port_in_grandchild(port, tag),
        "child" => start("sleep", tag),
        "child-groups" => (0..2).for_each(|_| start_in_group("child+sleep", tag)),
        "child-stopped" => start("stop-self+sleep", tag),
        "child-traced" => start_traced(tag),
        "trace" => trace(number),
        "child-forker" => start("ignore-term+fork-on", tag),
        "relay" => relay(tag),
        "fork-on" => fork_on(tag),
        "stop-self" => drop(nix::sys::signal::raise(Signal::SIGSTOP)),
        "setsid" => drop(setsid()),
        // Like a set-uid program: processes of its own user can't inspect it.
        "protect" => drop(nix::sys::prctl::set_dumpable(false)),
        "sign" => sign(),
        "abort" => std::process::abort(),
        "kill-self" => drop(nix::sys::signal::kill(getpid(), Signal::SIGKILL)),
        other => {
            eprintln!("unknown mode {other}");
            exit(2);
        }
    }
}

/// The output of CPython.
const TRACEBACK: &str = "Traceback (most recent call last):
  File \"worker.py\", line 1, in <module>
    1 / 0
    ~~^~~
ZeroDivisionError: division by zero

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File \"worker.py\", line 3, in <module>
    raise ValueError(1)
ValueError: 1";

/// A variable, or an empty text if it is not set.
fn set(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Ends in order: with status 0, so long after TERM. Says so when it is prepared for it.
fn exit_on_term(time: Duration) -> ! {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().expect("blocking TERM");
    println!("ready to serve");
    term.wait().expect("waiting for TERM");
    std::thread::sleep(time);
    exit(0)
}

/// Ends in order on TERM, and reports its progress meanwhile: this many messages.
fn report_on_term(messages: u64) -> ! {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().expect("blocking TERM");
    notify("READY=1");
    term.wait().expect("waiting for TERM");
    report(messages);
    exit(0)
}

/// More messages than a socket holds unread block the sender.
fn report(messages: u64) {
    for message in 0..messages {
        notify(&format!("STATUS=step {message}"));
    }
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Uses this much CPU time, however busy the machine is.
fn burn(time: Duration) {
    let used = || {
        let time =
            nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("reading the CPU clock");
        Duration::from(time)
    };
    while used() < time {
        std::hint::spin_loop();
    }
}

/// Blocks TERM, INT and HUP, here and in children, so that they stay pending.
fn block_polite_signals() {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().expect("blocking signals");
}

fn flood(bytes: u64) {
    let chunk = vec![b'x'; 64 * 1024 - 1];
    let mut out = std::io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        if out.write_all(&chunk).is_err() || out.write_all(b"\n").is_err() {
            exit(3);
        }
        left = left.saturating_sub(64 * 1024);
    }
}

fn bind(port: u16) -> TcpListener {
    bind_to("127.0.0.1", port)
}

fn bind_to(address: &str, port: u16) -> TcpListener {
    match TcpListener::bind((address, port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on port {port}: {error}");
            exit(1);
        }
    }
}

/// Answers `lives` requests with 200 and the pid, later ones with 503. 0: answers 200 forever.
fn serve(listener: &TcpListener, lives: u64) -> ! {
    let mut served = 0;
    for stream in listener.incoming().flatten() {
        served += 1;
        let status = if lives > 0 && served > lives {
            "503 Service Unavailable"
        } else {
            "200 OK"
        };
        answer(stream, status);
    }
    exit(0)
}

/// Answers every request at its Unix socket with 200 and the pid.
fn serve_on_socket() -> ! {
    let path = variable("OSTLER_SOCKET");
    let listener = UnixListener::bind(&path).unwrap_or_else(|error| {
        eprintln!("cannot listen on {path}: {error}");
        exit(1);
    });
    for stream in listener.incoming().flatten() {
        answer(stream, "200 OK");
    }
    exit(0)
}

/// Answers every request with this status.
fn serve_status(listener: &TcpListener, status: &str) -> ! {
    for stream in listener.incoming().flatten() {
        answer(stream, status);
    }
    exit(0)
}

/// Serves the port named `metrics`, in addition to the modes that follow.
fn serve_metrics() {
    let port = variable("PORT_METRICS").parse().expect("a port");
    let listener = bind(port);
    std::thread::spawn(move || serve(&listener, 0));
}

/// Accepts every connection and sends nothing.
fn accept(listener: &TcpListener) -> ! {
    for stream in listener.incoming() {
        drop(stream);
    }
    exit(0)
}

/// Serves on a port of its own choice, after reporting it.
fn report_port(report: impl FnOnce(u16)) -> ! {
    let listener = bind(0);
    report(listener.local_addr().expect("local address").port());
    serve(&listener, 0)
}

/// Sends a message with the `sd_notify` protocol.
fn notify(message: &str) {
    try_notify(message).expect("sending the message");
}

fn try_notify(message: &str) -> io::Result<()> {
    let name = variable("NOTIFY_SOCKET");
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let socket = UnixDatagram::unbound().expect("datagram socket");
    socket
        .send_to_addr(message.as_bytes(), &address.expect("socket address"))
        .map(drop)
}

/// Starts a child that reports this worker as ready and keeps running.
fn notify_by_child(tag: &str) {
    start("notify+sleep", tag);
}

/// Sends heartbeats twice as often as required, forever.
fn beat(notify: impl Fn(&str)) -> ! {
    let interval: u64 = variable("WATCHDOG_USEC").parse().expect("microseconds");
    loop {
        notify("WATCHDOG=1");
        std::thread::sleep(Duration::from_micros(interval / 2));
    }
}

/// The first incarnation waits until the directory is gone in which it should report that it is
/// ready.
fn await_loss() {
    let path = PathBuf::from(set("NOTIFY_SOCKET") + &set("OSTLER_READY_FILE"));
    let directory = path.parent().expect("a path to report at");
    let is_first = std::env::vars().any(|(name, value)| name.starts_with("OSTLER_RUN_") && value.ends_with("#1"));
    while is_first && directory.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn write_ready_file(text: &str) {
    std::fs::write(variable("OSTLER_READY_FILE"), text).expect("writing the ready file");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        eprintln!("{name} is not set");
        exit(2);
    })
}

fn answer(mut stream: impl Read + Write, status: &str) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request);
    let body = getpid().to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Leaves a grandchild in its own session that ignores TERM and whose parent is gone. With `naked`,
/// its environment is empty.
fn leave_daemon(tag: &str, naked: bool, stdin: Stdio) {
    let mut command = Command::new("setsid");
    command
        .arg("--fork")
        .arg(own_path())
        .args(["ignore-term+sleep", "0", tag]);
    if naked {
        command.env_clear();
    }
    let status = command.stdin(stdin).status().expect("setsid(1) runs");
    assert!(status.success());
}

/// Serves, and leaves a daemon that holds the listening socket too.
fn keep_port_in_grandchild(port: u16, tag: &str) {
    let listener = bind(port);
    let copy: OwnedFd = listener.try_clone().expect("a copy of the socket").into();
    leave_daemon(tag, false, Stdio::from(copy));
    serve(&listener, 0);
}

/// Appends this worker's identity, as one line, to a file that all workers share.
fn sign() {
    let who = std::env::vars().find(|(name, _)| name.starts_with("OSTLER_RUN_"));
    let (run, worker) = who.expect("marker variable");
    let file = std::fs::OpenOptions::new().append(true).open(variable("SIGNATURES"));
    let line = format!("{run} {worker}\n");
    file.expect("opening the file")
        .write_all(line.as_bytes())
        .expect("writing the line");
}

fn start(modes: &str, tag: &str) {
    drop(itself(modes, tag).spawn().expect("child starts"));
}

/// Starts a child in a process group of its own.
fn start_in_group(modes: &str, tag: &str) {
    drop(itself(modes, tag).process_group(0).spawn().expect("child starts"));
}

/// Starts a stopped child and a sibling, in its own session, that traces it. If the child is
/// killed, it does not fully exit until its tracer has died.
fn start_traced(tag: &str) {
    let child = itself("sleep", tag).spawn().map(|child| child.id());
    let tracer = format!("setsid+trace={}+say-out+stop-self+sleep", child.expect("child starts"));
    let tracer = itself(&tracer, tag).stdout(Stdio::piped()).spawn();
    let mut output = tracer
        .map(|tracer| tracer.stdout)
        .expect("tracer starts")
        .expect("piped stdout");
    let mut byte = [0];
    output.read_exact(&mut byte).expect("child is traced");
}

/// Traces the exit of another process (PTRACE_O_TRACEEXIT): it stops before it exits.
fn trace(pid: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("valid pid"));
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT).expect("attaching to the process");
}

/// Starts short-lived children forever, four at a time, so that there is always a process being
/// created.
fn fork_on(tag: &str) -> ! {
    let mut children = std::collections::VecDeque::new();
    loop {
        // At a machine limit it continues with the children it has.
        children.extend(itself("pause=5", tag).spawn().ok());
        if children.len() >= 4 {
            drop(children.pop_front().map(|mut child| child.wait()));
        }
    }
}

/// Leaves a chain of processes, each in its own session: each starts the next one and exits, so
/// that a kill always comes too late.
fn relay(tag: &str) {
    if setsid().is_err() {
        // The worker already leads a session: a child starts the chain.
        return start("relay", tag);
    }
    std::thread::sleep(Duration::from_millis(10));
    start("relay", tag);
    exit(0);
}

fn itself(modes: &str, tag: &str) -> Command {
    let mut command = Command::new(own_path());
    command.args([modes, "0", tag]);
    command
}

fn own_path() -> PathBuf {
    std::env::current_exe().expect("path of this program")
}
