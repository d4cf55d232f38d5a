//! The messages of a worker's tree on its notify socket (the `sd_notify` protocol, sd_notify(3)).
//!
//! The socket is read from the spawn to the release, in every state, because a worker whose
//! messages stay unread blocks when it sends another one. Their content is kept in [`Heard`], where
//! readiness and heartbeat are watched.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use ostler_core::failure::{Failure, Reason};
use ostler_os::identity;
use ostler_os::notify::{Message, NotifySocket};
use ostler_os::patience::Deadline;
use ostler_os::tree::{self, Ancestry};
use tokio::sync::watch;

use super::super::incarnation::port_variable;
use super::{LastAnswer, Uninspected};
use crate::status::PortMap;

/// How many messages are read before anything else of the incarnation is processed.
const AT_ONCE: u32 = 32;

/// What the worker's tree has sent so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::process) struct Heard {
    ready: bool,
    /// Ports by their names as sent, in capitals; `PORT` has the empty name.
    ports: BTreeMap<String, u16>,
    status: Option<String>,
    /// The number of `WATCHDOG=1` messages.
    beats: u64,
    /// Why no further messages can be read.
    unreadable: Option<String>,
}

impl Heard {
    fn take(&mut self, message: Message) {
        self.ready |= message.ready;
        self.beats += u64::from(message.watchdog);
        self.status = message.status.or(self.status.take());
        for (name, number) in message.ports {
            self.ports.insert(name.to_ascii_uppercase(), number);
        }
    }

    fn port(&self, name: &str) -> Option<u16> {
        self.ports.get(&name.to_ascii_uppercase()).copied()
    }
}

/// The notify socket of one incarnation.
#[derive(Debug)]
pub(in crate::process) struct Notify {
    /// `None` once it is being read.
    socket: Option<NotifySocket>,
    env_value: OsString,
    heard: watch::Sender<Heard>,
}

impl Notify {
    /// A socket of this name.
    ///
    /// # Errors
    /// What [`NotifySocket::bind`] says.
    pub(in crate::process) fn bind(directory: &Path, name: &str) -> io::Result<Self> {
        let socket = NotifySocket::bind(directory, name)?;
        Ok(Self {
            env_value: socket.env_value(),
            socket: Some(socket),
            heard: watch::Sender::default(),
        })
    }

    /// The value of the worker's `NOTIFY_SOCKET`.
    pub(in crate::process) fn env_value(&self) -> OsString {
        self.env_value.clone()
    }

    pub(in crate::process) fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// Reads the socket from now on. Only messages of the tree below this sitter count. `None`: it
    /// is being read already.
    pub(in crate::process) fn listen(
        &mut self,
        sitter: i32,
        uninspected: Uninspected,
    ) -> Option<impl Future<Output = Infallible> + Send + use<>> {
        Some(listen(self.socket.take()?, sitter, self.heard.clone(), uninspected))
    }
}

async fn listen(
    mut socket: NotifySocket,
    sitter: i32,
    heard: watch::Sender<Heard>,
    uninspected: Uninspected,
) -> Infallible {
    let (mut read, mut reported) = (0, BTreeSet::new());
    loop {
        match socket.recv().await {
            Ok(message) if is_ours(message.sender_pid, sitter, &uninspected) => {
                for variable in &message.ignored {
                    if reported.insert(*variable) {
                        tracing::warn!(
                            target: "ostler", pid = message.sender_pid, variable,
                            "a worker sent a variable to its notify socket that Ostler ignores"
                        );
                    }
                }
                heard.send_modify(|heard| heard.take(message));
            }
            Ok(message) => {
                tracing::warn!(
                    target: "ostler", pid = message.sender_pid,
                    "a message to a worker's notify socket came from outside its tree and is ignored"
                );
            }
            Err(error) => {
                heard.send_modify(|heard| heard.unreadable = Some(error.to_string()));
                return std::future::pending().await;
            }
        }
        read += 1;
        if read % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether the sender belongs to the tree. One that has ended already (`systemd-notify` ends as
/// soon as it has sent) can't be looked up; the socket's name is known to the tree alone, and the
/// kernel says which user sent, so it counts. So does one that `/proc` hides (`hidepid`), if it may
/// be of the tree.
fn is_ours(pid: i32, sitter: i32, uninspected: &Uninspected) -> bool {
    let unknown = match tree::ancestry(pid, sitter) {
        Ok(Ancestry::Below) => return true,
        Ok(Ancestry::Elsewhere) => return false,
        Ok(Ancestry::Unknown { pid }) if !is_hidden(pid) => return true,
        Ok(Ancestry::Unknown { pid }) if !may_be_below(pid, sitter) => return false,
        Ok(Ancestry::Unknown { pid }) => format!("/proc hides process {pid}"),
        Err(error) => format!("/proc can't be read: {error}"),
    };
    uninspected.warn(&unknown, "its messages to the notify socket are taken for the worker's");
    true
}

/// Whether the process lives and `/proc` does not show it.
fn is_hidden(pid: i32) -> bool {
    identity::of(pid).is_err()
}

/// A hidden process of the tree is listed as its parent's child, unless that one is hidden, too.
fn may_be_below(hidden: i32, sitter: i32) -> bool {
    tree::descendants(sitter).map_or(true, |tree| tree.contains(&hidden) || tree.into_iter().any(is_hidden))
}

/// Waits for `READY=1`, and for every port that the worker reports, in whichever messages they
/// come.
///
/// # Errors
/// When the socket can't be read.
pub(super) async fn ready(
    mut heard: watch::Receiver<Heard>,
    reported: &[String],
    last_answer: &LastAnswer,
) -> Result<PortMap, Failure> {
    loop {
        let now = heard.borrow_and_update().clone();
        if let Some(error) = &now.unreadable {
            return Err(unreadable(Reason::ReadyTimeout, error));
        }
        let missing = reported.iter().find(|name| now.port(name).is_none());
        last_answer.set(match (now.ready, missing, &now.status) {
            (true, None, _) => {
                let port = |name: &String| Some((name.clone(), now.port(name)?));
                return Ok(reported.iter().filter_map(port).collect());
            }
            (true, Some(name), _) => format!("READY=1 came without {}=n", port_variable(name)),
            (false, _, Some(status)) => format!("no READY=1 came; its status: {status}"),
            (false, _, None) => "no READY=1 came".to_owned(),
        });
        changed(&mut heard).await;
    }
}

/// Waits until `WATCHDOG=1` has not come for longer than `longest`. The silence is counted from
/// ready, then from each `WATCHDOG=1` of the tree.
pub(super) async fn silence(mut heard: watch::Receiver<Heard>, longest: Duration) -> Failure {
    let mut beats = heard.borrow_and_update().beats;
    let mut deadline = Deadline::new(longest);
    loop {
        if tokio::time::timeout_at(deadline.at(), changed(&mut heard))
            .await
            .is_err()
            && deadline.is_over()
        {
            return Failure::new(
                Reason::HeartbeatLost,
                format!("no WATCHDOG=1 came for longer than watchdog ({longest:?})"),
            );
        }
        let now = heard.borrow_and_update();
        if let Some(error) = &now.unreadable {
            return unreadable(Reason::HeartbeatLost, error);
        }
        if now.beats != beats {
            beats = now.beats;
            deadline = Deadline::new(longest);
        }
    }
}

/// Never returns if no further messages can be read, for example while the runtime shuts down.
async fn changed(heard: &mut watch::Receiver<Heard>) {
    if heard.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn unreadable(reason: Reason, error: &str) -> Failure {
    Failure::new(reason, format!("its notify socket can't be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, advance};

    fn beat(heard: &watch::Sender<Heard>) {
        heard.send_modify(|heard| heard.beats += 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_beat_sets_the_silence_back() {
        let (longest, heard) = (Duration::from_secs(2), watch::Sender::default());
        let watched = tokio::spawn(silence(heard.subscribe(), longest));
        tokio::task::yield_now().await;
        for _ in 0..5 {
            advance(longest - Duration::from_millis(1)).await;
            beat(&heard);
            tokio::task::yield_now().await;
        }
        let since = Instant::now();
        assert_eq!(watched.await.unwrap().reason, Reason::HeartbeatLost);
        assert!(since.elapsed() >= longest);
    }

    /// The host was suspended for longer than the watchdog, and runs again: a beat that comes then
    /// counts.
    #[tokio::test(start_paused = true)]
    async fn a_suspended_host_gives_the_heartbeat_another_chance() {
        let (longest, heard) = (Duration::from_secs(2), watch::Sender::default());
        let watched = tokio::spawn(silence(heard.subscribe(), longest));
        tokio::task::yield_now().await;
        advance(longest * 3).await;
        tokio::task::yield_now().await;
        assert!(!watched.is_finished());
        beat(&heard);
        tokio::task::yield_now().await;
        advance(longest - Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
        assert!(!watched.is_finished());
        assert_eq!(
            watched.await.unwrap().reason,
            Reason::HeartbeatLost,
            "it is silent since"
        );
    }
}
