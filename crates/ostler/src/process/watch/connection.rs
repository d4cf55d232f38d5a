//! A connection to a worker's port, whose end leaves nothing at that port.
//!
//! The side that closes a TCP connection first keeps it in TIME_WAIT. A server that does, as
//! `Connection: close` asks it to, or because it has ended, could not bind its port again for a
//! minute without SO_REUSEADDR. So this side answers a close by a reset, which leaves nothing
//! (socket(7), SO_LINGER), and otherwise closes first: the TIME_WAIT is then at a port of ours. It
//! does not reset what the server has not closed: a simple server fails at that.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection of a probe.
#[derive(Debug)]
pub(super) struct Connection(TcpStream);

impl Connection {
    /// Connects. If nothing listens there, the kernel may choose that very port as the local one,
    /// and the socket is then connected to itself: that is no connection.
    pub(super) async fn to(address: SocketAddr) -> io::Result<Self> {
        Self::of(TcpStream::connect(address).await?, address)
    }

    fn of(stream: TcpStream, address: SocketAddr) -> io::Result<Self> {
        if stream.local_addr()? == address {
            let _ = stream.set_zero_linger();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Self(stream))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // With anything unread, the kernel resets by itself.
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        if recv(self.0.as_raw_fd(), &mut [0; 1], flags) == Ok(0) {
            // It fails on a socket that has ended already.
            let _ = self.0.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    /// Nothing: after our own close there is no reset.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_connected_to_itself_is_no_connection() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let itself = socket.connect(address).await.expect("connected to itself");
        let refused = Connection::of(itself, address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// What the server reads when our end is dropped.
    async fn end_of(server_closes: bool) -> io::Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Connection::to(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let server = server.into_std().unwrap();
        if server_closes {
            server.shutdown(std::net::Shutdown::Write).unwrap();
            client.0.readable().await.unwrap();
        }
        drop(client);
        server.set_nonblocking(true).unwrap();
        let mut server = TcpStream::from_std(server).unwrap();
        server.read(&mut [0; 1]).await
    }

    #[tokio::test]
    async fn what_the_server_has_closed_is_reset_and_nothing_else() {
        let reset = end_of(true).await.unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(end_of(false).await.unwrap(), 0);
    }
}
