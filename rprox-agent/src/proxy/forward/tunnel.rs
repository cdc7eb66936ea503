//! Tunnels: what becomes of a request's two connections once they have changed to another protocol.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::Exchange;
use super::{http1, http2};
use crate::proxy::metrics::Limit;
use crate::proxy::silence::Silence;

/// How much is read at a time, at most. It lies on the stack: a tunnel in which nothing moves has no buffer.
const PIECE: usize = 16 * 1024;

/// The upstream's end of a tunnel.
pub enum Upstream {
    /// A connection.
    Http1(http1::Switched),
    /// A stream of one.
    Http2(http2::Duplex),
}

/// A tunnel, and the request that it began as.
pub struct Tunnel {
    upstream: Upstream,
    exchange: Exchange,
}

/// Why a tunnel ended before both sides had closed it.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    /// One side's connection broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// Silence.
    #[error("nothing was sent either way for timeouts.tunnel")]
    Idle,
}

impl Tunnel {
    /// A tunnel to `upstream`.
    #[must_use]
    pub fn new(upstream: Upstream, exchange: Exchange) -> Self {
        let metrics = &exchange.client().worker.metrics;
        metrics.tunnels.increment();
        metrics.tunnels_open.up();
        Self { upstream, exchange }
    }

    /// Passes on what either side sends until both have closed, or nothing has come for `timeouts.tunnel`. `first` is what the
    /// client has sent already.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, client: S, first: Bytes) {
        let worker = &self.exchange.client().worker;
        let silence = worker.silences.watch(worker.live().config.timeouts.tunnel);
        let ended = match &mut self.upstream {
            Upstream::Http1(upstream) => relay(client, first, upstream, &mut self.exchange, silence).await,
            Upstream::Http2(upstream) => relay(client, first, upstream, &mut self.exchange, silence).await,
        };
        if let Err(error) = ended {
            if matches!(error, TunnelError::Idle) {
                self.exchange.client().worker.metrics.limit_hits[Limit::TunnelTimeout].increment();
            }
            tracing::debug!(client = %self.exchange.client().peer, %error, "tunnel ended");
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.exchange.client().worker.metrics.tunnels_open.down();
    }
}

async fn relay<C, U>(
    mut client: C,
    first: Bytes,
    upstream: &mut U,
    exchange: &mut Exchange,
    mut silence: Silence,
) -> Result<(), TunnelError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction { pending: first, state: State::Open, moved: 0 };
    let mut down = Direction { pending: Bytes::new(), state: State::Open, moved: 0 };
    poll_fn(|cx| {
        let ended = (up.poll(cx, &mut client, upstream)?, down.poll(cx, upstream, &mut client)?);
        exchange.sends(down.moved);
        if ended.0.is_ready() && ended.1.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let has_moved = mem::take(&mut up.moved) + mem::take(&mut down.moved) > 0;
        silence.poll(cx, has_moved).map(|()| Err(TunnelError::Idle))
    })
    .await
}

/// One way through a tunnel.
struct Direction {
    /// What was read and not taken yet.
    pending: Bytes,
    state: State,
    /// Bytes read since somebody asked last.
    moved: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The sender may send.
    Open,
    /// The sender has closed its half, which the receiver must be told.
    Closing,
    /// The receiver knows.
    Closed,
}

impl Direction {
    /// Moves bytes until there is nothing to read or no room to write; ready once the sender's end has been passed on.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (mut from, mut to) = (Pin::new(from), Pin::new(to));
        loop {
            while self.pending.has_remaining() {
                let written = ready!(to.as_mut().poll_write(cx, &self.pending))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.pending.advance(written);
                if self.pending.is_empty() {
                    // Emptied it would still hold its memory.
                    self.pending = Bytes::new();
                }
            }
            match self.state {
                State::Open => {}
                State::Closing => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
            if self.state == State::Open {
                let mut space = [const { MaybeUninit::uninit() }; PIECE];
                let mut piece = ReadBuf::uninit(&mut space);
                if from.as_mut().poll_read(cx, &mut piece)?.is_pending() {
                    // TLS may hold back what it was given.
                    ready!(to.as_mut().poll_flush(cx))?;
                    return Poll::Pending;
                }
                self.moved += piece.filled().len();
                match piece.filled() {
                    [] => self.state = State::Closing,
                    bytes => {
                        let written = match to.as_mut().poll_write(cx, bytes)? {
                            Poll::Ready(written) => written,
                            Poll::Pending => 0,
                        };
                        if written < bytes.len() {
                            self.pending = Bytes::copy_from_slice(&bytes[written..]);
                        }
                    }
                }
            }
        }
    }
}
