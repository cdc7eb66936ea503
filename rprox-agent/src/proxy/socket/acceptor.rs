//! A socket that listens, in a worker's event loop.

#![allow(unsafe_code, reason = "no library sets TCP_DEFER_ACCEPT")]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::lazy_tcp::LazyTcp;
use super::watched;

/// How long a connection may be kept back on which nothing has come, in seconds: until the kernel has asked the client once more.
static KEPT_BACK: libc::c_int = 1;

/// Accepts connections without telling the event loop of each, as tokio's listener would.
#[derive(Debug)]
pub struct Acceptor(AsyncFd<OwnedFd>);

impl Acceptor {
    /// Adds it to the event loop of this thread.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        // Linux gives it to each connection that is accepted.
        socket.set_tcp_nodelay(true)?;
        keep_back(&socket)?;
        Ok(Self(watched::for_reading(socket.into())?))
    }

    /// Waits for a connection.
    ///
    /// # Errors
    ///
    /// Those of accept4(2), of which some are the connection's: it is gone already.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(LazyTcp, SocketAddr)>> {
        loop {
            let mut readiness = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(accepted) = readiness.try_io(|_| self.accept_now()) {
                return Poll::Ready(accepted);
            }
        }
    }

    /// A connection that waits.
    ///
    /// # Errors
    ///
    /// Likewise; `WouldBlock` if there is none.
    pub fn accept_now(&self) -> io::Result<(LazyTcp, SocketAddr)> {
        let (tcp, peer) = acceptfrom_with(&self.0, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
        let peer =
            peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(ErrorKind::ConnectionAborted)?;
        Ok((LazyTcp::new(tcp.into()), peer))
    }
}

/// Has the kernel keep a connection until there is something to read: there would be nothing else to do for it
/// (`TCP_DEFER_ACCEPT`, tcp(7)).
fn keep_back(socket: &Socket) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&KEPT_BACK)).unwrap_or_default();
    let value = (&raw const KEPT_BACK).cast();
    let descriptor = socket.as_raw_fd();
    // SAFETY: the descriptor is open, and the value an integer of that length, as this option's is.
    let set =
        unsafe { libc::setsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
