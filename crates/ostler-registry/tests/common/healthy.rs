//! Helpers for tests of a healthy table.

use std::sync::Arc;

use ostler_registry::{Activation, Containment, Identity, OnTableEvent, RecordedPort, UnixNanos};

use crate::common::process;

pub(crate) fn no_events() -> OnTableEvent {
    Arc::new(|event| panic!("unexpected event {event:?}"))
}

pub(crate) fn activation(pid: i32) -> Activation {
    Activation {
        identity: Identity::LocalProcess(process(pid)),
        sitter: Some(process(pid + 1)),
        ports: vec![RecordedPort {
            name: String::new(),
            address: [127, 0, 0, 1].into(),
            port: 7001,
        }],
        containment: Containment::Sitter,
        at: UnixNanos(3),
    }
}
