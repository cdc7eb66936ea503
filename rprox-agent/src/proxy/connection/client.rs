//! What is known of a client's connection, and the clock that its time-outs run by.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::patience::Patience;
use crate::proxy::config::Limits;
use crate::proxy::forward::forwarded::Forwarding;
use crate::proxy::metrics::Limit;
use crate::proxy::proxy_protocol::Ends;
use crate::proxy::tls::Secured;
use crate::proxy::worker::Worker;

/// A client's connection, shared by its socket, its requests and their bodies.
pub struct Client {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The other end; an IPv4 address where it is one, also on an IPv6 listener.
    pub peer: IpAddr,
    /// Both ends, as the load balancer in front of us says where there is one.
    pub ends: Ends,
    /// Over TLS: what the handshake came to.
    pub secure: Option<Box<Secured>>,
    /// Whether it is an HTTP/2 connection.
    pub http2: bool,
    /// What upstreams are told about it.
    pub forwarding: Forwarding,
    phase: Cell<Phase>,
    requests: Cell<u32>,
    /// All there have been.
    served: Cell<u32>,
    /// For the socket to take bytes.
    socket: Cell<Patience>,
    /// For the client to let an HTTP/2 stream go on, while none else does anything.
    flow: Cell<Patience>,
    /// Responses of which the client has not taken what there is.
    untaken: Cell<u32>,
    given_up: Cell<Option<GivenUp>>,
    unread_body: Cell<bool>,
    answering: Cell<bool>,
    half_closed: Cell<Option<Instant>>,
}

/// What the connection is doing. Each but `Busy` lasts until its deadline at most.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A request's head is being read.
    Head(Instant),
    /// Nothing, between requests.
    Idle(Instant),
    /// Serving requests, whose bodies have their own time-outs.
    Busy,
}

/// What was not done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deadline {
    /// Sending a head.
    #[error("no whole request head within timeouts.header")]
    Head,
    /// Asking for something more.
    #[error("no request within timeouts.idle")]
    Idle,
    /// Waiting on a connection that the client has closed its half of.
    #[error("closed its half, and no response began within timeouts.half_closed")]
    HalfClosed,
    /// Taking a response.
    #[error("took less than limits.client_rate for timeouts.body")]
    Taking,
}

/// Requests that the client gave up.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    since: Instant,
    requests: u32,
}

/// How long given-up requests are added up.
const GIVEN_UP_WITHIN: Duration = Duration::from_mins(1);

fn moved(mut patience: Patience, bytes: usize) -> Patience {
    patience.moves(bytes);
    patience
}

impl Client {
    /// A connection whose first request's head is due by `deadline`.
    #[must_use]
    pub fn new(
        worker: Rc<Worker>,
        ends: Ends,
        secure: Option<Box<Secured>>,
        http2: bool,
        deadline: Instant,
    ) -> Self {
        let peer = ends.client.ip().to_canonical();
        let live = worker.live();
        let patience = Patience::new(live.config.timeouts.body, live.config.limits.client_rate);
        Self {
            forwarding: Forwarding::new(peer, secure.is_some()),
            phase: Cell::new(Phase::Head(deadline)),
            peer,
            ends,
            secure,
            http2,
            requests: Cell::new(0),
            served: Cell::new(0),
            socket: Cell::new(patience),
            flow: Cell::new(patience),
            untaken: Cell::new(0),
            given_up: Cell::new(None),
            unread_body: Cell::new(false),
            answering: Cell::new(false),
            half_closed: Cell::new(None),
            worker,
        }
    }

    /// A connection without TLS that had served so many requests, and may rest until `deadline`.
    #[must_use]
    pub fn back(worker: Rc<Worker>, ends: Ends, served: u32, deadline: Instant) -> Self {
        let client = Self::new(worker, ends, None, false, deadline);
        client.served.set(served);
        client.phase.set(Phase::Idle(deadline));
        client
    }

    /// How many requests there have been.
    #[must_use]
    pub fn served(&self) -> u32 {
        self.served.get()
    }

    /// Until when it may rest, while no request is running or arriving.
    #[must_use]
    pub fn idle_until(&self) -> Option<Instant> {
        match self.phase.get() {
            Phase::Idle(deadline) if self.socket.get().deadline().is_none() => Some(deadline),
            _ => None,
        }
    }

    /// A request's head has been read.
    pub fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        self.served.set(self.served.get().saturating_add(1));
        self.phase.set(Phase::Busy);
        self.answering.set(false);
        self.look_at_flow();
    }

    /// Whether the connection has had all the requests that it may have. Over HTTP/2 it may go on until none runs, though not
    /// for ever: there are clients that lose a running request if they are told meanwhile to make no more.
    #[must_use]
    pub fn was_last_request(&self, limits: &Limits) -> bool {
        let patience = if self.http2 && self.requests.get() > 0 { limits.streams } else { 0 };
        self.served.get() >= limits.requests.saturating_add(patience)
    }

    /// The last byte of a response's body has been handed over, or the request was given up.
    pub fn request_ends(&self, now: std::time::Instant) {
        let running = self.requests.get() - 1;
        self.requests.set(running);
        if running == 0 {
            self.phase.set(Phase::Idle(Instant::from_std(now) + self.worker.live().config.timeouts.idle));
        }
        self.look_at_flow();
    }

    /// The client gave a request up before it was answered.
    pub fn request_given_up(&self) {
        let now = Instant::now();
        let recent = self.given_up.get().filter(|given_up| now - given_up.since <= GIVEN_UP_WITHIN);
        let GivenUp { since, requests } = recent.unwrap_or(GivenUp { since: now, requests: 0 });
        self.given_up.set(Some(GivenUp { since, requests: requests + 1 }));
    }

    /// Whether it does that too often.
    #[must_use]
    pub fn gives_up_too_much(&self) -> bool {
        let given_up = self.given_up.get();
        self.http2
            && given_up.is_some_and(|given_up| given_up.requests > self.worker.live().config.limits.resets)
    }

    /// A piece of a response is there for the client to take.
    pub fn offers(&self) {
        self.untaken.set(self.untaken.get() + 1);
        self.look_at_flow();
    }

    /// The client took so many bytes of that piece, and there is more of it.
    pub fn takes_some(&self, bytes: usize) {
        self.flow.update(|flow| moved(flow, bytes));
        self.look_at_flow();
    }

    /// The client took that piece, of so many bytes, or gave it up.
    pub fn takes(&self, bytes: usize) {
        self.untaken.set(self.untaken.get() - 1);
        self.flow.update(|flow| moved(flow, bytes));
        self.look_at_flow();
    }

    /// While all that runs waits for the client, time runs for it.
    fn look_at_flow(&self) {
        let untaken = self.untaken.get();
        let mut flow = self.flow.get();
        if untaken > 0 && untaken == self.requests.get() {
            flow.waits();
            self.flow.set(flow);
        } else if flow.deadline().is_some() {
            self.flow.set(moved(flow, 0));
        }
    }

    /// A request's body was given up before its end: what is left of it may still be on its way.
    pub fn body_left_unread(&self) {
        self.unread_body.set(true);
    }

    /// Bytes came in that are no whole head. On an idle HTTP/1.1 connection they begin one; HTTP/2 has other things to say between requests.
    pub fn has_read(&self) {
        if !self.http2 && matches!(self.phase.get(), Phase::Idle(_)) {
            self.phase.set(Phase::Head(Instant::now() + self.worker.live().config.timeouts.header));
        }
    }

    /// The socket took bytes.
    pub fn has_moved(&self, bytes: usize) {
        self.socket.update(|socket| moved(socket, bytes));
    }

    /// The socket took bytes of a response.
    pub fn has_written(&self, bytes: usize) {
        self.has_moved(bytes);
        self.answering.set(true);
        self.half_closed.set(None);
    }

    /// Nothing more will come in, and the last request, which has come whole, is being answered. A client that is gone looks the same
    /// until it is sent something, so the response has to begin soon.
    pub fn closes_its_half(&self) {
        if !self.answering.get() && self.half_closed.get().is_none() {
            self.half_closed.set(Some(Instant::now() + self.worker.live().config.timeouts.half_closed));
        }
    }

    /// The socket takes no more bytes.
    pub fn write_blocked(&self) {
        let mut socket = self.socket.get();
        socket.waits();
        self.socket.set(socket);
    }

    /// When to give the connection up, and why then.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Deadline)> {
        let phase = match self.phase.get() {
            Phase::Head(deadline) => Some((deadline, Deadline::Head)),
            Phase::Idle(deadline) => Some((deadline, Deadline::Idle)),
            Phase::Busy => None,
        };
        let taking = [self.socket.get().deadline(), self.flow.get().deadline()];
        let taking = taking.into_iter().flatten().map(|deadline| (deadline, Deadline::Taking));
        let half_closed = self.half_closed.get().map(|deadline| (deadline, Deadline::HalfClosed));
        phase.into_iter().chain(taking).chain(half_closed).min_by_key(|(deadline, _)| *deadline)
    }

    /// Counts that this was not done in time.
    pub fn counts(&self, deadline: Deadline) {
        let limit = match deadline {
            Deadline::Head => Limit::HeaderTimeout,
            Deadline::Taking => Limit::ClientRate,
            Deadline::HalfClosed => Limit::HalfClosed,
            Deadline::Idle => return,
        };
        self.worker.metrics.limit_hits[limit].increment();
    }

    /// Whether no request is running or arriving.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle_until().is_some()
    }

    /// Gives an idle connection that was told to end the time to say goodbye.
    pub fn last_grace(&self) {
        self.phase.set(Phase::Idle(Instant::now() + self.worker.live().config.timeouts.header));
    }

    /// Whether bytes of the client may still come in that nobody will read: closing would then reset the connection, and
    /// the client might lose the response.
    #[must_use]
    pub fn should_linger(&self) -> bool {
        self.unread_body.get() || matches!(self.phase.get(), Phase::Head(_))
    }
}
