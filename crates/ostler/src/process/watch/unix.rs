//! A request to a worker's Unix socket, and whose the socket is.

use std::io;
use std::path::Path;

use ostler_core::spec::PortOwner;
use ostler_os::worker_socket::{self, SocketOwner};
use tokio::net::UnixStream;

use super::Answer;
use super::owner::SECOND_LOOK;
use super::probe::{PortPlan, not_connected};

/// Connects, and asks by that very connection: whose it is was decided when it was made, so no
/// other process can answer in the meantime.
pub(super) async fn ask(plan: &PortPlan, path: &Path) -> Answer {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Answer::NotYet(format!("no process listens on {} yet", path.display()));
        }
        Err(error) => return not_connected(&path.display(), &error),
    };
    if plan.owner == PortOwner::Worker {
        let listener = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let mut owner = look(path, listener, plan.sitter).await;
        if !matches!(owner, Ok(SocketOwner::Tree)) {
            // A tree that forks while it is read may be missed in part.
            tokio::time::sleep(SECOND_LOOK).await;
            owner = look(path, listener, plan.sitter).await;
        }
        match owner {
            Ok(SocketOwner::Tree) => {}
            Ok(SocketOwner::Foreign(holder)) => return plan.foreign(holder.to_string()),
            // The socket is in a directory of this user alone.
            Ok(SocketOwner::Unknown) => plan.take_for_ours("the process that listens can't be inspected, or has ended"),
            Err(error) => plan.take_for_ours(&format!("the process that listens can't be looked up: {error}")),
        }
    }
    plan.request(stream).await
}

/// Reads `/proc`, so it runs where that may take its time.
async fn look(path: &Path, listener: Option<i32>, sitter: i32) -> io::Result<SocketOwner> {
    let path = path.to_owned();
    let look = tokio::task::spawn_blocking(move || worker_socket::owner(&path, listener, sitter));
    look.await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
}
