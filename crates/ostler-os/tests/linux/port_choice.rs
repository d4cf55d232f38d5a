//! The choice of ports: between workers of one process, between hosts, and beside other programs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use ostler_core::signal::Signal;
use ostler_os::holders::Holder;
use ostler_os::port_choice::{PortChoice, reserve};
use ostler_os::ports::PortError;

use crate::common::{Troupe, handle_of, test_attribution, until};
use crate::ports::{LOCAL, REUSING, bound, local, until_free};

#[test]
fn workers_never_share_a_port_and_a_dropped_one_is_free_again() {
    let reservations: Vec<_> = (0..300)
        .map(|_| reserve(LOCAL, PortChoice::Any, None, "embed/0").expect("port"))
        .collect();
    let mut ports: Vec<u16> = reservations
        .iter()
        .map(|reservation| reservation.address().port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 300);
    let port = ports[0];
    let taken = reserve(LOCAL, PortChoice::Fixed(port), None, "embed/1").expect_err("the port is reserved");
    assert!(
        matches!(&taken, PortError::InUse { holders, .. } if matches!(&holders[0], Holder::Reserved { owner, .. } if owner == "embed/0")),
        "{taken}"
    );
    drop(reservations);
    reserve(LOCAL, PortChoice::Fixed(port), None, "embed/1").expect("the port is free");
}

#[test]
fn restart_reuses_its_port_unless_it_is_taken() {
    let first = reserve(LOCAL, PortChoice::Any, None, "embed/0").expect("port");
    let port = first.address().port();
    drop(first);
    let again = || reserve(LOCAL, PortChoice::Any, Some(port), "embed/0").expect("port");
    until("the port is reused", || again().address().port() == port);
    until_free(local(port));
    let _holder = TcpListener::bind(local(port)).expect("bound");
    let third = reserve(LOCAL, PortChoice::Any, Some(port), "embed/0").expect("port");
    assert_ne!(third.address().port(), port);
}

#[test]
fn fixed_port_in_use_names_its_holder() {
    let (_listener, address) = bound(local(0), &REUSING);
    let error = reserve(LOCAL, PortChoice::Fixed(address.port()), None, "embed/0").expect_err("taken");
    let text = error.to_string();
    assert!(
        text.contains(&format!("pid {}", std::process::id())) && text.contains("in use"),
        "{text}"
    );
    // The failed attempt left no reservation behind.
    drop(_listener);
    until_free(address);
    drop(reserve(LOCAL, PortChoice::Fixed(address.port()), None, "embed/0").expect("the port is free again"));
}

/// A loopback address that no other test uses, so that a range on it belongs to this test.
fn own_ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, 0, last).into()
}

#[test]
fn range_skips_used_ports_and_names_all_holders_when_exhausted() {
    let ip = own_ip(1);
    let range = PortChoice::Range {
        first: 27_100,
        last: 27_103,
    };
    let _holder = TcpListener::bind(SocketAddr::new(ip, 27_100)).expect("bound");
    let first = reserve(ip, range, None, "embed/0").expect("port");
    assert_eq!(first.address().port(), 27_101);
    let second = reserve(ip, range, Some(27_103), "embed/1").expect("port");
    assert_eq!(second.address().port(), 27_103, "the previous port comes first");
    let third = reserve(ip, range, Some(9), "embed/2").expect("port");
    assert_eq!(
        third.address().port(),
        27_102,
        "a previous port outside the range is not used"
    );
    let PortError::RangeTaken { holders, .. } =
        reserve(ip, range, None, "embed/3").expect_err("the range is exhausted")
    else {
        panic!("expected RangeTaken")
    };
    assert_eq!(holders.len(), 4);
    assert!(holders[0].to_string().contains(&format!("pid {}", std::process::id())));
    assert!(holders[1].to_string().contains("embed/0"), "{}", holders[1]);
}

/// As another Ostler host does: holds the claim on a port that it chose and whose worker has not
/// bound it yet.
#[test]
fn port_claimed_by_another_host_is_not_chosen() {
    let mut troupe = Troupe::new();
    let ip = own_ip(2);
    let script = "
import socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('\\0ostler-port-27200'); print('up'); time.sleep(600)
";
    let (pid, _) = troupe.python(script);
    let range = PortChoice::Range {
        first: 27_200,
        last: 27_201,
    };
    let reservation = reserve(ip, range, None, "embed/0").expect("port");
    assert_eq!(reservation.address().port(), 27_201);
    // Any process can bind a claim's name. If nothing else is left, the port is
    // chosen.
    let last = reserve(ip, range, None, "embed/1").expect("no socket has the port");
    assert_eq!(last.address().port(), 27_200);
    handle_of(pid)
        .signal(Signal::KILL, &test_attribution())
        .expect("permitted");
}
