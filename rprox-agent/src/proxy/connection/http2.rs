//! An HTTP/2 client's connection: its streams come in here, and each has a task of its own.

#![forbid(unsafe_code)]

mod duplex;
mod frames;
mod refusals;
mod socket;
mod stream;

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, Handshake};
use tokio::io::{AsyncRead, AsyncWrite};

use self::refusals::{Refusals, Watched};
use self::socket::Socket;
use super::client::Client;

/// A connection that is being served.
pub struct Http2<S> {
    client: Rc<Client>,
    state: State<S>,
    socket: Socket<S>,
    refusals: Rc<RefCell<Refusals>>,
    finishing: bool,
    refused: bool,
}

enum State<S> {
    /// The client's preface is awaited.
    Beginning(Handshake<Watched<Socket<S>>, Bytes>),
    Serving(Connection<Watched<Socket<S>>, Bytes>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http2<S> {
    /// Serves the client by its `socket`.
    pub fn new(builder: &Builder, client: Rc<Client>, socket: S) -> Self {
        let socket = Socket::new(socket, Rc::clone(&client.worker));
        let refusals = Rc::new(RefCell::new(Refusals::new(Arc::clone(&client.worker.metrics))));
        let state = State::Beginning(builder.handshake(Watched::new(socket.clone(), Rc::clone(&refusals))));
        Self { client, state, socket, refusals, finishing: false, refused: false }
    }

    /// Moves it on, until it has ended.
    ///
    /// # Errors
    ///
    /// When it does not end well.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Poll::Ready(ended) = self.poll_streams(cx) {
                return Poll::Ready(ended);
            }
            // Now everything that there is to send has been written.
            if self.socket.poll_send(cx) != Poll::Ready(false) {
                return Poll::Pending;
            }
        }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            let connection = match &mut self.state {
                State::Serving(connection) => connection,
                State::Beginning(handshake) => {
                    self.state = State::Serving(ready!(Pin::new(handshake).poll(cx))?);
                    if self.finishing {
                        self.finish();
                    }
                    if self.refused {
                        self.refuse();
                    }
                    continue;
                }
            };
            if self.refused {
                return connection.poll_closed(cx);
            }
            let Some(accepted) = ready!(pin!(connection.accept()).poll(cx)) else {
                return Poll::Ready(Ok(()));
            };
            let (request, respond) = accepted?;
            self.refusals.borrow_mut().accept(respond.stream_id());
            tokio::task::spawn_local(stream::serve(Rc::clone(&self.client), request, respond));
        }
    }

    /// Takes no more requests, finishes what runs, ends.
    pub fn finish(&mut self) {
        self.finishing = true;
        if let State::Serving(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    /// Ends at once and tells the client that it asks for too much.
    pub fn refuse(&mut self) {
        self.refused = true;
        // What it has sent meanwhile must not keep it from being told.
        self.client.body_left_unread();
        if let State::Serving(connection) = &mut self.state {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
    }
}
