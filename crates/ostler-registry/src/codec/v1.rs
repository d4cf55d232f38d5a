//! Version 1 of the record format. Frozen: the order and the types of these fields are the format.
//! Those that the model has no longer are written as empty, and skipped when they are read.

use std::net::IpAddr;

use bincode::{Decode, Encode};
use ostler_core::ids::{Incarnation, RunId, WorkerId};
use ostler_core::process::ProcessIdentity;
use uuid::Uuid;

use super::DecodeError;
use crate::record::{Containment, Identity, Record, RecordState, RecordedPort, Times, UnixNanos};

#[derive(Encode, Decode)]
pub(super) struct RecordV1 {
    app: String,
    instance: String,
    run: [u8; 16],
    pool: String,
    index: u32,
    incarnation: u64,
    state: StateV1,
    identity: Option<IdentityV1>,
    sitter: Option<LocalProcessV1>,
    ports: Vec<PortV1>,
    containment: ContainmentV1,
    /// Not in the model.
    lease_until: Option<u64>,
    marker: String,
    spec_hash: u64,
    reserved: u64,
    active: Option<u64>,
    /// Not in the model, like `releasing`.
    ending: Option<u64>,
    releasing: Option<u64>,
}

#[derive(Encode, Decode)]
enum StateV1 {
    Reserved,
    Active,
    /// Not in the model, like `Releasing`.
    Ending,
    Releasing,
}

#[derive(Encode, Decode)]
enum IdentityV1 {
    LocalProcess(LocalProcessV1),
}

#[derive(Encode, Decode)]
struct LocalProcessV1 {
    boot_id: [u8; 16],
    pid_namespace: u64,
    pid: i32,
    start_time: u64,
}

#[derive(Encode, Decode)]
struct PortV1 {
    name: String,
    address: AddressV1,
    port: u16,
}

#[derive(Encode, Decode)]
enum AddressV1 {
    V4([u8; 4]),
    V6([u8; 16]),
}

#[derive(Encode, Decode)]
enum ContainmentV1 {
    None,
    Sitter,
    Cgroup(String),
}

impl From<&Record> for RecordV1 {
    fn from(record: &Record) -> Self {
        Self {
            app: record.app.clone(),
            instance: record.instance.clone(),
            run: record.run.as_u128().to_be_bytes(),
            pool: record.worker.pool.clone(),
            index: record.worker.index,
            incarnation: record.incarnation.0,
            state: state_to_wire(record.state),
            identity: record.identity.as_ref().map(identity_to_wire),
            sitter: record.sitter.as_ref().map(process_to_wire),
            ports: record.ports.iter().map(port_to_wire).collect(),
            containment: containment_to_wire(&record.containment),
            lease_until: None,
            marker: record.marker.clone(),
            spec_hash: record.spec_hash,
            reserved: record.times.reserved.0,
            active: record.times.active.map(|at| at.0),
            ending: None,
            releasing: None,
        }
    }
}

impl RecordV1 {
    pub(super) fn into_model(self) -> Result<Record, DecodeError> {
        if self.incarnation == 0 {
            return Err(DecodeError::Corrupt {
                detail: "incarnation 0 is invalid, they count from 1".to_owned(),
            });
        }
        Ok(Record {
            app: self.app,
            instance: self.instance,
            run: RunId::from_u128(u128::from_be_bytes(self.run)),
            worker: WorkerId::new(self.pool, self.index),
            incarnation: Incarnation(self.incarnation),
            state: state_to_model(&self.state, self.identity.is_some()),
            identity: self.identity.map(identity_to_model),
            sitter: self.sitter.map(process_to_model),
            ports: self.ports.into_iter().map(port_to_model).collect(),
            containment: containment_to_model(self.containment),
            marker: self.marker,
            spec_hash: self.spec_hash,
            times: Times {
                reserved: UnixNanos(self.reserved),
                active: self.active.map(UnixNanos),
            },
        })
    }
}

fn state_to_wire(state: RecordState) -> StateV1 {
    match state {
        RecordState::Reserved => StateV1::Reserved,
        RecordState::Active => StateV1::Active,
    }
}

/// The later states could also follow a failed spawn, which leaves no identity.
fn state_to_model(state: &StateV1, has_identity: bool) -> RecordState {
    match state {
        StateV1::Reserved => RecordState::Reserved,
        StateV1::Active => RecordState::Active,
        StateV1::Ending | StateV1::Releasing if has_identity => RecordState::Active,
        StateV1::Ending | StateV1::Releasing => RecordState::Reserved,
    }
}

fn identity_to_wire(identity: &Identity) -> IdentityV1 {
    match identity {
        Identity::LocalProcess(process) => IdentityV1::LocalProcess(process_to_wire(process)),
    }
}

fn identity_to_model(identity: IdentityV1) -> Identity {
    match identity {
        IdentityV1::LocalProcess(process) => Identity::LocalProcess(process_to_model(process)),
    }
}

fn process_to_wire(process: &ProcessIdentity) -> LocalProcessV1 {
    LocalProcessV1 {
        boot_id: *process.boot_id.as_bytes(),
        pid_namespace: process.pid_namespace,
        pid: process.pid,
        start_time: process.start_time,
    }
}

fn process_to_model(process: LocalProcessV1) -> ProcessIdentity {
    ProcessIdentity {
        boot_id: Uuid::from_bytes(process.boot_id),
        pid_namespace: process.pid_namespace,
        pid: process.pid,
        start_time: process.start_time,
        // Added in version 2.
        pidfd_inode: 0,
    }
}

fn port_to_wire(port: &RecordedPort) -> PortV1 {
    let address = match port.address {
        IpAddr::V4(address) => AddressV1::V4(address.octets()),
        IpAddr::V6(address) => AddressV1::V6(address.octets()),
    };
    PortV1 {
        name: port.name.clone(),
        address,
        port: port.port,
    }
}

fn port_to_model(port: PortV1) -> RecordedPort {
    let address = match port.address {
        AddressV1::V4(octets) => IpAddr::from(octets),
        AddressV1::V6(octets) => IpAddr::from(octets),
    };
    RecordedPort {
        name: port.name,
        address,
        port: port.port,
    }
}

fn containment_to_wire(containment: &Containment) -> ContainmentV1 {
    match containment {
        Containment::None => ContainmentV1::None,
        Containment::Sitter => ContainmentV1::Sitter,
        Containment::Cgroup(path) => ContainmentV1::Cgroup(path.clone()),
    }
}

fn containment_to_model(containment: ContainmentV1) -> Containment {
    match containment {
        ContainmentV1::None => Containment::None,
        ContainmentV1::Sitter => Containment::Sitter,
        ContainmentV1::Cgroup(path) => Containment::Cgroup(path),
    }
}
