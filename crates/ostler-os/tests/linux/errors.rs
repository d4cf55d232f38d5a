//! Public errors: each has its source, and a text of its own.

use std::error::Error;
use std::io;

use ostler_core::chain::{chain, repeats_its_source};
use ostler_os::cgroup::Unusable;
use ostler_os::guardian::{LaunchError, OrderError, QuitError};
use ostler_os::identity::{self, NoOwnIdentity, SignalError};
use ostler_os::ports::PortError;

fn denied() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

#[test]
fn no_text_repeats_its_source() {
    let setup = LaunchError::Setup {
        what: "making a socket",
        source: denied(),
    };
    assert_eq!(
        chain(&setup),
        "the guardian can't be launched: making a socket: permission denied"
    );
    let refused = LaunchError::Refused { source: denied() };
    let not_writable = Unusable::NotWritable {
        path: "/sys/fs/cgroup".into(),
        source: denied(),
    };
    let check = PortError::Check {
        address: "127.0.0.1:80".parse().expect("an address"),
        source: denied(),
    };
    let send = SignalError::Send {
        identity: identity::own().expect("this process"),
        source: denied(),
    };
    let errors: [Box<dyn Error>; 10] = [
        setup.into(),
        refused.into(),
        OrderError::Io(denied()).into(),
        QuitError::Order(OrderError::Io(denied())).into(),
        not_writable.into(),
        Unusable::from(denied()).into(),
        NoOwnIdentity::Proc(denied()).into(),
        NoOwnIdentity::Pidfd(denied()).into(),
        check.into(),
        send.into(),
    ];
    for error in errors {
        assert!(error.source().is_some(), "{error:?}");
        assert!(!repeats_its_source(&*error), "{error:?}");
    }
}
