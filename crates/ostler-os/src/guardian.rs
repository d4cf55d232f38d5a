//! The host's link to its guardian: the small program that starts every worker and ends every tree
//! when the host is gone.
//!
//! [`Guardian::launch`] starts the program and returns two halves: the [`Guardian`], a handle that
//! sends orders and never waits, and the [`Events`], which report the results. The host has no
//! child except the guardian and receives no descriptors; everything about a worker arrives as a
//! [`GuardianEvent`]. ADR 0002 describes the program, ADR 0003 how it is started.

mod ending;
mod error;
mod event;
mod events;
mod inbox;
mod orders;
mod program;
mod relay;
mod request;
mod silence;

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
use rustix::process::{Pid, PidfdFlags, Resource, getpid};
use tokio::sync::watch;

use ending::Ending;
pub use error::{Attempt, LaunchError, OrderError, QuitError};
pub use event::{GuardianEvent, SignalCause, SpawnStep, TreeKill, TreeProcess};
pub use events::Events;
pub use program::ProgramFrom;
pub use request::{EndPolicy, SpawnRequest};

use crate::identity::{Attribution, ProcessHandle, ProcessIdentity};
use crate::patience;
use crate::protocol::{Hello, MAX_SLOTS, Order, OrderKind, VERSION};
use inbox::Inbox;
use orders::Orders;
use relay::Relay;
use silence::Silence;

/// How the guardian is launched.
#[derive(Debug, Clone)]
pub struct GuardianOptions {
    /// A program to run instead of the built-in one. It takes precedence over the environment
    /// variable `OSTLER_GUARDIAN`, which does the same unless it is empty, or the host runs set-uid
    /// (AT_SECURE). Default: none.
    pub program: Option<PathBuf>,
    /// Whether to run the built-in program from a memory file, which leaves nothing on disk. When
    /// this is false, or the system forbids that, a file in a cache directory is used. Default:
    /// true.
    pub memfd: bool,
    /// The directory for that file if neither `$XDG_CACHE_HOME` nor `~/.cache` can be used. Created
    /// if missing; refused if other users own it or may write to it. Default: none.
    pub state_dir: Option<PathBuf>,
    /// The limit from exec to the guardian's first answer. Zero fails the launch. Default: 5 s.
    pub handshake_timeout: Duration,
    /// The soft and hard `RLIMIT_NOFILE` of workers. `None`: this process's limits at the launch,
    /// which is wrong if it has raised its own soft limit by then. Default: `None`.
    pub worker_nofile: Option<(u64, u64)>,
    /// A descriptor that guardian and sitters keep open until they end, and that no worker
    /// inherits. When a lock on that open file can be taken, all of them have ended. Default: none.
    pub lock: Option<Arc<OwnedFd>>,
    /// The argument of guardian and sitters in process listings, such as the app's name. Default:
    /// empty.
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

/// Bytes of events that may wait in the socket: up to about 1,300 messages, since the kernel
/// doubles the value. The kernel caps it at `net.core.wmem_max`.
const EVENTS_BUFFER: usize = 512 * 1024;

/// How the guardian ended; `None` inside if another part of this process reaped it.
#[derive(Debug, Clone, Copy)]
struct Exit(Option<ExitStatus>);

/// A handle that sends orders. Clones refer to the same guardian. Only [`quit`](Self::quit) waits
/// for the guardian.
///
/// Dropping the last clone abandons the guardian, like [`abandon`](Self::abandon).
#[derive(Debug, Clone)]
pub struct Guardian {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    process: ProcessHandle,
    program: ProgramFrom,
    orders: Arc<Orders>,
    exit: watch::Receiver<Option<Exit>>,
    ending: Ending,
    silence: Silence,
    /// The process that launched the guardian.
    host: Pid,
}

impl Link {
    /// Closes the control socket, and continues the guardian if it is stopped, because otherwise it
    /// would not notice.
    ///
    /// A forked copy of the host does nothing: the connection is the host's, which may still use
    /// it.
    fn let_go(&self) {
        if getpid() != self.host {
            return;
        }
        self.ending.order();
        self.orders.close();
        self.signal(Signal::CONT, "the host lets go of it");
    }

    /// Does nothing if the guardian has ended.
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

/// A program that was started and has not yet proved to be a guardian. Killed on drop.
struct Unproven(Option<Link>);

impl Drop for Unproven {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.signal(Signal::KILL, "it did not answer as a guardian");
        }
    }
}

impl Guardian {
    /// Starts a guardian and waits for its first answer.
    ///
    /// The calling process is the host: when it ends in any way, the guardian ends every tree.
    /// Needs a tokio runtime with I/O and time, by which the events are received from then on.
    /// After that runtime has ended, orders are still sent, and dropping the handle still ends
    /// everything. Cancel safe: nothing is left running.
    ///
    /// # Errors
    /// If the program can't be run, does not answer within `handshake_timeout`, or has
    /// another protocol version. Nothing is left running.
    pub async fn launch(options: GuardianOptions) -> Result<(Self, Events), LaunchError> {
        let setup = |what| move |source: io::Error| LaunchError::Setup { what, source };
        let (control, guardian_control) = socket_pair().map_err(setup("control socket"))?;
        let (events, guardian_events) = socket_pair().map_err(setup("events socket"))?;
        // As large as the system allows, so that a burst of events does not wait for a slow reader.
        // Any size works.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&guardian_events, EVENTS_BUFFER);
        let host = rustix::process::pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|e| setup("pidfd of this process")(e.into()))?;

        let (nofile_soft, nofile_hard) = options.worker_nofile.unwrap_or_else(own_nofile);
        let hello = Hello {
            version: VERSION,
            dumpable: must_be_dumpable(),
            nofile_soft,
            nofile_hard,
        };
        let mut given = vec![guardian_events, host];
        if let Some(lock) = &options.lock {
            given.push(lock.try_clone().map_err(setup("copy of the lock"))?);
        }
        orders::send(control.as_fd(), &hello.encode(), &given).map_err(|e| setup("first message")(e.into()))?;
        drop(given);
        // Everything that may fail for lack of resources comes before there is a process.
        let (reaper, exit) = Reaper::start().map_err(setup("thread that waits for the guardian"))?;
        let (ending, silence) = (Ending::default(), Silence::default());
        let inbox = Inbox::new(events, ending.clone(), silence.clone());
        let mut events = Events::new(Arc::new(inbox), exit.clone()).map_err(setup("events socket"))?;
        let orders = Arc::new(Orders::new(control, silence.clone()));
        let relay = Relay::start().map_err(setup("thread that relays orders"))?;

        let (child, program) = program::start(&options, &guardian_control).await?;
        drop(guardian_control);
        let process = reaper.take(child).map_err(setup("identity of the guardian"))?;
        let Some(process) = process else {
            return Err(events.died().await);
        };
        let mut launched = Unproven(Some(Link {
            process,
            program,
            orders,
            exit,
            ending,
            silence,
            host: getpid(),
        }));
        let within = options.handshake_timeout;
        let answer = patience::within(within, events.ready()).await;
        answer.unwrap_or(Err(LaunchError::Timeout { within }))?;
        let link = launched.0.take().expect("it is taken once");
        relay.serve(Arc::clone(&link.orders), events.inbox());
        Ok((Self { link: Arc::new(link) }, events))
    }

    /// The guardian's pid. It stays the guardian's until [`GuardianEvent::Lost`] or
    /// [`GuardianEvent::Ended`].
    pub fn pid(&self) -> u32 {
        self.identity().pid.unsigned_abs()
    }

    /// The guardian's identity, which outlives this process in records.
    pub fn identity(&self) -> ProcessIdentity {
        self.link.process.identity()
    }

    /// Where its program was run from (ADR 0003).
    pub fn program(&self) -> &ProgramFrom {
        &self.link.program
    }

    /// Starts an incarnation in its slot. Slots are dense indexes from 0. A slot that is new, or
    /// was closed, gets a sitter first. Answered by `Spawned` or `SpawnFailed`; a slot that still
    /// has a tree fails with EBUSY.
    ///
    /// # Errors
    /// If the request can't be sent, or the guardian is gone. Nothing was started.
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

    /// Ends an incarnation: `signal`, then CONT, to its process group. After `grace` (whole
    /// milliseconds; zero kills at once), or as soon as the whole group has ended, KILL to the rest
    /// of its tree. Answered by `Exited` and `TreeGone`.
    ///
    /// Can be called in every state and any number of times. Another call can only bring the end
    /// forward; its signal is sent if it has not been sent before. It also continues a sitter that
    /// was stopped from outside. Has no effect on an incarnation that is not in the slot.
    ///
    /// # Errors
    /// If the guardian is gone.
    pub fn end(&self, slot: u32, incarnation: u64, signal: Signal, grace: Duration) -> Result<(), OrderError> {
        let mut order = Order::new(OrderKind::End, slot, incarnation);
        order.signal = signal.number();
        order.grace_ms = milliseconds(grace);
        self.link.orders.give(&order, Vec::new())
    }

    /// Closes slots: the sitter of each exits once its tree is gone; this does not end the tree.
    /// Answered by a `Closed` for each slot.
    ///
    /// # Errors
    /// If the guardian is gone.
    pub fn close(&self, slots: &[u32]) -> Result<(), OrderError> {
        let orders = slots.iter().map(|slot| Order::new(OrderKind::Close, *slot, 0));
        self.link.orders.give_all(orders)
    }

    /// Requests the guardian's sitters and its other children. Answered by `Census`.
    ///
    /// # Errors
    /// If the guardian is gone.
    pub fn census(&self) -> Result<(), OrderError> {
        self.link.orders.give(&Order::new(OrderKind::Census, 0, 0), Vec::new())
    }

    /// Closes every slot, and waits at most `within` for the guardian to end, which it does once no
    /// tree is left. Cancel safe: the guardian ends anyway.
    ///
    /// # Errors
    /// If a tree is still held at the deadline. The guardian then starts nothing new, and
    /// ends as soon as it can.
    pub async fn quit(&self, within: Duration) -> Result<(), QuitError> {
        self.link.ending.order();
        self.link.orders.give(&Order::new(OrderKind::Quit, 0, 0), Vec::new())?;
        let mut exit = self.link.exit.clone();
        // The sender is dropped only after it has sent the exit.
        let ended = patience::within(within, exit.wait_for(Option::is_some)).await;
        ended.map(drop).ok_or(QuitError::Timeout { within })
    }

    /// Abandons the guardian: it ends every tree by its `host_death` policy, then exits. Needs no
    /// runtime and does not wait. Events still arrive; orders fail with
    /// [`OrderError::Gone`]. Does nothing in a forked copy of the host.
    pub fn abandon(&self) {
        self.link.let_go();
    }

    /// The number of messages received so far, while an order was given of which nothing proves
    /// that the guardian has read it; `None` if there is no such order. If the number stays the
    /// same, the guardian is silent. Only the answer to [`ask`](Self::ask) is a proof: an event may
    /// have been sent before the order came.
    pub fn unconfirmed(&self) -> Option<u64> {
        self.link.silence.since()
    }

    /// Asks the guardian for a sign of life, which confirms all orders before. Does not wait.
    pub fn ask(&self) {
        // If the guardian is gone, `Lost` reports it.
        let _ = self.link.orders.give(&Order::new(OrderKind::Ping, 0, 0), Vec::new());
    }

    /// Continues a guardian that was stopped from outside, and asks it. Does not wait.
    pub fn wake(&self) {
        self.link.signal(Signal::CONT, "an answer is overdue");
        self.ask();
    }

    /// Kills a guardian that does not answer. Each of its sitters then ends its tree and exits.
    /// Does not wait.
    pub fn kill(&self) {
        self.link.signal(Signal::KILL, "it does not answer");
    }
}

/// Waits for the guardian on a thread, so that it is reaped with or without a runtime. The thread
/// exists before the child, so that no child is left without one.
struct Reaper(mpsc::Sender<Child>);

impl Reaper {
    fn start() -> io::Result<(Self, watch::Receiver<Option<Exit>>)> {
        let (sender, exit) = watch::channel(None);
        let (give, given) = mpsc::channel::<Child>();
        thread::Builder::new()
            .name("ostler-reaper".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                let Ok(mut child) = given.recv() else { return };
                // ECHILD if SIGCHLD is ignored or the host reaps every child itself: the guardian
                // is gone anyway.
                let status = child.wait().ok();
                sender.send_replace(Some(Exit(status)));
            })?;
        Ok((Self(give), exit))
    }

    /// Takes over a child, and identifies it; `None` if it has ended. A child that can't be
    /// identified is killed.
    fn take(self, mut child: Child) -> io::Result<Option<ProcessHandle>> {
        // It is not reaped yet, so the pid can't be reused.
        let process = ProcessHandle::open(child.id() as i32);
        if process.is_err() {
            // It can't fail for an unreaped child.
            let _ = child.kill();
        }
        // The thread waits for exactly this.
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

/// Where `/proc` hides processes of other users, it hides undumpable ones of our own user, too: the
/// host could not follow its sitters' trees there. The mount can't be examined without `/proc`, and
/// then nothing is hidden either.
fn must_be_dumpable() -> bool {
    crate::machine::hidepid().is_ok_and(|hidden| hidden.is_some())
}
