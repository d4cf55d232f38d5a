//! The notify socket: which messages are accepted, and from which processes.

use std::io::{self, IoSlice, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use ostler_os::notify::{Message, NotifySocket};
use rustix::fs::{OFlags, fcntl_setfl};

use crate::common::{Process, soon, until};

fn socket() -> (tempfile::TempDir, NotifySocket) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let socket = NotifySocket::bind(dir.path(), "7-1.notify").expect("notify socket");
    (dir, socket)
}

/// Sends like a client library that only has the environment variable.
fn send(socket: &NotifySocket, text: &[u8]) {
    let address = SocketAddr::from_pathname(socket.env_value());
    let sender = UnixDatagram::unbound().expect("datagram socket");
    sender
        .send_to_addr(text, &address.expect("socket address"))
        .expect("sending a message");
}

async fn next(socket: &mut NotifySocket) -> Message {
    soon(socket.recv()).await.expect("receiving a message")
}

fn mine() -> Message {
    Message {
        sender_pid: process::id().try_into().expect("valid pid"),
        ..Message::default()
    }
}

#[tokio::test]
async fn variables_that_change_nothing_are_named() {
    let (_dir, mut socket) = socket();
    send(&socket, b"EXTEND_TIMEOUT_USEC=5000000\nMAINPID=7\nX=1\nREADY=1\n");
    let message = next(&mut socket).await;
    assert!(message.ready);
    assert_eq!(message.ignored, ["EXTEND_TIMEOUT_USEC", "MAINPID"]);
    send(&socket, b"WATCHDOG_USEC=5000000\nWATCHDOG=trigger");
    let message = next(&mut socket).await;
    assert!(!message.watchdog);
    assert_eq!(message.ignored, ["WATCHDOG_USEC", "WATCHDOG=trigger"]);
}

/// A program in C that sends the end of its string, too.
#[tokio::test]
async fn a_trailing_nul_is_no_part_of_the_message() {
    let (_dir, mut socket) = socket();
    send(&socket, b"STATUS=starting\nREADY=1\0");
    let message = next(&mut socket).await;
    assert!(message.ready);
    send(&socket, b"WATCHDOG=1\0");
    assert!(next(&mut socket).await.watchdog);
}

#[tokio::test]
async fn message_may_have_several_assignments() {
    let (_dir, mut socket) = socket();
    send(
        &socket,
        b"READY=1\nSTATUS=serving \x1b[1m2\nPORT=8080\nPORT_METRICS=9100\nWATCHDOG=1\nSTOPPING=1\n",
    );
    let message = next(&mut socket).await;
    let ports = vec![(String::new(), 8080), ("METRICS".to_owned(), 9100)];
    let status = Some("serving  [1m2".to_owned());
    assert_eq!(
        message,
        Message {
            ready: true,
            stopping: true,
            watchdog: true,
            status,
            ports,
            ..mine()
        }
    );
}

#[tokio::test]
async fn meaningless_messages_are_skipped() {
    let (_dir, mut socket) = socket();
    for nothing in [
        "",
        "READY=0",
        "READY",
        "X_MAINPID=1",
        "PORT=0",
        "PORT=70000",
        "PORT=-1",
        "PORT=",
        "PORT_=1",
        "ready=1",
    ] {
        send(&socket, nothing.as_bytes());
        send(&socket, b"STOPPING=1");
        assert_eq!(
            next(&mut socket).await,
            Message {
                stopping: true,
                ..mine()
            },
            "after {nothing:?}"
        );
    }
}

#[tokio::test]
async fn messages_up_to_4096_bytes_are_accepted() {
    let (_dir, mut socket) = socket();
    let text = |head: &str, length: usize| format!("{head}{}", "x".repeat(length - head.len()));
    send(&socket, text("READY=1\nSTATUS=", 4097).as_bytes());
    send(&socket, text("STATUS=", 4096).as_bytes());
    let message = next(&mut socket).await;
    assert_eq!(
        message,
        Message {
            status: Some("x".repeat(4096 - 7)),
            ..mine()
        }
    );
}

#[tokio::test]
async fn sender_is_the_pid_from_the_kernel() {
    let (_dir, mut socket) = socket();
    let script = "import os,socket; s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); \
        s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'READY=1\\nMAINPID=1')";
    let child = Process::start(
        Command::new("python3")
            .args(["-c", script])
            .env("NOTIFY_SOCKET", socket.env_value()),
    );
    let pid = child.pid();
    assert_eq!(
        next(&mut socket).await,
        Message {
            sender_pid: pid,
            ready: true,
            ignored: vec!["MAINPID"],
            ..Message::default()
        }
    );
    assert!(child.exit().await.success());
}

/// An abstract name could be used by every local user.
#[tokio::test]
async fn path_that_is_too_long_becomes_a_private_short_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let room = 107 - dir.path().as_os_str().len() - 1;
    let mut longest = NotifySocket::bind(dir.path(), &"n".repeat(room)).expect("notify socket");
    assert_eq!(Path::new(&longest.env_value()).parent(), Some(dir.path()));
    let deep = dir.path().join("d".repeat(room));
    let mut first = NotifySocket::bind(&deep, "0-1.notify").expect("notify socket");
    let second = NotifySocket::bind(&deep, "1-1.notify").expect("another");
    let path = PathBuf::from(first.env_value());
    let short = path.parent().expect("a directory").to_owned();
    assert_eq!(Path::new(&second.env_value()).parent(), Some(short.as_path()));
    let mode = short.metadata().expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for socket in [&mut longest, &mut first] {
        send(socket, b"READY=1");
        assert!(next(socket).await.ready);
    }
    drop((first, second));
    assert!(
        short.exists(),
        "a worker that is being started may be about to bind there"
    );
    // A dead host leaves its sockets to the sweep of its run.
    std::mem::forget(NotifySocket::bind(&deep, "2-1.notify").expect("notify socket"));
    ostler_os::socket_path::remove_leftovers(&deep).expect("removed");
    assert!(!short.exists());
}

/// Sends `READY=1` to this path as another user, and says what came of it: 0 for sent, or the
/// errno.
fn send_as(user: u32, path: &Path, text: &str) -> Option<i32> {
    let script = "import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try: s.sendto(sys.argv[2].encode(), sys.argv[1])
except OSError as error: sys.exit(error.errno)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(path).arg(text);
    command.uid(user).gid(user).current_dir("/");
    command.status().expect("running python3").code()
}

/// Runs this on a thread of its own as an unprivileged user: credentials belong to threads.
fn as_user<T: Send>(user: u32, run: impl FnOnce() -> T + Send) -> T {
    let unprivileged = || {
        // SAFETY: the call takes integers, and changes the credentials of this thread only.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) };
        assert_eq!(changed, 0, "{}", io::Error::last_os_error());
        run()
    };
    std::thread::scope(|threads| threads.spawn(unprivileged).join().expect("no panic"))
}

/// Two walls: no other user reaches the socket, and of one that does (it may have been handed the
/// directory or the socket), nothing counts. Root's messages do, and its own user's.
#[test]
fn another_user_can_not_forge_a_message() {
    const USER: u32 = 64_140;
    const OTHER: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: changing the user takes root");
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let deep = dir.path().join("d".repeat(107));
    let reach = |path: &Path, mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("its owner may");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("runtime");
    for directory in [dir.path(), &deep] {
        let entered = runtime.enter();
        let mut socket = NotifySocket::bind(directory, "0-1.notify").expect("notify socket");
        drop(entered);
        let path = PathBuf::from(socket.env_value());
        let place = path.parent().expect("a directory").to_owned();
        assert_eq!(
            send_as(OTHER, &path, "READY=1"),
            Some(libc::EACCES),
            "{}",
            place.display()
        );
        reach(&place, 0o711);
        reach(&path, 0o777);
        assert_eq!(send_as(OTHER, &path, "READY=1"), Some(0));
        assert_eq!(send_as(USER, &path, "WATCHDOG=1"), Some(0));
        send(&socket, b"STOPPING=1");
        let heard = as_user(USER, || {
            runtime.block_on(async { [next(&mut socket).await, next(&mut socket).await] })
        });
        let heard = heard.map(|message| (message.ready, message.watchdog, message.stopping));
        assert_eq!(heard, [(false, true, false), (false, false, true)]);
        reach(&place, 0o700);
    }
    ostler_os::socket_path::remove_leftovers(&deep).expect("removed");
}

#[tokio::test]
async fn path_is_exclusive_and_removed_on_drop() {
    let (dir, socket) = socket();
    let path = dir.path().join("7-1.notify");
    assert_eq!(Path::new(&socket.env_value()), path);
    let again = NotifySocket::bind(dir.path(), "7-1.notify");
    assert_eq!(
        again.map(|_| ()).map_err(|error| error.kind()),
        Err(io::ErrorKind::AddrInUse)
    );
    assert!(path.exists(), "a failed second bind must not unlink the path");
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn attached_descriptors_are_closed_and_the_message_is_accepted() {
    let (_dir, mut socket) = socket();
    let (mut read, write) = std::io::pipe().expect("creating a pipe");
    let fds = [write.as_raw_fd(); 8];
    let sender = UnixDatagram::unbound().expect("datagram socket");
    let address = UnixAddr::new(Path::new(&socket.env_value())).expect("socket address");
    let text = [IoSlice::new(b"FDSTORE=1\nREADY=1")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg(sender.as_raw_fd(), &text, &rights, MsgFlags::empty(), Some(&address)).expect("sent");
    drop(write);
    assert_eq!(next(&mut socket).await, Message { ready: true, ..mine() });
    fcntl_setfl(&read, OFlags::NONBLOCK).expect("setting O_NONBLOCK");
    until(|| read.read(&mut [0]).is_ok_and(|end| end == 0)).await;
}

#[tokio::test]
async fn cancelled_receive_loses_no_message() {
    let (_dir, mut socket) = socket();
    for round in 1..=200_u16 {
        // The receive starts before the message is sent and is cancelled while the message may be
        // in transit.
        let waited = tokio::select! {
            biased;
            message = socket.recv() => Some(message),
            () = std::future::ready(()) => None,
        };
        assert!(waited.is_none());
        send(&socket, format!("PORT={round}").as_bytes());
        let mut message = None;
        let start = std::time::Instant::now();
        while message.is_none() {
            assert!(start.elapsed() < crate::common::DEADLINE);
            message = tokio::select! {
                biased;
                message = socket.recv() => Some(message.expect("receiving a message")),
                () = tokio::task::yield_now() => None,
            };
        }
        assert_eq!(message.map(|message| message.ports), Some(vec![(String::new(), round)]));
    }
}

#[tokio::test]
async fn flood_of_meaningless_messages_hides_nothing() {
    let (dir, mut socket) = socket();
    let path = dir.path().join("7-1.notify");
    let flood = std::thread::spawn(move || {
        let sender = UnixDatagram::unbound().expect("datagram socket");
        (0..20_000).try_for_each(|_| sender.send_to(b"NOTHING=1", &path).map(drop))?;
        sender.send_to(b"READY=1", &path)
    });
    assert!(next(&mut socket).await.ready);
    flood.join().expect("flooding thread").expect("sending messages");
}
