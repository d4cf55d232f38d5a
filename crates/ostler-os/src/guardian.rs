//! The host's link to its guardian: the small program that starts every worker, and ends every tree when the host is gone.
//!
//! [`Guardian::launch`] starts the program and returns two halves: the [`Guardian`], a handle that gives orders and
//! never waits, and the [`Events`], which tell what came of them. The host holds no descriptor and no child but the
//! guardian; everything about a worker comes as a [`GuardianEvent`]. The program and its shape: ADR 0002; how it gets
//! onto the machine: ADR 0003.

mod error;
mod event;
mod events;
mod orders;
mod program;
mod request;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ostler_core::signal::Signal;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Resource};
use tokio::sync::watch;

pub use error::{Attempt, LaunchError, OrderError, QuitError};
pub use event::{GuardianEvent, SignalCause, SpawnStep, TreeKill, TreeProcess};
pub use events::Events;
pub use program::ProgramFrom;
pub use request::{EndPolicy, SpawnRequest};

use crate::identity::{Attribution, ProcessHandle, ProcessIdentity};
use crate::protocol::{Hello, MAX_SLOTS, Order, OrderKind, VERSION};
use orders::Orders;

/// How the guardian is launched.
#[derive(Debug, Clone)]
pub struct GuardianOptions {
    /// A program to run in place of the built-in one. It wins over the environment variable `OSTLER_GUARDIAN`, which
    /// does the same unless it is empty. Default: none.
    pub program: Option<PathBuf>,
    /// Whether to run the built-in program from a memory file, which leaves nothing on disk. When this is false, or the
    /// system forbids it, a file in a cache directory is used. Default: true.
    pub memfd: bool,
    /// Where that file may go when neither `$XDG_CACHE_HOME` nor `~/.cache` will do; made if missing, and refused when
    /// others may write in it. Default: none.
    pub state_dir: Option<PathBuf>,
    /// How long the guardian may take from exec to its first answer. Zero fails the launch. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Soft and hard `RLIMIT_NOFILE` that workers start with. `None`: this process's at the time of the launch, which is
    /// wrong when it has raised its own soft limit by then. Default: `None`.
    pub worker_nofile: Option<(u64, u64)>,
    /// A descriptor that guardian and sitters keep open for as long as they live, and no worker gets: who can take a lock on
    /// that open file knows that all of them have ended. Default: none.
    pub lock: Option<Arc<OwnedFd>>,
    /// Shown as the argument of guardian and sitters in process listings, such as a run's short id. Default: empty.
    pub label: OsString,
}

impl Default for GuardianOptions {
    fn default() -> Self {
        Self {
            program: None,
            memfd: true,
            state_dir: None,
            handshake_timeout: Duration::from_secs(5),
            worker_nofile: None,
            lock: None,
            label: OsString::new(),
        }
    }
}

/// Bytes of events that may wait for the reader in the socket: up to some 1,300 messages, since the
/// kernel doubles it. It is capped at `net.core.wmem_max`.
const EVENTS_BUFFER: usize = 512 * 1024;

/// How the guardian ended; `None` inside when something else in this process reaped it.
#[derive(Debug, Clone, Copy)]
struct Exit(Option<ExitStatus>);

/// A handle for giving orders; clones are the same guardian. No method waits for the guardian, except [`quit`](Self::quit).
///
/// Dropping the last clone lets go of the guardian, as [`abandon`](Self::abandon) does.
#[derive(Debug, Clone)]
pub struct Guardian {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    process: ProcessHandle,
    orders: Arc<Orders>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Link {
    /// Closes the line, and wakes a guardian that somebody has stopped: else it would not see that.
    fn let_go(&self) {
        self.orders.close();
        self.signal(Signal::CONT, "it is let go");
    }

    /// A guardian that has ended needs no signal.
    fn signal(&self, signal: Signal, cause: &'static str) {
        if let Err(error) = self.process.signal(signal, &Attribution::new("ostler", cause)) {
            tracing::error!(target: "ostler", %error, "the guardian can't be signalled");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A program that was started, and has not shown yet that it is a guardian: dropped, it is killed.
struct Unproven(Option<Link>);

impl Drop for Unproven {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.signal(Signal::KILL, "it is no guardian of ours");
        }
    }
}

impl Guardian {
    /// Starts a guardian and waits for its first answer.
    ///
    /// The calling process is the host: when it ends in any way, the guardian ends every tree. Needs a tokio runtime with
    /// I/O and time, which serves the link from then on. When that runtime ends first, orders are still sent where the
    /// socket has room, and dropping the handle still ends everything.
    ///
    /// # Errors
    /// When the program cannot be run, does not answer in `handshake_timeout`, or is of another protocol version.
    /// Nothing is left running then.
    pub async fn launch(options: GuardianOptions) -> Result<(Self, Events), LaunchError> {
        let setup = |what| move |source: io::Error| LaunchError::Setup { what, source };
        let (control, guardian_control) = socket_pair().map_err(setup("control socket"))?;
        let (events, guardian_events) = socket_pair().map_err(setup("events socket"))?;
        // As large as this system allows, so that a burst of events does not wait for a slow reader; any size works.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&guardian_events, EVENTS_BUFFER);
        let host = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|e| setup("pidfd of this process")(e.into()))?;

        let (nofile_soft, nofile_hard) = options.worker_nofile.unwrap_or_else(own_nofile);
        let hello = Hello {
            version: VERSION,
            nofile_soft,
            nofile_hard,
        };
        let mut given = vec![guardian_events, host];
        if let Some(lock) = &options.lock {
            given.push(lock.try_clone().map_err(setup("copy of the lock"))?);
        }
        orders::send(control.as_fd(), &hello.encode(), &given).map_err(|e| setup("first message")(e.into()))?;
        drop(given);
        // Everything that may fail for want of something comes before there is a process.
        let (reaper, exit) = Reaper::start().map_err(setup("thread that waits for the guardian"))?;
        let mut events = Events::new(events, exit.clone()).map_err(setup("events socket"))?;
        let orders = Arc::new(Orders::new(control));
        let sending = Arc::clone(&orders).sending().map_err(setup("control socket"))?;

        let child = program::start(&options, &guardian_control).await?;
        drop(guardian_control);
        let process = reaper.take(child).map_err(setup("identity of the guardian"))?;
        let Some(process) = process else {
            return Err(events.died().await);
        };
        let mut launched = Unproven(Some(Link { process, orders, exit }));
        match tokio::time::timeout(options.handshake_timeout, events.ready()).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(LaunchError::Timeout {
                    within: options.handshake_timeout,
                });
            }
        }
        let link = launched.0.take().expect("it is taken once");
        tokio::spawn(sending);
        Ok((Self { link: Arc::new(link) }, events))
    }

    /// The guardian's pid. It stays the guardian's until [`GuardianEvent::Lost`] or [`GuardianEvent::Ended`].
    pub fn pid(&self) -> u32 {
        self.identity().pid.unsigned_abs()
    }

    /// Who the guardian is, for whoever looks for it after this process's end.
    pub fn identity(&self) -> ProcessIdentity {
        self.link.process.identity()
    }

    /// How its program got onto this machine (ADR 0003).
    ///
    /// # Errors
    /// When `/proc` does not say what program it runs.
    pub fn program(&self) -> io::Result<ProgramFrom> {
        program::of(self.pid())
    }

    /// Starts an incarnation in its slot. Slots are dense indexes from 0; a slot that was never used, or was closed,
    /// gets a sitter first. Answered by `Spawned` or `SpawnFailed`; a slot that still has a tree fails with EBUSY.
    ///
    /// # Errors
    /// When the request cannot be passed on, or the guardian is gone. Nothing was started then.
    pub fn spawn(&self, slot: u32, incarnation: u64, request: SpawnRequest) -> Result<(), OrderError> {
        if slot >= MAX_SLOTS {
            return Err(OrderError::SlotRange { slot });
        }
        let mut order = Order::new(OrderKind::Spawn, slot, incarnation);
        order.signal = request.host_death.signal.number();
        order.grace_ms = milliseconds(request.host_death.grace);
        order.cgroup = request.cgroup.is_some();
        order.stdin = request.stdin.is_some();
        order.listen = u16::try_from(request.listen.len()).unwrap_or(u16::MAX);
        let mut fds = Vec::with_capacity(5 + request.listen.len());
        fds.push(request.spec()?);
        fds.extend([request.stdout, request.stderr]);
        fds.extend(request.cgroup);
        fds.extend(request.stdin);
        fds.extend(request.listen);
        self.link.orders.give(&order, fds)
    }

    /// Ends an incarnation: `signal` to its process group; when `grace` (whole milliseconds, zero is at once) is over,
    /// or the whole group has ended sooner, KILL to all that is left of its tree. Answered by `Exited` and `TreeGone`.
    ///
    /// Right in every state and any number of times: a further call can only hasten the end, and its signal is sent if
    /// it has not been sent before. An incarnation that is not in the slot is left alone.
    ///
    /// # Errors
    /// When the guardian is gone.
    pub fn end(&self, slot: u32, incarnation: u64, signal: Signal, grace: Duration) -> Result<(), OrderError> {
        let mut order = Order::new(OrderKind::End, slot, incarnation);
        order.signal = signal.number();
        order.grace_ms = milliseconds(grace);
        self.link.orders.give(&order, Vec::new())
    }

    /// Gives a slot up: its sitter ends as soon as its tree is gone, which this does not bring about. Answered by `Closed`.
    ///
    /// # Errors
    /// When the guardian is gone.
    pub fn close(&self, slot: u32) -> Result<(), OrderError> {
        self.link
            .orders
            .give(&Order::new(OrderKind::Close, slot, 0), Vec::new())
    }

    /// Asks for the children that a slot's sitter still has. Answered by `Children`, or `OrderFailed` with ENOENT when
    /// the slot has no sitter.
    ///
    /// # Errors
    /// When the guardian is gone.
    pub fn query(&self, slot: u32) -> Result<(), OrderError> {
        self.link
            .orders
            .give(&Order::new(OrderKind::Query, slot, 0), Vec::new())
    }

    /// Asks for all sitters, and for children of the guardian that are none. Answered by `Census`.
    ///
    /// # Errors
    /// When the guardian is gone.
    pub fn census(&self) -> Result<(), OrderError> {
        self.link.orders.give(&Order::new(OrderKind::Census, 0, 0), Vec::new())
    }

    /// Closes every slot, and waits at most `within` for the guardian to end, which it does when no tree is left.
    ///
    /// # Errors
    /// When something is still held at the deadline; the guardian then serves nothing new, and ends as soon as it can.
    pub async fn quit(&self, within: Duration) -> Result<(), QuitError> {
        self.link.orders.give(&Order::new(OrderKind::Quit, 0, 0), Vec::new())?;
        let mut exit = self.link.exit.clone();
        match tokio::time::timeout(within, exit.wait_for(Option::is_some)).await {
            // The sender is gone only after it has told the exit.
            Ok(_) => Ok(()),
            Err(_) => Err(QuitError::Timeout { within }),
        }
    }

    /// Lets go of the guardian at once: it ends every tree by its `host_death` policy, and then itself. Needs no runtime
    /// and does not wait. Events still come; orders fail with [`OrderError::Gone`].
    pub fn abandon(&self) {
        self.link.let_go();
    }

    /// Kills the guardian, where it does not end as told: each of its sitters then ends its tree, and itself. Does not wait.
    pub fn kill(&self) {
        self.link.signal(Signal::KILL, "it did not end as told");
    }
}

/// Waits for the guardian on a thread of its own: with or without a runtime, it never stays behind as a zombie. The thread
/// is there before its child is, so that no child is left without one.
struct Reaper(mpsc::Sender<Child>);

impl Reaper {
    fn start() -> io::Result<(Self, watch::Receiver<Option<Exit>>)> {
        let (tell, told) = watch::channel(None);
        let (give, given) = mpsc::channel::<Child>();
        thread::Builder::new()
            .name("ostler-reaper".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                let Ok(mut child) = given.recv() else { return };
                // ECHILD, when SIGCHLD is ignored or the host waits for every child itself: it is gone all the same.
                let status = child.wait().ok();
                tell.send_replace(Some(Exit(status)));
            })?;
        Ok((Self(give), told))
    }

    /// Takes a child over, and says who it is; `None` when it has ended. One that cannot be known is killed.
    fn take(self, mut child: Child) -> io::Result<Option<ProcessHandle>> {
        // Nobody has waited for it yet, so the pid is its own.
        let process = ProcessHandle::open(child.id() as i32);
        if process.is_err() {
            // It cannot fail for a child that is not reaped.
            let _ = child.kill();
        }
        // The thread waits for just this.
        let _ = self.0.send(child);
        process
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn own_nofile() -> (u64, u64) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // The kernel's "no limit" is all ones.
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
