//! Entry points for `fuzz/` and the replay of its corpus: no input may cause a panic.

use crate::notify::Message;
use crate::procfile::Stat;
use crate::protocol::{Event, Hello, Order, SpecHead};
use crate::sockets::read_answer;

/// A message between host, guardian and sitters. A decoded message is encoded again and must decode
/// to the same.
///
/// # Panics
///
/// If it does not.
pub fn protocol(bytes: &[u8]) {
    if let Some(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }
    if let Some(order) = Order::decode(bytes) {
        assert_eq!(Order::decode(&order.encode()), Some(order));
    }
    if let Some(event) = Event::decode(bytes) {
        assert_eq!(Event::decode(&event.encode()), Some(event));
    }
    if let Some(head) = SpecHead::decode(bytes, bytes.len()) {
        assert_eq!(SpecHead::decode(&head.encode(), bytes.len()), Some(head));
    }
}

/// A datagram to a worker's notify socket.
pub fn notify(bytes: &[u8]) {
    let message = Message::parse(1, bytes);
    if let Some(status) = message.and_then(|message| message.status) {
        assert!(!status.contains(char::is_control), "{status:?}");
    }
}

/// A line of `/proc/PID/stat`.
pub fn proc_lines(bytes: &[u8]) {
    if let Some(stat) = Stat::parse(bytes) {
        stat.has_ended();
    }
}

/// The kernel's answer to a sock_diag request.
pub fn sock_diag(bytes: &[u8]) {
    let mut sockets = Vec::new();
    // An error is a valid outcome; only a panic is a bug.
    let is_complete = read_answer(bytes, &mut sockets);
    assert!(sockets.len() <= bytes.len(), "{is_complete:?}");
}
