//! Both ways between two sockets, until both have ended.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::{Buf as _, Bytes};

use super::direction::{Broken, Direction};
use crate::proxy::silence::Silence;
use crate::proxy::socket::lazy_tcp::LazyTcp;
use crate::proxy::socket::pipe::Pipes;

/// Bytes that were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// To the upstream.
    pub(super) up: u64,
    /// To the client.
    pub(super) down: u64,
}

/// Why it ended before both sides had closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    /// The client's connection broke.
    #[error("the client's connection: {0}")]
    Client(#[source] io::Error),
    /// The upstream's connection broke.
    #[error("the upstream's connection: {0}")]
    Upstream(#[source] io::Error),
    /// Silence.
    #[error("nothing was sent either way for timeouts.tunnel")]
    Idle,
}

/// Passes on what either side sends, first `first` to the upstream. The end of what one side sends is passed on as such, and the
/// other way goes on. `moved` is told of what was handed over.
///
/// # Errors
///
/// When a connection breaks, or when there is `silence`.
pub(super) async fn relay(
    client: &mut LazyTcp,
    mut first: Bytes,
    upstream: &mut LazyTcp,
    pipes: &Pipes,
    mut silence: Silence,
    mut moved: impl FnMut(Moved),
) -> Result<(), RelayError> {
    // A new connection has room. Where it broke, the next attempt says so.
    let sent = upstream.try_write(&first).unwrap_or_default();
    first.advance(sent);
    let client = client.watched().map_err(RelayError::Client)?;
    let upstream = upstream.watched().map_err(RelayError::Upstream)?;
    let mut up = Direction::new(first, sent as u64, pipes);
    let mut down = Direction::new(Bytes::new(), 0, pipes);
    poll_fn(|cx| {
        let sent = up.poll(cx, client, upstream, down.is_over()).map_err(|broken| match broken {
            Broken::Sender(error) => RelayError::Client(error),
            Broken::Receiver(error) => RelayError::Upstream(error),
        });
        let answered = down.poll(cx, upstream, client, up.is_over()).map_err(|broken| match broken {
            Broken::Sender(error) => RelayError::Upstream(error),
            Broken::Receiver(error) => RelayError::Client(error),
        });
        let now = Moved { up: up.moved(), down: down.moved() };
        let has_moved = now.up + now.down > 0;
        if has_moved {
            moved(now);
        }
        let ended = (sent?, answered?);
        if ended.0.is_ready() && ended.1.is_ready() {
            return Poll::Ready(Ok(()));
        }
        silence.poll(cx, has_moved).map(|()| Err(RelayError::Idle))
    })
    .await
}
