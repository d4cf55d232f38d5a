//! Records for tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::process::ProcessIdentity;
use uuid::Uuid;

use crate::record::{Activation, Containment, Identity, Key, Owner, Record, RecordState, RecordedPort, UnixNanos};

pub(crate) fn owner() -> Owner {
    Owner {
        app: "demo".to_owned(),
        instance: "main".to_owned(),
        run: RunId::from_parts(1_700_000_000_000, *b"0123456789"),
    }
}

pub(crate) fn key(pool: &str, index: u32, incarnation: u64) -> Key {
    Key::new(WorkerId::new(pool, index), Incarnation(incarnation))
}

pub(crate) fn reserved(pool: &str, index: u32, incarnation: u64) -> Record {
    Record::reservation(
        &owner(),
        key(pool, index, incarnation),
        0xfeed_beef,
        UnixNanos(1_700_000_000_000_000_001),
    )
}

pub(crate) fn process(pid: i32) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: Uuid::from_u128(0x0f6c_6a3e_7a5b_4a52_9a3f_7f5a_0f3b_8c11),
        pid_namespace: 4_026_531_836,
        pid,
        start_time: 123_456,
        pidfd_inode: 2_025_430,
    }
}

pub(crate) fn activation(pid: i32) -> Activation {
    Activation {
        identity: Identity::LocalProcess(process(pid)),
        sitter: Some(process(pid - 1)),
        ports: vec![RecordedPort {
            name: String::new(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 7001,
        }],
        containment: Containment::Sitter,
        at: UnixNanos(1_700_000_000_000_000_002),
    }
}

pub(crate) fn active(pool: &str, index: u32, incarnation: u64) -> Record {
    let mut record = reserved(pool, index, incarnation);
    let activation = activation(4242);
    record.state = RecordState::Active;
    record.identity = Some(activation.identity);
    record.sitter = activation.sitter;
    record.ports = activation.ports;
    record.containment = activation.containment;
    record.times.active = Some(activation.at);
    record
}

/// A record with a value in every field.
pub(crate) fn full(pool: &str, index: u32, incarnation: u64) -> Record {
    let mut record = active(pool, index, incarnation);
    record.ports.push(RecordedPort {
        name: "metrics".to_owned(),
        address: IpAddr::V6(Ipv6Addr::LOCALHOST),
        port: 9100,
    });
    record.containment = Containment::Cgroup("/user.slice/demo/embed-0".to_owned());
    record
}
