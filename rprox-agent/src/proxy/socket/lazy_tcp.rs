//! A socket that costs the event loop nothing until something has to be waited for.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::net::{self, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{tcp, watched};

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

    /// Takes the connection, and leaves none.
    #[must_use]
    pub fn take(&mut self) -> Self {
        mem::replace(self, Self::Lost)
    }

    /// The connection, watched by nobody.
    ///
    /// # Errors
    ///
    /// When the event loop doesn't let it go, or it is lost.
    pub fn into_unwatched(self) -> io::Result<net::TcpStream> {
        match self {
            Self::Unwatched(tcp) => Ok(tcp),
            Self::Watched(tcp) => tcp.into_std(),
            Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Connects to `address`.
    ///
    /// # Errors
    ///
    /// Those of connect(2), and as of [`watched`](Self::watched).
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        let mut connected = connect(&socket, &address);
        if connected == Err(Errno::INPROGRESS) {
            // On this host the other end has answered by now, and this says what.
            connected = connect(&socket, &address);
        }
        let tcp = net::TcpStream::from(socket);
        match connected {
            Ok(()) | Err(Errno::ISCONN) => Ok(Self::new(tcp)),
            Err(Errno::ALREADY) => {
                let mut waiting = Self::new(tcp);
                let tcp = waiting.watched()?;
                tcp.writable().await?;
                tcp.take_error()?.map_or(Ok(waiting), Err)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether nobody is told what becomes of it.
    #[must_use]
    pub fn is_unwatched(&self) -> bool {
        matches!(self, Self::Unwatched(_))
    }

    /// Has it watched from now on.
    ///
    /// # Errors
    ///
    /// When the event loop can't: out of memory, or of `fs.epoll.max_user_watches`. It is lost then, and the operator told.
    pub fn watched(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::Unwatched(_) = self
            && let Self::Unwatched(tcp) = self.take()
        {
            *self = Self::Watched(TcpStream::from_std(tcp).inspect_err(watched::refused)?);
        }
        match self {
            Self::Watched(tcp) => Ok(tcp),
            Self::Unwatched(_) | Self::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// The connection, watched.
    ///
    /// # Errors
    ///
    /// As of [`watched`](Self::watched).
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
        Ok(tcp::write_now(self.socket()?, bytes)?)
    }

    /// Has its close reset it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or it is lost.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(self.socket()?, Some(Duration::ZERO))?)
    }

    /// Writes as many of the slices' bytes as there is room for; they are the last, and the close is to follow at once.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(|tcp| tcp::write_last_now(tcp, slices), |tcp| tcp::poll_write_last(tcp, cx, slices))
    }

    /// Writes `now` to the unwatched connection, or, where that can't be, `later` to the watched one.
    fn poll_send(
        &mut self,
        now: impl FnOnce(&net::TcpStream) -> rustix::io::Result<usize>,
        later: impl FnOnce(&TcpStream) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Self::Unwatched(tcp) = &*self
            && let Some(written) = at_once(now(tcp))
        {
            return Poll::Ready(written);
        }
        later(self.watched()?)
    }
}

/// What came of a system call; `None`: it is to be waited for.
fn at_once(done: rustix::io::Result<usize>) -> Option<io::Result<usize>> {
    match done {
        Err(Errno::AGAIN | Errno::INTR) => None,
        done => Some(done.map_err(io::Error::from)),
    }
}

impl From<TcpStream> for LazyTcp {
    fn from(tcp: TcpStream) -> Self {
        Self::Watched(tcp)
    }
}

impl AsyncRead for LazyTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Self::Unwatched(tcp) = &*self
            && let Some(read) = at_once(tcp::read_now(tcp, buffer))
        {
            return Poll::Ready(read.map(drop));
        }
        tcp::poll_read(self.watched()?, cx, buffer)
    }
}

impl AsyncWrite for LazyTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(|tcp| tcp::write_now(tcp, bytes), |tcp| tcp::poll_write(tcp, cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(
            |tcp| tcp::write_vectored_now(tcp, slices),
            |tcp| tcp::poll_write_vectored(tcp, cx, slices),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unwatched(tcp) => Poll::Ready(tcp.shutdown(Shutdown::Write)),
            Self::Watched(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Lost => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Our end of a connection, and the other.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(LazyTcp, net::TcpStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let far = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let near = listener.accept().unwrap().0;
            near.set_nonblocking(true).unwrap();
            timeout(PATIENCE, test(LazyTcp::new(near), far)).await.unwrap();
        });
    }

    #[test]
    fn what_has_come_is_answered_without_the_event_loop() {
        run(|mut near, mut far| async move {
            far.write_all(b"question").unwrap();
            let mut question = [0; 8];
            near.read_exact(&mut question).await.unwrap();
            near.write_all(b"answer").await.unwrap();
            assert!(near.is_unwatched());
            near.shutdown().await.unwrap();
            let mut answer = String::new();
            far.read_to_string(&mut answer).unwrap();
            assert_eq!((&question, &answer[..]), (b"question", "answer"));
            assert!(near.is_unwatched());
        });
    }

    #[test]
    fn an_end_on_this_host_answers_without_the_event_loop() {
        run(|_, _| async {
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut near = LazyTcp::connect(listener.local_addr().unwrap()).await.unwrap();
            near.write_all(b"question").await.unwrap();
            assert!(near.is_unwatched());
            let mut question = [0; 8];
            listener.accept().unwrap().0.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"question");
        });
    }

    #[test]
    fn where_nobody_listens_a_connection_is_refused() {
        run(|_, far| async move {
            let refused = LazyTcp::connect(far.local_addr().unwrap()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn an_end_that_takes_its_time_to_answer_is_waited_for() {
        run(|_, _| async {
            let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
            // There is room for one.
            listener.listen(0).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let _first = net::TcpStream::connect(address).unwrap();
            let mut second = pin!(LazyTcp::connect(address));
            assert!(timeout(Duration::ZERO, second.as_mut()).await.is_err());
            let _accepted = listener.accept().unwrap();
            let mut near = second.await.unwrap();
            near.write_all(b"x").await.unwrap();
            let mut x = [0; 1];
            listener.accept().unwrap().0.read_exact(&mut x).unwrap();
            assert_eq!(&x, b"x");
        });
    }

    #[test]
    fn what_comes_later_is_waited_for() {
        run(|mut near, mut far| async move {
            let mut first = [0; 1];
            let later = async { far.write_all(b"x").unwrap() };
            let (read, ()) = tokio::join!(near.read_exact(&mut first), later);
            assert_eq!((read.unwrap(), &first), (1, b"x"));
            assert!(!near.is_unwatched());
            drop(far);
            assert_eq!(near.read(&mut first).await.unwrap(), 0);
        });
    }

    #[test]
    fn room_is_waited_for() {
        const MUCH: usize = 32 << 20;
        run(|mut near, mut far| async move {
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                far.read_to_end(&mut all).unwrap();
                all
            });
            near.write_all(&vec![7; MUCH]).await.unwrap();
            assert!(!near.is_unwatched());
            drop(near);
            let all = reader.join().unwrap();
            assert!(all.len() == MUCH && all.iter().all(|byte| *byte == 7));
        });
    }
}
