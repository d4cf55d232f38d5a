//! The release check and the readiness check of ports, with real sockets and processes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use ostler_core::signal::Signal;
use ostler_os::holders::Holder;
use ostler_os::identity::Delivery;
use ostler_os::port_choice::{PortChoice, reserve};
use ostler_os::ports::{ListenerOwner, PortError, PortState, bind_listener, check, listener_in_tree};
use ostler_os::sockets::{Which, name_holders, on_port};
use ostler_os::{procfile, tree};
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::common::{
    END_OF_MAIN_THREAD, Troupe, UNPRIVILEGED, handle_of, is_root, run_unprivileged, test_attribution, until,
    until_main_thread_ended,
};

pub(crate) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A socket with the options in the table of ADR 0008.
pub(crate) struct Options {
    reuse_address: bool,
    reuse_port: bool,
    listens: bool,
}

const PLAIN: Options = Options {
    reuse_address: false,
    reuse_port: false,
    listens: true,
};
pub(crate) const REUSING: Options = Options {
    reuse_address: true,
    reuse_port: false,
    listens: true,
};

pub(crate) fn bound(address: SocketAddr, options: &Options) -> (OwnedFd, SocketAddr) {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("creating a socket");
    set_socket_reuseaddr(&fd, options.reuse_address).expect("set");
    set_socket_reuseport(&fd, options.reuse_port).expect("set");
    bind(&fd, &address).expect("bound");
    if options.listens {
        listen(&fd, 16).expect("listening");
    }
    let address = rustix::net::getsockname(&fd)
        .expect("named")
        .try_into()
        .expect("internet address");
    (fd, address)
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::new(LOCAL, port)
}

fn held(address: SocketAddr) -> Vec<Holder> {
    match check(address).expect("checked") {
        PortState::Held(holders) => holders,
        PortState::Free => panic!("{address} is held but was reported as free"),
    }
}

/// Another test's child may hold our descriptors until its exec, so tests wait for a state instead
/// of using the first answer.
pub(crate) fn until_free(address: SocketAddr) {
    until("the port is free", || {
        check(address).expect("checked") == PortState::Free
    });
}

fn is_held_by_us(address: SocketAddr, state: &str) -> bool {
    let us = std::process::id() as i32;
    held(address).iter().any(|holder| {
        matches!(holder, Holder::Port(port) if port.process.as_ref().map(|(pid, _)| *pid) == Some(us) && port.state == state)
    })
}

/// Listens, accepts one connection and closes both ends, so that the server's side is in TIME_WAIT.
fn leave_a_time_wait(options: &Options) -> SocketAddr {
    let (listener, address) = bound(local(0), options);
    let listener = TcpListener::from(listener);
    let client = TcpStream::connect(address).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    drop(server);
    drop(client);
    drop(listener);
    until("the connection is in TIME_WAIT", || {
        on_port(address.port(), Which::All)
            .expect("checking the port")
            .iter()
            .all(|socket| socket.state.as_str() == "in TIME_WAIT")
    });
    assert!(
        !on_port(address.port(), Which::All)
            .expect("checking the port")
            .is_empty(),
        "the server must close first"
    );
    address
}

#[test]
fn time_wait_of_a_listener_with_reuseaddr_is_free() {
    until_free(leave_a_time_wait(&REUSING));
}

#[test]
fn time_wait_of_a_listener_without_reuseaddr_is_held_by_the_kernel() {
    let address = leave_a_time_wait(&PLAIN);
    assert_eq!(
        held(address),
        vec![Holder::TimeWait {
            address,
            connections: 1
        }]
    );
}

#[test]
fn live_listener_is_held_by_its_process() {
    for options in [PLAIN, REUSING] {
        let (_listener, address) = bound(local(0), &options);
        until("held by this process", || is_held_by_us(address, "listening"));
    }
}

#[test]
fn live_listener_with_reuseport_is_held() {
    let (_listener, address) = bound(
        local(0),
        &Options {
            reuse_address: true,
            reuse_port: true,
            listens: true,
        },
    );
    until("held by this process", || is_held_by_us(address, "listening"));
}

/// Linux reports such sockets since 6.8. Before, they are invisible, and the worker's bind succeeds
/// next to them.
#[test]
fn bound_port_without_listener_is_held() {
    let (_bound, address) = bound(
        local(0),
        &Options {
            reuse_address: true,
            reuse_port: false,
            listens: false,
        },
    );
    if on_port(address.port(), Which::Owning)
        .expect("checking the port")
        .is_empty()
    {
        println!("skipped: this kernel does not report bound sockets");
        return;
    }
    until("held by this process", || is_held_by_us(address, "bound"));
    let (_plain, address) = bound(
        local(0),
        &Options {
            reuse_address: false,
            reuse_port: false,
            listens: false,
        },
    );
    until("held by this process", || is_held_by_us(address, "bound"));
}

#[test]
fn connection_without_its_listener_is_free() {
    let (listener, address) = bound(local(0), &REUSING);
    let listener = TcpListener::from(listener);
    let _client = TcpStream::connect(address).expect("connected");
    let (_server, _) = listener.accept().expect("accepted");
    drop(listener);
    until_free(address);
}

#[test]
fn other_loopback_addresses_are_free_and_wildcards_are_not() {
    let (_listener, address) = bound(local(0), &REUSING);
    let port = address.port();
    let other = SocketAddr::from(([127, 0, 0, 2], port));
    assert_eq!(check(other).expect("checked"), PortState::Free);
    until("held by this process", || {
        is_held_by_us(SocketAddr::from(([0, 0, 0, 0], port)), "listening")
    });
}

#[test]
fn dual_stack_listener_holds_v4_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6");
        return;
    }
    let (_listener, address) = bound("[::]:0".parse().expect("valid address"), &REUSING);
    until("held by this process", || {
        is_held_by_us(local(address.port()), "listening")
    });
    until("held by this process", || {
        is_held_by_us(
            SocketAddr::new("::1".parse().expect("valid address"), address.port()),
            "listening",
        )
    });
}

#[test]
fn v6_addresses_are_checked_and_freed() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        println!("skipped: no IPv6");
        return;
    };
    let address = listener.local_addr().expect("named");
    until("held by this process", || is_held_by_us(address, "listening"));
    drop(listener);
    until_free(address);
    let us = std::process::id() as i32;
    assert_eq!(
        listener_in_tree(address, us).expect("checking the port"),
        ListenerOwner::None
    );
}

#[test]
fn foreign_address_is_an_error() {
    let elsewhere: SocketAddr = "192.0.2.1:7001".parse().expect("valid address");
    assert!(matches!(check(elsewhere), Err(PortError::NotOurs { .. })));
}

/// The worker may be permitted what its host is not.
#[test]
fn low_port_of_an_unprivileged_user_is_free_if_no_socket_owns_it() {
    if is_root() {
        run_unprivileged("ports::low_port_of_an_unprivileged_user_is_free_if_no_socket_owns_it");
        return;
    }
    assert_eq!(check(local(1)).expect("a check"), PortState::Free);
}

const LISTENER: &str = "
import os, socket, sys, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 0)); s.listen()
print(s.getsockname()[1])
time.sleep(600)
";

/// The listener is a grandchild in its own session whose parent has exited.
const DETACHED_LISTENER: &str = "
import os, socket, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(('127.0.0.1', 0)); s.listen()
        print(s.getsockname()[1])
        time.sleep(600)
    time.sleep(600)
time.sleep(600)
";

#[test]
fn foreign_holder_is_named_with_pid_and_command_until_it_is_gone() {
    let mut troupe = Troupe::new();
    let (pid, port) = troupe.python(LISTENER);
    let address = local(port.parse().expect("port"));
    let text = held(address)[0].to_string();
    assert!(
        text.starts_with(&format!("pid {pid} (")) && text.contains("import os"),
        "{text}"
    );
    let handle = handle_of(pid);
    assert_eq!(
        handle.signal(Signal::KILL, &test_attribution()).expect("permitted"),
        Delivery::Sent
    );
    until("the port is free", || {
        check(address).expect("checked") == PortState::Free
    });
    troupe.assert_none_left();
}

#[test]
fn listener_of_a_grandchild_belongs_to_the_tree_only() {
    let mut troupe = Troupe::new();
    let (root, port) = troupe.python(DETACHED_LISTENER);
    let address = local(port.parse().expect("port"));
    let us = std::process::id() as i32;
    let ListenerOwner::Tree { pid } = listener_in_tree(address, us).expect("checking the port") else {
        panic!("the listener is below this process")
    };
    assert!(
        matches!(listener_in_tree(address, root).expect("checking the port"), ListenerOwner::Tree { pid: same } if same == pid)
    );
    let elsewhere = troupe.spawn(troupe.command("sleep", &["600"]));
    let ListenerOwner::Foreign(sockets) = listener_in_tree(address, elsewhere).expect("checking the port") else {
        panic!("the listener is foreign")
    };
    assert!(
        name_holders(&sockets)[0]
            .to_string()
            .starts_with(&format!("pid {pid} ("))
    );
    assert_eq!(
        listener_in_tree(local(1), root).expect("checking the port"),
        ListenerOwner::None
    );
}

#[test]
fn foreign_process_sharing_the_port_by_reuseport_is_reported() {
    let mut troupe = Troupe::new();
    let sharing = Options {
        reuse_address: true,
        reuse_port: true,
        listens: true,
    };
    let (_ours, address) = bound(local(0), &sharing);
    let script = LISTENER
        .replace("SO_REUSEADDR", "SO_REUSEPORT")
        .replace(", 0))", &format!(", {}))", address.port()));
    let (root, _) = troupe.python(&script);
    let is_foreign = |sitter| {
        let owner = listener_in_tree(address, sitter).expect("checking the port");
        matches!(owner, ListenerOwner::Foreign(_))
    };
    // The other socket belongs to a descendant of this process, but our own socket is in no tree
    // below it, once the children of other tests have reached their exec.
    let us = std::process::id() as i32;
    until("our own socket is in no tree", || is_foreign(us));
    until("our own socket is in no tree", || is_foreign(root));
}

#[test]
fn wildcard_listener_answers_for_loopback_unless_a_closer_one_does() {
    let mut troupe = Troupe::new();
    let (root, port) = troupe.python(&LISTENER.replace("127.0.0.1", "0.0.0.0"));
    let port: u16 = port.parse().expect("port");
    let us = std::process::id() as i32;
    for address in [local(port), SocketAddr::from(([0, 0, 0, 0], port))] {
        assert_eq!(
            listener_in_tree(address, us).expect("checking the port"),
            ListenerOwner::Tree { pid: root }
        );
    }
    // The tree of another worker holds nothing.
    assert!(matches!(
        listener_in_tree(local(port), root).expect("checking the port"),
        ListenerOwner::Foreign(_)
    ));
}

/// The start of a program that listens.
const BOUND: &str = "
import socket
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
said = s.getsockname()[1]
";

/// A worker that protects itself, like a set-uid program, hides its descriptors from an
/// unprivileged host, with a main thread and without.
#[test]
fn protected_worker_is_unreadable_and_not_foreign() {
    if is_root() {
        run_unprivileged("ports::protected_worker_is_unreadable_and_not_foreign");
        return;
    }
    let mut troupe = Troupe::new();
    let protect = "import ctypes; PR_SET_DUMPABLE = 4; ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)\n";
    let us = std::process::id() as i32;
    let mut protected = Vec::new();
    for script in [LISTENER.to_owned(), format!("{BOUND}{END_OF_MAIN_THREAD}")] {
        let (pid, port) = troupe.python(&format!("{protect}{script}"));
        protected.push(pid);
        if protected.len() == 2 {
            until_main_thread_ended(pid);
        }
        let address = local(port.parse().expect("port"));
        assert_eq!(
            listener_in_tree(address, us).expect("checking the port"),
            ListenerOwner::Unreadable {
                pids: protected.clone()
            }
        );
        let text = held(address)[0].to_string();
        assert!(text.contains(&format!("user {UNPRIVILEGED}")), "{text}");
    }
}

/// A zombie's list of descriptors is refused to an unprivileged host, too. It has none.
#[test]
fn zombie_in_the_tree_does_not_hide_a_foreign_listener() {
    if is_root() {
        run_unprivileged("ports::zombie_in_the_tree_does_not_hide_a_foreign_listener");
        return;
    }
    let mut troupe = Troupe::new();
    let (_listener, address) = bound(local(0), &PLAIN);
    // sleep does not wait for the child that the shell leaves to it.
    let parent = troupe.spawn(troupe.command("sh", &["-c", "true & exec sleep 600"]));
    let has_ended = |pid: &i32| matches!(procfile::stat(*pid), Ok(Some(stat)) if stat.has_ended());
    until("the child is a zombie", || {
        let zombies = tree::descendants(parent).expect("readable");
        zombies.len() == 1 && zombies.iter().all(has_ended)
    });
    let owner = listener_in_tree(address, parent).expect("checking the port");
    assert!(matches!(owner, ListenerOwner::Foreign(_)), "{owner:?}");
}

#[test]
fn probes_of_readiness_and_of_release_are_cheap() {
    let mut troupe = Troupe::new();
    let (_, port) = troupe.python(LISTENER);
    let address = local(port.parse().expect("port"));
    let us = std::process::id() as i32;
    let start = Instant::now();
    for _ in 0..100 {
        assert!(matches!(
            listener_in_tree(address, us).expect("checking the port"),
            ListenerOwner::Tree { .. }
        ));
    }
    let each = start.elapsed() / 100;
    println!("listener_in_tree: {each:?}");
    assert!(each.as_millis() < 50, "{each:?}");

    let reservation = reserve(LOCAL, PortChoice::Any, None, "embed/0").expect("port");
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(check(reservation.address()).expect("checked"), PortState::Free);
    }
    let each = start.elapsed() / 100;
    println!("check of a free port: {each:?}");
    assert!(each.as_millis() < 50, "{each:?}");
}

/// Regression: the descriptors of a main thread that has exited only show at the other threads; its
/// own list is empty for root, and refused to others.
#[test]
fn listener_of_a_process_whose_main_thread_has_exited_is_found() {
    if is_root() {
        run_unprivileged("ports::listener_of_a_process_whose_main_thread_has_exited_is_found");
    }
    let mut troupe = Troupe::new();
    let (pid, port) = troupe.python(&format!("{BOUND}{END_OF_MAIN_THREAD}"));
    let address = local(port.parse().expect("port"));
    until_main_thread_ended(pid);
    let us = std::process::id() as i32;
    let owner = listener_in_tree(address, us).expect("checking the port");
    assert_eq!(owner, ListenerOwner::Tree { pid });
    let text = held(address)[0].to_string();
    assert!(
        text.starts_with(&format!("pid {pid} (")) && text.contains("pthread_exit"),
        "{text}"
    );
    handle_of(pid)
        .signal(Signal::KILL, &test_attribution())
        .expect("permitted");
    troupe.assert_none_left();
}

#[test]
fn listener_for_a_worker_is_bound_or_names_the_holder() {
    let listener = bind_listener(local(0)).expect("bound");
    let address = listener.local_addr().expect("named");
    let error = bind_listener(address).expect_err("taken");
    assert!(
        error.to_string().contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
}
