//! Reads and writes of a TCP connection, by the kernel's own system calls.
//!
//! In libc each is a point at which a thread may be cancelled. To say so takes two locked instructions before every call and after
//! it, and nobody cancels threads here.

#![allow(unsafe_code, reason = "room that nothing is in yet is given to the kernel, which fills it")]

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

/// Reads what there is, as far as there is room for it; nothing at the end.
///
/// # Errors
///
/// When the connection broke.
pub fn poll_read(tcp: &TcpStream, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let room = buffer.remaining();
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        if attempt(tcp, Interest::READABLE, room, || read_now(tcp, buffer))?.is_some() {
            return Poll::Ready(Ok(()));
        }
    }
}

/// Reads what there is at the moment, as far as there is room for it; how much, 0 at the end.
///
/// # Errors
///
/// `AGAIN` when there is nothing; when the connection broke.
pub fn read_now(tcp: impl AsFd, buffer: &mut ReadBuf<'_>) -> rustix::io::Result<usize> {
    // SAFETY: what is there already is not made uninitialised, since the kernel only writes to it.
    let space = unsafe { buffer.unfilled_mut() };
    let (_, read) = rustix::net::recv(tcp, space, RecvFlags::empty())?;
    // SAFETY: the kernel has written so many bytes there.
    unsafe { buffer.assume_init(read) };
    buffer.advance(read);
    Ok(read)
}

/// Writes as many of the bytes as there is room for at the moment.
///
/// # Errors
///
/// `AGAIN` when there is none; when the connection broke.
pub fn write_now(tcp: impl AsFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::net::send(tcp, bytes, SendFlags::NOSIGNAL)
}

/// Writes as many of the slices' bytes as there is room for at the moment.
///
/// # Errors
///
/// Likewise.
pub fn write_vectored_now(tcp: impl AsFd, slices: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    // Rust's programs ignore SIGPIPE.
    rustix::io::writev(tcp, slices)
}

/// Likewise, of the last that is written: the end, which is to follow at once, goes in the same packet.
///
/// # Errors
///
/// Likewise.
pub fn write_last_now(tcp: impl AsFd, slices: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    let nothing = &mut SendAncillaryBuffer::default();
    rustix::net::sendmsg(tcp, slices, nothing, SendFlags::NOSIGNAL | SendFlags::MORE)
}

/// Writes as many of the bytes as there is room for.
///
/// # Errors
///
/// When the connection broke.
pub fn poll_write(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    poll_send(tcp, cx, bytes.len(), || write_now(tcp, bytes))
}

/// Writes as many of the slices' bytes as there is room for.
///
/// # Errors
///
/// When the connection broke.
pub fn poll_write_vectored(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    poll_send(tcp, cx, length(slices), || write_vectored_now(tcp, slices))
}

/// Likewise, as [`write_last_now`] does.
///
/// # Errors
///
/// When the connection broke.
pub fn poll_write_last(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    poll_send(tcp, cx, length(slices), || write_last_now(tcp, slices))
}

fn length(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

fn poll_send(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    length: usize,
    mut send: impl FnMut() -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        if let Some(written) = attempt(tcp, Interest::WRITABLE, length, &mut send)? {
            return Poll::Ready(Ok(written));
        }
    }
}

/// How many bytes were moved; `None`: none could be, or it was interrupted. Fewer than the `most` that it might have been were all for
/// now, so that the socket is waited for before the next attempt: it would be in vain.
fn attempt(
    tcp: &TcpStream,
    interest: Interest,
    most: usize,
    call: impl FnOnce() -> rustix::io::Result<usize>,
) -> io::Result<Option<usize>> {
    let mut moved = None;
    let outcome = tcp.try_io(interest, || {
        let bytes = call()?;
        moved = Some(bytes);
        // By this alone the runtime learns that it has to wait.
        if bytes > 0 && bytes < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match outcome {
        _ if moved.is_some() => Ok(moved),
        Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Err(error)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Both ends of a connection.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(TcpStream, TcpStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let far = listener.accept().await.unwrap().0;
            timeout(PATIENCE, test(near, far)).await.unwrap();
        });
    }

    async fn read(tcp: &TcpStream, room: usize) -> io::Result<Vec<u8>> {
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        poll_fn(|cx| poll_read(tcp, cx, &mut buffer)).await?;
        Ok(buffer.filled().to_vec())
    }

    #[test]
    fn what_comes_is_read_to_the_end() {
        run(|near, mut far| async move {
            for text in ["first", "and the next"] {
                far.write_all(text.as_bytes()).await.unwrap();
                assert_eq!(read(&near, 100).await.unwrap(), text.as_bytes());
            }
            far.write_all(b"more than there is room for").await.unwrap();
            assert_eq!(read(&near, 5).await.unwrap(), b"more ");
            drop(far);
            assert_eq!(read(&near, 100).await.unwrap(), b"than there is room for");
            assert_eq!(read(&near, 100).await.unwrap(), b"");
        });
    }

    #[test]
    fn a_full_socket_is_waited_for() {
        const MUCH: usize = 32 << 20;
        run(|near, mut far| async move {
            let reader = async move {
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.unwrap();
                all
            };
            let writer = async move {
                let piece = vec![7; MUCH];
                let mut left = &piece[..];
                while !left.is_empty() {
                    let half = left.len() / 2;
                    let slices = [IoSlice::new(&left[..half]), IoSlice::new(&left[half..])];
                    let written = poll_fn(|cx| poll_write_vectored(&near, cx, &slices)).await.unwrap();
                    left = &left[written..];
                    if !left.is_empty() {
                        left = &left[poll_fn(|cx| poll_write(&near, cx, left)).await.unwrap()..];
                    }
                }
            };
            let (all, ()) = tokio::join!(reader, writer);
            assert!(all.len() == MUCH && all.iter().all(|byte| *byte == 7));
        });
    }

    #[test]
    fn a_reset_is_an_error() {
        run(|near, far| async move {
            far.set_zero_linger().unwrap();
            drop(far);
            assert_eq!(read(&near, 100).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            let written = poll_fn(|cx| poll_write(&near, cx, b"x")).await;
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }
}
