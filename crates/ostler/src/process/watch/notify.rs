//! What the worker's tree says on its notify socket (the `sd_notify` protocol, sd_notify(3)).

use std::io;
use std::sync::Arc;

use ostler_core::failure::{Failure, Reason};
use ostler_os::notify::{Message, NotifySocket};
use ostler_os::{procfile, tree};
use tokio::sync::Mutex;

use super::LastAnswer;
use crate::services::PortMap;

/// The notify socket of one worker, of which only its own tree's messages count.
#[derive(Debug, Clone)]
pub(crate) struct Notifications {
    pub(crate) socket: Arc<Mutex<NotifySocket>>,
    /// The sitter under which the tree lives.
    pub(crate) sitter: i32,
}

impl Notifications {
    /// The next message of the worker's tree.
    pub(super) async fn next(&self) -> io::Result<Message> {
        loop {
            let message = self.socket.lock().await.recv().await?;
            if self.is_ours(message.sender_pid) {
                return Ok(message);
            }
            tracing::warn!(target: "ostler", pid = message.sender_pid, "a message to a worker's notify socket came from outside its tree, and is not heard");
        }
    }

    /// A sender that has ended already can't be asked whose it was: `systemd-notify` ends as soon as it has sent. The
    /// socket's name is known to the tree alone, so it is heard.
    fn is_ours(&self, pid: i32) -> bool {
        match tree::is_descendant(pid, self.sitter) {
            Ok(true) => true,
            Ok(false) | Err(_) => matches!(procfile::stat(pid), Ok(None)),
        }
    }

    /// Waits for `READY=1`, and for every port that the worker reports, in whichever messages they come.
    pub(super) async fn ready(&self, reported: &[String], last_answer: &LastAnswer) -> Result<PortMap, Failure> {
        let mut ports = PortMap::new();
        let mut ready = false;
        last_answer.set("no READY=1 came".to_owned());
        loop {
            let message = self
                .next()
                .await
                .map_err(|error| unreadable(Reason::ReadyTimeout, &error))?;
            ready |= message.ready;
            for (name, number) in &message.ports {
                if let Some(known) = reported.iter().find(|known| known.eq_ignore_ascii_case(name)) {
                    ports.insert(known.clone(), *number);
                }
            }
            let missing = reported.iter().find(|name| !ports.contains_key(*name));
            match (ready, missing) {
                (true, None) => return Ok(ports),
                (true, Some(name)) if name.is_empty() => last_answer.set("READY=1 came without PORT=n".to_owned()),
                (true, Some(name)) => {
                    last_answer.set(format!("READY=1 came without PORT_{}=n", name.to_ascii_uppercase()));
                }
                (false, _) => {
                    if let Some(status) = message.status {
                        last_answer.set(format!("no READY=1 came; its status: {status}"));
                    }
                }
            }
        }
    }
}

pub(super) fn unreadable(reason: Reason, error: &io::Error) -> Failure {
    Failure::new(reason, format!("its notify socket can't be read: {error}"))
}
