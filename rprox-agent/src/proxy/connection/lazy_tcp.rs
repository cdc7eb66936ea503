//! A client's socket that costs the event loop nothing until something has to be waited for.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::mem::{self, MaybeUninit};
use std::net::{self, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::stream::FIRST_READ;

/// A connection that is read and written at once, as far as the kernel has bytes and room. The first time that it hasn't, the event loop
/// is told to watch it.
///
/// Who connects to ask for one thing has asked by the time that the connection is accepted, and reads the answer. Such a connection would be
/// added and removed for nothing.
#[derive(Debug)]
pub enum LazyTcp {
    /// Nobody watches it.
    Unwatched(net::TcpStream),
    /// The event loop does.
    Watched(TcpStream),
    /// It could not be.
    Lost,
}

impl LazyTcp {
    /// A connection that does not block.
    #[must_use]
    pub fn new(tcp: net::TcpStream) -> Self {
        Self::Unwatched(tcp)
    }

    /// Whether nobody is told what becomes of it.
    #[must_use]
    pub fn is_unwatched(&self) -> bool {
        matches!(self, Self::Unwatched(_))
    }

    /// The connection, watched.
    ///
    /// # Errors
    ///
    /// When the event loop can't watch it: out of memory. It is lost then.
    pub fn watched(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::Unwatched(_) = self
            && let Self::Unwatched(tcp) = mem::replace(self, Self::Lost)
        {
            *self = Self::Watched(TcpStream::from_std(tcp)?);
        }
        match self {
            Self::Watched(tcp) => Ok(tcp),
            Self::Unwatched(_) | Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Likewise.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn into_watched(mut self) -> io::Result<TcpStream> {
        self.watched()?;
        match self {
            Self::Watched(tcp) => Ok(tcp),
            Self::Unwatched(_) | Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// The socket.
    ///
    /// # Errors
    ///
    /// When it is lost.
    pub fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Unwatched(tcp) => Ok(tcp.as_fd()),
            Self::Watched(tcp) => Ok(tcp.as_fd()),
            Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// The end of it that is ours.
    ///
    /// # Errors
    ///
    /// When the kernel doesn't say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Unwatched(tcp) => tcp.local_addr(),
            Self::Watched(tcp) => tcp.local_addr(),
            Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Writes as much as there is room for.
    ///
    /// # Errors
    ///
    /// When there is none, or the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unwatched(tcp) => { tcp }.write(bytes),
            Self::Watched(tcp) => tcp.try_write(bytes),
            Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Does `now` to the unwatched connection, or, where that can't be done now, `later` to the watched one.
    fn poll<T>(
        &mut self,
        now: impl FnOnce(&net::TcpStream) -> io::Result<T>,
        later: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Self::Unwatched(tcp) = self {
            match now(tcp) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                done => return Poll::Ready(done),
            }
        }
        later(Pin::new(self.watched()?))
    }
}

impl AsyncRead for LazyTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // More would be copied once more than it has to be.
        if let Self::Unwatched(tcp) = &*self
            && buffer.remaining() <= FIRST_READ
        {
            let mut space = [const { MaybeUninit::uninit() }; FIRST_READ];
            match recv(tcp, &mut space[..buffer.remaining()], RecvFlags::DONTWAIT) {
                Ok(((piece, _), _)) => {
                    buffer.put_slice(piece);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Pin::new(self.watched()?).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LazyTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|mut tcp| tcp.write(bytes), |tcp| tcp.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|mut tcp| tcp.write_vectored(slices), |tcp| tcp.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|tcp| tcp.shutdown(Shutdown::Write), |tcp| tcp.poll_shutdown(cx))
    }
}
