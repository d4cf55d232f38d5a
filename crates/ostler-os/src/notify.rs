//! The socket on which a worker reports its state: `READY=1` and the like, the protocol of
//! sd_notify(3).
//!
//! Each message comes with the pid of its sender as known to the kernel (SO_PASSCRED, unix(7)), so
//! that the caller can check that the sender belongs to the worker's tree: it may be a child of the
//! worker, and any process that finds the socket can write to it. Descriptors attached to a message
//! are never received; the kernel closes them, which also makes sd_notify_barrier(3) return.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Pid, geteuid, getpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::socket_path;

/// The longest message that is read, as in systemd (PIPE_BUF); longer ones are skipped.
const LONGEST_MESSAGE: usize = 4096;

/// The content of one message. A message can have several assignments, one per line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The sender. 0: a process outside this PID namespace.
    pub sender_pid: i32,
    /// `READY=1`: the worker can serve.
    pub ready: bool,
    /// `STOPPING=1`: the worker is about to end.
    pub stopping: bool,
    /// `WATCHDOG=1`: the worker is alive.
    pub watchdog: bool,
    /// `STATUS=…`: a line for display, without control characters.
    pub status: Option<String>,
    /// `PORT=n` and `PORT_NAME=n`: the ports that the worker listens on, by name *as sent* (names
    /// in the environment are in capitals); the name of `PORT` is empty. An Ostler extension; port
    /// 0 is invalid and skipped.
    pub ports: Vec<(String, u16)>,
    /// Variables of sd_notify(3) that change what systemd does, and that Ostler ignores: a worker
    /// that relies on one should be reported.
    pub ignored: Vec<&'static str>,
}

/// The variables that are named in [`Message::ignored`].
const IGNORED: [&str; 6] = [
    "EXTEND_TIMEOUT_USEC",
    "MAINPID",
    "RELOADING",
    "ERRNO",
    "BUSERROR",
    "WATCHDOG_USEC",
];

impl Message {
    /// Parses the lines of a message. Returns `None` if none of them is known. `BARRIER`, `FDSTORE`
    /// and unknown variables are skipped.
    pub(crate) fn parse(sender_pid: i32, text: &[u8]) -> Option<Self> {
        let mut message = Self {
            sender_pid,
            ..Self::default()
        };
        let nothing = message.clone();
        // Written by a C program with the end of its string, which systemd takes off, too.
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        for line in text.split(|&byte| byte == b'\n') {
            message.take(&String::from_utf8_lossy(line));
        }
        (message != nothing).then_some(message)
    }

    fn take(&mut self, line: &str) {
        let Some((name, value)) = line.split_once('=') else {
            return;
        };
        match name {
            "READY" => self.ready |= value == "1",
            "STOPPING" => self.stopping |= value == "1",
            "WATCHDOG" if value == "trigger" => self.ignored.push("WATCHDOG=trigger"),
            "WATCHDOG" => self.watchdog |= value == "1",
            "STATUS" => self.status = Some(value.replace(char::is_control, " ")),
            "PORT" => self.take_port("", value),
            _ => {
                let ignored = IGNORED.into_iter().find(|ignored| *ignored == name);
                self.ignored.extend(ignored);
                if let Some(port) = name.strip_prefix("PORT_").filter(|port| !port.is_empty()) {
                    self.take_port(port, value);
                }
            }
        }
    }

    fn take_port(&mut self, name: &str, value: &str) {
        if let Some(port) = value.parse().ok().filter(|&port| port != 0) {
            self.ports.push((name.to_owned(), port));
        }
    }
}

/// A worker's notify socket. The owner must keep calling [`NotifySocket::recv`], because a worker
/// blocks in sd_notify(3) while too many messages (net.unix.max_dgram_qlen, often 10 or 512) are
/// unread. Dropping it unlinks its path.
#[derive(Debug)]
pub struct NotifySocket {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    /// A forked copy of the host does not unlink the path.
    host: Pid,
}

impl NotifySocket {
    /// A socket named `name` in `dir`, close-on-exec, at the path that [`socket_path::place`]
    /// chooses. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What socket(2) or bind(2) says: `AddrInUse` if the path exists.
    pub fn bind(dir: &Path, name: &str) -> io::Result<Self> {
        let path = socket_path::place(dir, name)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        // Before the socket has a name: no message comes without its sender.
        set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(&path)?)?;
        // SAFETY: an `OwnedFd` is one open descriptor for all its life, and ends with the `AsyncFd`
        // that owns it.
        match unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) } {
            Ok(socket) => Ok(Self {
                socket,
                path,
                host: getpid(),
            }),
            Err(error) => {
                unlink(&path);
                Err(error.into())
            }
        }
    }

    /// The value of the worker's `NOTIFY_SOCKET`: the socket's path.
    pub fn env_value(&self) -> OsString {
        self.path.clone().into()
    }

    /// The next meaningful message. Waits without limit; the caller sets the deadline. Cancel safe:
    /// a message is read and returned in one step.
    ///
    /// # Errors
    ///
    /// The error of recvmsg(2), or that the runtime is shutting down.
    pub async fn recv(&mut self) -> io::Result<Message> {
        loop {
            // A flood of meaningless messages must not keep this thread from running other tasks.
            tokio::task::consume_budget().await;
            let mut ready = self.socket.readable().await?;
            match receive(ready.get_inner()) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if getpid() == self.host {
            unlink(&self.path);
        }
    }
}

fn unlink(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        // Its directory is the run's, and may be gone already.
        tracing::debug!(path = %path.display(), %error, "a notify socket's path could not be unlinked");
    }
}

/// Whether a message of this user counts: its own user's and root's. To root, every process of a
/// worker counts, whatever user it has become; that it is one is checked by its pid. One that is no
/// longer root can't connect, because it can't enter the socket's directory; it can send by a
/// socket that was connected before.
fn is_trusted(sender: u32, own: u32) -> bool {
    own == 0 || sender == own || sender == 0
}

/// Takes one message off the socket; `None` if it is meaningless, too long, or without a sender.
fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    let mut text = [0; LONGEST_MESSAGE];
    let Received { length, sender, cut } = receive_raw(socket, &mut text)?;
    if cut {
        tracing::debug!(?sender, "skipped a notify message of more than {LONGEST_MESSAGE} bytes");
        return Ok(None);
    }
    let Some((pid, uid)) = sender else {
        return Ok(None);
    };
    if !is_trusted(uid, geteuid().as_raw()) {
        tracing::warn!(target: "ostler", pid, uid, "ignored a notify message from another user");
        return Ok(None);
    }
    Ok(Message::parse(pid, &text[..length]))
}

struct Received {
    length: usize,
    /// Pid and uid, as the kernel knows them.
    sender: Option<(i32, u32)>,
    /// Whether the text had no room.
    cut: bool,
}

/// Room for the sender's credentials only: attached descriptors do not fit, so the kernel closes
/// them and never installs them in our table. nix refuses a message whose control data was
/// truncated, and rustix requires a pid that is not 0.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    sender: libc::ucred,
}

fn receive_raw(socket: &OwnedFd, text: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: both are plain structs of integers and pointers, for which all zeros is a value.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = mem::size_of::<Control>();
    // SAFETY: the message points at one buffer of text and one of control data, each with its true
    // length, and both outlive the call. What the kernel writes into them is plain bytes and
    // integers.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let header = &control.header;
    // Still all zeros if the kernel wrote none.
    let has_sender = (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
    Ok(Received {
        length,
        sender: has_sender.then_some((control.sender.pid, control.sender.uid)),
        cut: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_users_messages_do_not_count() {
        assert!(is_trusted(1000, 1000) && is_trusted(0, 1000) && is_trusted(1000, 0));
        assert!(!is_trusted(1001, 1000));
    }
}
