//! The worker of `ostler::testing`: a program that behaves well or badly, as its arguments say.
//!
//! Each argument is a step, `NAME` or `NAME=VALUE`. The steps run in order; then the program waits
//! to be stopped. The build script compiles this file with one call of the compiler, so it uses the
//! standard library alone.

use std::env;
use std::ffi::{c_int, c_void};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio, abort, exit};
use std::thread;
use std::time::Duration;

fn main() {
    for argument in env::args().skip(1) {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        run(name, value);
    }
    wait()
}

fn run(name: &str, value: &str) {
    match name {
        "pause" => thread::sleep(milliseconds(value)),
        "ready" => report_ready(),
        "say-out" => println!("{value}"),
        "say-err" => eprintln!("{value}"),
        "flood" => flood(number(value)),
        "ignore-term" => ignore_polite_signals(),
        "http" => serve_in_background(bind(), number(value)),
        "hold-port" => hold_port(),
        "exit" => exit(status(value)),
        "exit-after" => exit_later(value),
        "abort" => abort(),
        "check" => exit(0),
        _ => invalid(&format!("unknown step {name}")),
    }
}

fn wait() -> ! {
    loop {
        thread::park();
    }
}

/// Sends READY=1 with the `sd_notify` protocol, where the supervisor listens for it.
fn report_ready() {
    let Ok(name) = env::var("NOTIFY_SOCKET") else { return };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        invalid(&format!("READY=1 could not be sent to {name}: {error}"));
    }
}

/// Writes this many bytes to stdout, in lines of 1 KiB.
fn flood(bytes: u64) {
    let line = format!("{}\n", "x".repeat(1023));
    let mut out = std::io::stdout().lock();
    for _ in 0..bytes.div_ceil(1024) {
        if out.write_all(line.as_bytes()).is_err() {
            exit(3);
        }
    }
}

unsafe extern "C" {
    fn signal(signal: c_int, handler: *const c_void) -> *const c_void;
}

/// TERM, INT and HUP no longer end this process, nor those that it starts.
fn ignore_polite_signals() {
    const SIG_IGN: *const c_void = std::ptr::without_provenance(1);
    for number in [1, 2, 15] {
        // SAFETY: SIG_IGN is a valid disposition for these signals and no function to call.
        unsafe { signal(number, SIG_IGN) };
    }
}

fn bind() -> TcpListener {
    let port = env::var("PORT").unwrap_or_else(|_| invalid("PORT is not set: give the worker a port"));
    let port = port.parse().unwrap_or_else(|_| invalid("PORT is not a port"));
    TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| {
        eprintln!("cannot listen on port {port}: {error}");
        exit(1)
    })
}

/// Answers `healthy` requests with 200, later ones with 503. 0: 200 forever.
fn serve_in_background(listener: TcpListener, healthy: u64) {
    thread::spawn(move || {
        for (served, stream) in (1..).zip(listener.incoming().flatten()) {
            let failed = healthy > 0 && served > healthy;
            answer(stream, if failed { "503 Service Unavailable" } else { "200 OK" });
        }
    });
}

/// The body is the worker and its incarnation, such as `web/0#1`.
fn answer(mut stream: TcpStream, status: &str) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let who = env::vars().find(|(name, _)| name.starts_with("OSTLER_RUN_"));
    let body = who.map_or_else(String::new, |(_, who)| who);
    let length = body.len();
    // A client that has gone needs no answer.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

/// Serves, and leaves a child in a process group of its own that ignores TERM and has the listening
/// socket open: the port is in use until that child is killed, whatever happens to this process.
fn hold_port() {
    let listener = bind();
    let copy: OwnedFd = match listener.try_clone() {
        Ok(copy) => copy.into(),
        Err(error) => invalid(&format!("the socket could not be copied: {error}")),
    };
    let own = env::current_exe().unwrap_or_else(|error| invalid(&format!("this program has no path: {error}")));
    let mut child = Command::new(own);
    child
        .arg("ignore-term")
        .process_group(0)
        .stdin(Stdio::from(copy))
        .stdout(Stdio::null());
    if let Err(error) = child.spawn() {
        invalid(&format!("the child could not be started: {error}"));
    }
    serve_in_background(listener, 0);
}

/// `MILLISECONDS:STATUS`.
fn exit_later(value: &str) {
    let (after, status_text) = value.split_once(':').unwrap_or((value, "0"));
    let (after, status) = (milliseconds(after), status(status_text));
    thread::spawn(move || {
        thread::sleep(after);
        exit(status);
    });
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(number(text))
}

fn number(text: &str) -> u64 {
    match text {
        "" => 0,
        _ => text
            .parse()
            .unwrap_or_else(|_| invalid(&format!("{text:?} is not a number"))),
    }
}

fn status(text: &str) -> i32 {
    i32::try_from(number(text)).unwrap_or(1)
}

fn invalid(message: &str) -> ! {
    eprintln!("fake worker: {message}");
    exit(2)
}
