//! TLS that is the upstream's business: the client's connection goes to an endpoint as it is, from the `ClientHello` on.
//!
//! What was read to find the host is sent first, byte for byte. Then bytes pass both ways until both sides have closed.

#![forbid(unsafe_code)]

mod direction;
mod relay;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;

use self::relay::RelayError;
use super::access_log::{Outcome, Record};
use super::forward::send::Lost;
use super::forward::wire::{self, Wire};
use super::forward::{self};
use super::live::Live;
use super::metrics::{Limit, PassthroughMetrics};
use super::proxy_protocol::Ends;
use super::route::Match;
use super::silence::Silence;
use super::socket::lazy_tcp::LazyTcp;
use super::tls::Opening;
use super::worker::Worker;

/// A fatal alert, `internal_error` (RFC 8446 section 6): the client learns at once that nobody will answer, where a connection
/// that is only closed looks like a fault of the network.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Serves a connection that `live` has a route for, until it ends.
pub async fn serve(worker: Rc<Worker>, live: Rc<Live>, opening: Opening, ends: Ends) {
    let Opening { mut tcp, read, host } = opening;
    let Some(found) = live.routes.passthrough(&host) else { return };
    let Some(counts) = live.counted.passthrough.get(&found.place) else { return };
    let mut session = Session::new(&worker, counts, &live, &found, ends, host.clone());
    let wire = match Box::pin(wire::open(&worker, &live, &found, ends)).await {
        Ok(wire) => wire,
        Err(lost) => {
            session.failed(&found, &lost);
            let _ = tcp.write_all(&INTERNAL_ERROR).await;
            let _ = tcp.shutdown().await;
            return;
        }
    };
    session.connected(wire.endpoint().way.address);
    let silence = worker.silences.watch(live.config.timeouts.tunnel);
    // It may outlast many configurations, and needs none.
    drop(live);
    pass(&worker, tcp, read, wire, silence, &mut session).await;
}

async fn pass(
    worker: &Worker,
    mut tcp: LazyTcp,
    read: Vec<u8>,
    mut wire: Wire,
    silence: Silence,
    session: &mut Session,
) {
    let relayed = relay::relay(&mut tcp, read.into(), &mut wire.tcp, &worker.pipes, silence, |moved| {
        session.moved(moved);
    });
    let Err(error) = relayed.await else { return };
    tracing::debug!(client = %session.client, %error, "passthrough ended");
    match error {
        RelayError::Idle => worker.metrics.limit_hits[Limit::TunnelTimeout].increment(),
        RelayError::Client(_) | RelayError::Upstream(_) => {
            // Who is still there must not take what it got for all there was.
            for socket in [&tcp, &wire.tcp] {
                if let Err(error) = socket.set_zero_linger() {
                    tracing::debug!(%error, "SO_LINGER refused");
                }
            }
        }
    }
}

/// What is counted and logged of a connection.
struct Session {
    worker: Rc<Worker>,
    counts: Arc<PassthroughMetrics>,
    client: SocketAddr,
    start: Instant,
    /// What the access log says; `None` while the connection is on the way to an endpoint.
    status: Option<StatusCode>,
    is_open: bool,
    received: u64,
    sent: u64,
    /// `None` while nobody wants an access log.
    record: Option<Box<Record>>,
}

impl Session {
    fn new(
        worker: &Rc<Worker>,
        counts: &Arc<PassthroughMetrics>,
        live: &Live,
        found: &Match<'_>,
        ends: Ends,
        host: String,
    ) -> Self {
        let client = ends.client.ip().to_canonical();
        let record = || Box::new(Record::passthrough(client, host, &found.route.label));
        Self {
            worker: Rc::clone(worker),
            counts: Arc::clone(counts),
            client: ends.client,
            start: Instant::now(),
            status: None,
            is_open: false,
            received: 0,
            sent: 0,
            record: live.config.log.access.then(record),
        }
    }

    fn connected(&mut self, endpoint: SocketAddr) {
        self.counts.connections.increment();
        self.counts.open.up();
        self.is_open = true;
        self.status = Some(StatusCode::OK);
        self.served_by(Some(endpoint));
    }

    fn failed(&mut self, found: &Match<'_>, lost: &Lost) {
        let status = lost.failure.status();
        forward::log(found, lost, status);
        forward::count(&self.worker.metrics, &lost.failure);
        self.counts.failures.increment();
        self.status = Some(status);
        self.served_by(lost.endpoint);
    }

    fn served_by(&mut self, endpoint: Option<SocketAddr>) {
        if let Some(record) = &mut self.record {
            record.endpoint = endpoint;
        }
    }

    fn moved(&mut self, moved: relay::Moved) {
        self.counts.received.add(moved.up);
        self.counts.sent.add(moved.down);
        self.received += moved.up;
        self.sent += moved.down;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_open {
            self.counts.open.down();
        }
        if let Some(record) = &self.record {
            let outcome = Outcome {
                status: self.status,
                bytes: self.sent,
                received: Some(self.received),
                lasted: self.start.elapsed(),
            };
            let format = self.worker.live().config.log.access_format;
            self.worker.access_log.write(format, record, outcome);
        }
    }
}
