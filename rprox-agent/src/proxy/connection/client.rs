//! What is known of a client's connection, and the clock that its time-outs run by.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::framing::Framing;
use crate::proxy::forward::forwarded::Forwarding;
use crate::proxy::forward::tunnel::Tunnel;
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
    /// Where in its messages it is.
    pub framing: RefCell<Framing>,
    phase: Cell<Phase>,
    requests: Cell<u32>,
    blocked: Cell<Option<Instant>>,
    unread_body: Cell<bool>,
    tunnel: RefCell<Option<Tunnel>>,
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

impl Client {
    /// A connection whose first request's head is now due.
    #[must_use]
    pub fn new(worker: Rc<Worker>, ends: Ends, secure: Option<Box<Secured>>, http2: bool) -> Self {
        let peer = ends.client.ip().to_canonical();
        let deadline = Instant::now() + worker.live().config.timeouts.header;
        Self {
            forwarding: Forwarding::new(peer, secure.is_some()),
            framing: RefCell::new(if http2 { Framing::opaque() } else { Framing::http1() }),
            phase: Cell::new(Phase::Head(deadline)),
            peer,
            ends,
            secure,
            http2,
            requests: Cell::new(0),
            blocked: Cell::new(None),
            unread_body: Cell::new(false),
            tunnel: RefCell::new(None),
            worker,
        }
    }

    /// A request's head has been read.
    pub fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        self.phase.set(Phase::Busy);
    }

    /// The last byte of a response's body has been handed over, or the request was given up.
    pub fn request_ends(&self) {
        let running = self.requests.get() - 1;
        self.requests.set(running);
        if running == 0 {
            self.phase.set(Phase::Idle(Instant::now() + self.worker.live().config.timeouts.idle));
        }
    }

    /// A request's body was given up before its end: what is left of it may still be on its way.
    pub fn body_left_unread(&self) {
        self.unread_body.set(true);
    }

    /// Once the response that is now made has been written, the connection is this tunnel's.
    pub fn goes_on_as(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// The tunnel that the connection is now for.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }

    /// Bytes came in. On an idle HTTP/1.1 connection they begin a head; HTTP/2 has other things to say between requests.
    pub fn has_read(&self) {
        if !self.http2 && matches!(self.phase.get(), Phase::Idle(_)) {
            self.phase.set(Phase::Head(Instant::now() + self.worker.live().config.timeouts.header));
        }
    }

    /// The socket took bytes.
    pub fn has_written(&self) {
        self.blocked.set(None);
    }

    /// The socket takes no more bytes.
    pub fn write_blocked(&self) {
        if self.blocked.get().is_none() {
            self.blocked.set(Some(Instant::now() + self.worker.live().config.timeouts.body));
        }
    }

    /// When to give the connection up, and what to say then.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let phase = match self.phase.get() {
            Phase::Head(deadline) => Some((deadline, "no whole request head within timeouts.header")),
            Phase::Idle(deadline) => Some((deadline, "no request within timeouts.idle")),
            Phase::Busy => None,
        };
        let blocked = self.blocked.get().map(|deadline| (deadline, "took no bytes for timeouts.body"));
        match (phase, blocked) {
            (Some(phase), Some(blocked)) => Some(if phase.0 < blocked.0 { phase } else { blocked }),
            (phase, blocked) => phase.or(blocked),
        }
    }

    /// Whether no request is running or arriving.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle(_)) && self.blocked.get().is_none()
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
