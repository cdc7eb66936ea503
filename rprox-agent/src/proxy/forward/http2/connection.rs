//! A connection, on which streams are opened in turn.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use tokio::sync::{Mutex, SetOnce};

use super::error::Error;
use super::upload::Upload;
use crate::proxy::config::Config;
use crate::proxy::forward::dial::Io;
use crate::proxy::forward::failure::{Broken, Failure};
use crate::proxy::forward::place::Place;
use crate::proxy::forward::request::Beside;

/// How much may come of all responses together before any of it is passed on.
const CONNECTION_WINDOW: u32 = 5 << 20;

/// How much may come of one response.
const STREAM_WINDOW: u32 = 2 << 20;

/// How much of a request's body waits to be written, at most.
const SEND_BUFFER: usize = 1 << 20;

/// Streams that may be opened before the endpoint has said how many it takes. More could be refused.
const FIRST_STREAMS: usize = 1;

/// A connection.
pub(super) struct Connection {
    /// Whoever has it opens a stream.
    sender: Mutex<SendRequest<Bytes>>,
    /// The same for who only asks. While some wait for the sender there is always one who has it, also of a connection that has ended.
    view: RefCell<SendRequest<Bytes>>,
    /// Streams that requests have.
    streams: Rc<Cell<usize>>,
    /// How many the endpoint takes, as far as is known.
    most: Cell<usize>,
    /// Set when it has said so, or never will.
    spoken: Rc<SetOnce<()>>,
    /// Of what its requests wait for.
    pub(super) shortest_wait: Duration,
}

impl Connection {
    /// Begins to speak.
    pub(super) async fn open(io: Io, config: &Config) -> Result<Self, h2::Error> {
        let (sender, mut connection) = Builder::new()
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_window_size(STREAM_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(FIRST_STREAMS)
            .max_header_list_size(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX))
            .enable_push(false)
            .handshake(io)
            .await?;
        let mut ping = connection.ping_pong();
        let spoken = Rc::<SetOnce<()>>::default();
        let speaks = Rc::clone(&spoken);
        // It ends with the last stream and sender.
        tokio::task::spawn_local(async move {
            tokio::select! {
                biased;
                () = answers(ping.as_mut()) => {
                    let _ = speaks.set(());
                    let _ = connection.await;
                }
                _ = &mut connection => {
                    let _ = speaks.set(());
                }
            }
        });
        Ok(Self {
            view: RefCell::new(sender.clone()),
            sender: Mutex::new(sender),
            streams: Rc::default(),
            most: Cell::new(FIRST_STREAMS),
            spoken,
            shortest_wait: config.shortest_wait,
        })
    }

    /// Whether no more streams can be opened.
    pub(super) fn is_closed(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(self.view.borrow_mut().poll_ready(&mut context), Poll::Ready(Err(_)))
    }

    /// Whether there are fewer streams than the endpoint takes, as far as is known.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.most.get()
    }

    /// Whether there are any.
    pub(super) fn is_used(&self) -> bool {
        self.streams.get() > 0
    }

    /// One more.
    pub(super) fn place(&self) -> Place {
        Place::add(&self.streams)
    }

    /// How many streams the endpoint takes, as far as is known.
    pub(super) fn most(&self) -> usize {
        self.most.get()
    }

    /// Learns how many it takes by now. None is for a moment (RFC 9113 section 6.5.2), in which one waits: another connection would be no
    /// better.
    pub(super) fn learn(&self) {
        self.most.set(self.view.borrow().current_max_send_streams().max(1));
    }

    /// Whether there are more than the endpoint takes, as it has come to take fewer.
    pub(super) fn has_too_many(&self) -> bool {
        self.streams.get() > self.view.borrow().current_max_send_streams()
    }

    /// Whether the endpoint's SETTINGS have come, or never will.
    pub(super) fn has_spoken(&self) -> bool {
        self.spoken.initialized()
    }

    /// Waits until that is so.
    pub(super) async fn speaks(&self) {
        self.spoken.wait().await;
    }

    /// Whether the endpoint takes an extended CONNECT, as its SETTINGS say.
    pub(super) async fn takes_extended_connect(&self) -> bool {
        let is_enabled = || self.view.borrow().is_extended_connect_protocol_enabled();
        if is_enabled() {
            return true;
        }
        self.speaks().await;
        is_enabled()
    }

    /// Sends a request and waits for the head of its response; `is_open` is set once it is sent.
    pub(super) async fn answer(
        &self,
        head: Request<()>,
        upload: &mut Upload,
        beside: Beside<'_>,
        is_open: &Cell<bool>,
    ) -> Result<Response<RecvStream>, Failure> {
        let ends = upload.is_empty();
        let (mut response, stream) = self.stream(head, ends).await.map_err(broken)?;
        is_open.set(true);
        if !ends {
            upload.begin(stream);
        }
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = upload.poll(cx) {
                return Poll::Ready(Err(Failure::Upload(error)));
            }
            while let Poll::Ready(interim) = response.poll_informational(cx) {
                let Some(interim) = interim.transpose().map_err(broken)? else {
                    return Pin::new(&mut response).poll(cx).map_err(broken);
                };
                // RFC 9113 section 8.6
                if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Err(broken(Error::Switching)));
                }
                beside.hears(interim.status(), interim.headers());
            }
            Poll::Pending
        })
        .await
    }

    /// Opens a stream. Only where the endpoint has come to take fewer is there anything to wait for.
    async fn stream(
        &self,
        head: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Error> {
        let mut sender = self.sender.lock().await;
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(Error::Unopened)?;
        let (response, mut stream) = sender.send_request(head, ends).map_err(Error::Unopened)?;
        let mut opening = Opening { stream: &mut stream, is_over: false };
        // Until it is open, so that the next one waits here and not among what will be sent whatever becomes of its request. What
        // goes wrong the stream tells.
        let _ = poll_fn(|cx| {
            let opened = sender.poll_ready(cx);
            if opened.is_pending() && self.has_room() {
                self.learn();
            }
            opened
        })
        .await;
        opening.is_over = true;
        drop(opening);
        Ok((response, stream))
    }
}

/// A stream that waits for its turn, and is reset if its request is given up meanwhile: h2's sender has a hold on it too.
struct Opening<'a> {
    stream: &'a mut SendStream<Bytes>,
    is_over: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// Waits for the endpoint's answer to a ping, before which its SETTINGS have come.
async fn answers(ping: Option<&mut PingPong>) {
    if let Some(ping) = ping {
        let _ = ping.ping(Ping::opaque()).await;
    }
}

fn broken(error: impl Into<Error>) -> Failure {
    Failure::Broken(Broken::Http2(error.into()))
}
