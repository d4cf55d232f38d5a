//! One question to one port of a worker, and whose the port is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ostler_core::failure::{Failure, Reason};
use ostler_core::spec::{PortOwner, ProbeKind};
use ostler_os::ports::{ListenerOwner, listener_in_tree};
use ostler_os::sockets::{listeners_of, name_holders};
use ostler_os::tree;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

#[cfg(feature = "probe-grpc")]
use super::grpc;
#[cfg(feature = "probe-http")]
use super::http;
use super::{Answer, unix};
use crate::follow::Endpoint;
use crate::patience;
use crate::status::PortMap;

/// A foreign socket must be seen twice, with this between: a tree that forks while it is read may
/// be missed in part, and its listener then looks like another process's.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(50);

/// A question to one port of one worker.
#[derive(Debug, Clone)]
pub(in crate::process) struct ProbePlan {
    /// What is asked.
    pub(in crate::process) kind: ProbeKind,
    /// Headers of an HTTP request.
    pub(in crate::process) headers: BTreeMap<String, String>,
    /// Where; a wildcard address is asked on loopback.
    pub(in crate::process) endpoint: Endpoint,
    /// The sitter under which the worker's tree lives: only a listener of that tree counts. The
    /// listener of a `listen` port is the host's too, which does no harm: the tree has it open.
    pub(in crate::process) sitter: i32,
    /// Whose listening socket may answer.
    pub(in crate::process) owner: PortOwner,
}

/// Whose the port is.
enum Owner {
    Ours,
    NotYet(String),
    Foreign { named: String },
}

impl ProbePlan {
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
        let listener = Listener {
            address,
            sitter: self.sitter,
        };
        let owner = match self.owner {
            PortOwner::Any => Owner::Ours,
            PortOwner::Worker => listener.owner().await,
        };
        match owner {
            Owner::Ours => {}
            Owner::NotYet(why) => return Answer::NotYet(why),
            Owner::Foreign { named } => return self.foreign(named),
        }
        let address = reachable(address);
        match TcpStream::connect(address).await {
            Ok(stream) => self.request(stream).await,
            Err(error) => Answer::NotYet(format!("{address}: {error}")),
        }
    }

    /// Asks by a connection that is made.
    pub(super) async fn request(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Answer {
        let asked: Result<(), String> = match &self.kind {
            #[cfg(feature = "probe-http")]
            ProbeKind::Http(path) => http::get(stream, &self.authority(), path, &self.headers).await,
            #[cfg(not(feature = "probe-http"))]
            ProbeKind::Http(_) => return Answer::Never(not_built("http")),
            ProbeKind::Tcp => {
                drop(stream);
                Ok(())
            }
            #[cfg(feature = "probe-grpc")]
            ProbeKind::Grpc(service) => grpc::check(stream, &self.authority(), service).await,
            #[cfg(not(feature = "probe-grpc"))]
            ProbeKind::Grpc(_) => return Answer::Never(not_built("grpc")),
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

    /// Another process answers in the worker's place.
    pub(super) fn foreign(&self, named: String) -> Answer {
        let message = format!(
            "{} is answered by another process than the worker: {named}",
            shown(&self.endpoint)
        );
        Answer::Never(Failure::new(Reason::PortInUse, message).with_holder(named))
    }
}

/// An endpoint as people write it.
fn shown(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp(address) => reachable(*address).to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}

/// The listening socket of a TCP port, and the tree that it should belong to.
struct Listener {
    address: SocketAddr,
    sitter: i32,
}

impl Listener {
    async fn owner(&self) -> Owner {
        match self.look().await {
            Owner::Foreign { .. } => {
                tokio::time::sleep(SECOND_LOOK).await;
                self.look().await
            }
            other => other,
        }
    }

    /// Reads `/proc`, so it runs where that may take its time.
    async fn look(&self) -> Owner {
        let (address, sitter) = (self.address, self.sitter);
        let look = move || match listener_in_tree(address, sitter) {
            Ok(ListenerOwner::Tree { .. }) => Owner::Ours,
            Ok(ListenerOwner::None) => Owner::NotYet(nothing_listens(address, sitter)),
            Ok(ListenerOwner::Unreadable { pids }) => Owner::NotYet(format!(
                "it is unknown which process listens on {address}: processes {pids:?} of the worker can't be inspected"
            )),
            Ok(ListenerOwner::Foreign(sockets)) => {
                let names: Vec<String> = name_holders(&sockets).iter().map(ToString::to_string).collect();
                Owner::Foreign {
                    named: names.join(", "),
                }
            }
            Err(error) => Owner::NotYet(format!("the listener on {address} can't be found: {error}")),
        };
        let lost = |error| Owner::NotYet(format!("the listener on {address} can't be found: {error}"));
        tokio::task::spawn_blocking(look).await.unwrap_or_else(lost)
    }
}

/// A worker that listens on another port, or on the loopback address of the other family, seems to
/// work when it is started by hand. The sockets that it has show what to change.
fn nothing_listens(address: SocketAddr, sitter: i32) -> String {
    let listeners = tree::descendants(sitter).and_then(|tree| listeners_of(&tree));
    match listeners.as_deref() {
        Ok([]) | Err(_) => format!("no process listens on {address} yet"),
        Ok(others) => {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            format!(
                "no process listens on {address}; the worker listens on {} instead",
                others.join(", ")
            )
        }
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
