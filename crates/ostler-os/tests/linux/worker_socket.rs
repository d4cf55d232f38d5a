//! The Unix socket of a worker: its release, and whose it is.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ostler_os::worker_socket::{SocketOwner, clear, owner};
use rustix::net::sockopt::socket_peercred;

use crate::common::Troupe;

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("0.sock");
    (directory, path)
}

fn us() -> i32 {
    std::process::id() as i32
}

#[test]
fn a_path_without_a_listener_is_removed() {
    let (_directory, path) = place();
    assert_eq!(clear(&path).expect("free"), None);
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists(), "a dead server leaves it");
    assert_eq!(clear(&path).expect("free"), None);
    assert!(!path.exists());
    fs::write(&path, "no socket").expect("written");
    assert_eq!(clear(&path).expect("free"), None);
    assert!(!path.exists());
    fs::create_dir(&path).expect("made");
    assert!(clear(&path).is_err(), "a directory is not removed");
    assert!(path.exists());
}

#[test]
fn a_path_with_a_listener_stays_and_its_holder_is_named() {
    let (_directory, path) = place();
    let listener = UnixListener::bind(&path).expect("bound");
    let named = format!("pid {} (", us());
    let holder = clear(&path).expect("checked").expect("held").to_string();
    assert!(holder.contains(&named) && holder.contains("0.sock"), "{holder}");
    // A full backlog refuses connections without being free.
    let _waiting: Vec<UnixStream> = fill(&path);
    assert!(clear(&path).expect("checked").is_some() && path.exists());
    drop(listener);
    assert_eq!(clear(&path).expect("free"), None);
    let _datagrams = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
    assert!(clear(&path).expect("checked").is_some() && path.exists());
}

/// Connects until the kernel says that the backlog is full.
fn fill(path: &Path) -> Vec<UnixStream> {
    let mut streams = Vec::new();
    loop {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let family = rustix::net::AddressFamily::UNIX;
        let socket = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None).expect("a socket");
        let address = rustix::net::SocketAddrUnix::new(path).expect("an address");
        match rustix::net::connect(&socket, &address) {
            Ok(()) => streams.push(UnixStream::from(socket)),
            Err(rustix::io::Errno::AGAIN) => return streams,
            Err(error) => panic!("{error}"),
        }
    }
}

fn listener_pid(path: &Path) -> Option<i32> {
    let stream = UnixStream::connect(path).expect("it listens");
    let peer = socket_peercred(&stream).expect("its peer");
    Some(peer.pid.as_raw_nonzero().get())
}

/// Seen from a tree that it is not in, the socket is that of the process `pid`.
fn assert_foreign_to_others(troupe: &mut Troupe, path: &Path, listener: Option<i32>, pid: i32) {
    let (other, _) = troupe.python("import time; print('up'); time.sleep(600)");
    let SocketOwner::Foreign(holder) = owner(path, listener, other).expect("found") else {
        panic!("it is not below {other}");
    };
    assert!(holder.to_string().starts_with(&format!("pid {pid} (")), "{holder}");
}

#[test]
fn the_owner_is_the_tree_or_a_named_other() {
    let (_directory, path) = place();
    let mut troupe = Troupe::new();
    let script = format!(
        "
import socket, time
s = socket.socket(socket.AF_UNIX); s.bind({path:?}); s.listen(); print('up'); time.sleep(600)
"
    );
    let (pid, _) = troupe.python(&script);
    let listener = listener_pid(&path);
    assert_eq!(listener, Some(pid));
    assert_eq!(owner(&path, listener, us()).expect("found"), SocketOwner::Tree);
    assert_foreign_to_others(&mut troupe, &path, listener, pid);
    troupe.kill_all();
    troupe.assert_none_left();
}

/// A launcher listens, starts the server with the socket, and ends.
#[test]
fn the_socket_of_a_launcher_that_has_ended_is_that_of_the_server() {
    let (_directory, path) = place();
    let mut troupe = Troupe::new();
    let script = format!(
        "
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind({path:?})
if os.fork() == 0:
    s.listen(); os._exit(0)
os.wait(); print('up'); time.sleep(600)
"
    );
    let (pid, _) = troupe.python(&script);
    let listener = listener_pid(&path);
    assert_ne!(listener, Some(pid), "its child has called listen(2)");
    assert_eq!(owner(&path, listener, us()).expect("found"), SocketOwner::Tree);
    assert_foreign_to_others(&mut troupe, &path, listener, pid);
    troupe.kill_all();
    troupe.assert_none_left();
}
