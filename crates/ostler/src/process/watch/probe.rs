//! One request to one port of a worker, and whose the port is.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::PortOwner;
use ostler_os::patience;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
#[cfg(feature = "probe-grpc")]
use super::grpc;
#[cfg(feature = "probe-http")]
use super::http;
use super::owner::{self, Owner, Uninspected};
use super::{Answer, unix};
use crate::follow::Endpoint;
use crate::status::PortMap;

/// What a port is asked.
#[derive(Debug, Clone)]
pub(in crate::process) enum Request {
    /// GET.
    Http {
        path: String,
        headers: BTreeMap<String, String>,
    },
    /// A connection.
    Tcp,
    /// The health of this service.
    Grpc(String),
}

/// A request to one port of one worker.
#[derive(Debug, Clone)]
pub(in crate::process) struct PortPlan {
    /// What is asked.
    pub(in crate::process) request: Request,
    /// Where; a wildcard address is asked on loopback.
    pub(in crate::process) endpoint: Endpoint,
    /// The sitter under which the worker's tree lives: only a listener of that tree counts. The
    /// listener of a `listen` port is the host's too, which does no harm: the tree has it open.
    pub(in crate::process) sitter: i32,
    /// Whose listening socket may answer.
    pub(in crate::process) owner: PortOwner,
    /// Warns of what of the worker can't be inspected.
    pub(in crate::process) uninspected: Uninspected,
}

impl PortPlan {
    /// Asks once.
    pub(super) async fn attempt(&self, limit: Duration) -> Answer {
        match patience::within(limit, self.ask()).await {
            Some(answer) => answer,
            None => Answer::NotYet(format!("{} did not answer within {limit:?}", shown(&self.endpoint))),
        }
    }

    async fn ask(&self) -> Answer {
        match &self.endpoint {
            Endpoint::Tcp(address) => self.ask_tcp(*address).await,
            Endpoint::Unix(path) => unix::ask(self, path).await,
        }
    }

    async fn ask_tcp(&self, address: SocketAddr) -> Answer {
        let owner = match self.owner {
            PortOwner::Any => Owner::Ours,
            PortOwner::Worker => owner::of_listener(address, self.sitter).await,
        };
        match owner {
            Owner::Ours => {}
            Owner::Unknown(why) => self.take_for_ours(&why),
            Owner::NotYet(why) => return Answer::NotYet(why),
            Owner::Foreign { named } => return self.foreign(named),
        }
        let address = reachable(address);
        match Connection::to(address).await {
            Ok(connection) => self.request(connection).await,
            Err(error) => not_connected(&address, &error),
        }
    }

    /// Asks by a connection that is made.
    pub(super) async fn request(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Answer {
        let asked: Result<(), String> = match &self.request {
            #[cfg(feature = "probe-http")]
            Request::Http { path, headers } => http::get(stream, &self.authority(), path, headers).await,
            #[cfg(not(feature = "probe-http"))]
            Request::Http { path, headers } => {
                return Answer::Never(not_built(&format!("http ({path}, {} headers)", headers.len())));
            }
            Request::Tcp => {
                drop(stream);
                Ok(())
            }
            #[cfg(feature = "probe-grpc")]
            Request::Grpc(service) => grpc::check(stream, &self.authority(), service).await,
            #[cfg(not(feature = "probe-grpc"))]
            Request::Grpc(service) => return Answer::Never(not_built(&format!("grpc ({service:?})"))),
        };
        match asked {
            Ok(()) => Answer::Yes(PortMap::new()),
            Err(why) => Answer::NotYet(format!("{}: {why}", shown(&self.endpoint))),
        }
    }

    #[cfg(any(feature = "probe-http", feature = "probe-grpc"))]
    fn authority(&self) -> String {
        match &self.endpoint {
            Endpoint::Tcp(address) => reachable(*address).to_string(),
            Endpoint::Unix(_) => "localhost".to_owned(),
        }
    }

    /// It is unknown whose the listening socket is: an answer counts.
    pub(super) fn take_for_ours(&self, why: &str) {
        let taken = format!("what listens on {} is taken for the worker's", shown(&self.endpoint));
        self.uninspected.warn(why, &taken);
    }

    /// Another process answers in the worker's place.
    pub(super) fn foreign(&self, named: String) -> Answer {
        let message = format!(
            "{} is answered by another process than the worker: {named}",
            shown(&self.endpoint)
        );
        let failure = Failure::new(Reason::PortInUse, message).with_holder(named);
        Answer::Never(failure.with_suggestion(ANOTHER_ANSWERS))
    }
}

/// What to do about it. The port was free before the start, so the other process may well answer
/// for the worker: to stop it would be wrong advice then.
const ANOTHER_ANSWERS: &str = "if that process answers for the worker, as a container's proxy does, set owner = \"any\" in ready or health; otherwise stop it, or give the pool another port, a range, or port = \"any\"";

/// What it means that a connection could not be made: no fault of the worker's if the host lacks
/// what it takes (connect(2), socket(2)).
pub(super) fn not_connected(endpoint: &dyn std::fmt::Display, error: &io::Error) -> Answer {
    let why = format!("{endpoint}: {error}");
    match error.raw_os_error() {
        Some(EMFILE | ENFILE | ENOMEM | ENOBUFS | EADDRNOTAVAIL) => Answer::Unasked(why),
        _ => Answer::NotYet(why),
    }
}

/// An endpoint as people write it.
fn shown(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp(address) => reachable(*address).to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}

/// A specification that asks by what this build lacks is invalid, and does not get here.
#[cfg(not(all(feature = "probe-http", feature = "probe-grpc")))]
fn not_built(kind: &str) -> Failure {
    Failure::new(Reason::ReadyTimeout, format!("this build has no {kind} probes"))
}

/// A wildcard address can not be reached; what listens there is reached on loopback.
pub(in crate::process) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
