//! A request and its response as the client's connection and the access log see them.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};

use super::body::{Download, DownloadError, ResponseBody};
use super::connect;
use super::send::{Answered, Switched};
use super::tunnel::Tunnel;
use super::upgrade;
use crate::proxy::access_log::trace::Trace;
use crate::proxy::access_log::{Outcome, Record};
use crate::proxy::config::Traceparent;
use crate::proxy::connection::client::Client;
use crate::proxy::live::Live;
use crate::proxy::metrics::Class;
use crate::proxy::respond::grpc;
use crate::proxy::route::Match;

/// Lasts from a request's head to the end of the response's body.
pub struct Exchange {
    client: Rc<Client>,
    live: Rc<Live>,
    start: Instant,
    status: Option<StatusCode>,
    bytes: u64,
    is_tunnel: bool,
    /// The route's place in the configuration; behind the last one while none is known.
    place: usize,
    /// Whether all of the response has been handed over.
    answered: Cell<bool>,
    /// Whether it is a gRPC call.
    grpc: bool,
    /// What the response says of HTTPS.
    hsts: Option<HeaderValue>,
    /// `None` while nobody wants an access log.
    record: Option<Box<Record>>,
}

impl Exchange {
    /// A request has come.
    #[must_use]
    pub fn begin(client: &Rc<Client>, parts: &mut Parts) -> Self {
        client.request_begins();
        client.worker.requests.update(|requests| requests + 1);
        let live = client.worker.live();
        let start = Instant::now();
        let wanted = live.config.log.access;
        let trace = Trace::of(&mut parts.headers, live.config.log.traceparent == Traceparent::Create);
        let record =
            wanted.then(|| Box::new(Record::new(client.peer, client.secure.is_some(), parts, trace)));
        let grpc = client.http2 && grpc::is_call(&parts.headers);
        let place = live.all_routes().count();
        Self {
            client: Rc::clone(client),
            live,
            start,
            status: None,
            bytes: 0,
            is_tunnel: false,
            place,
            answered: Cell::new(false),
            grpc,
            hsts: None,
            record,
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The rules that it goes by from beginning to end.
    #[must_use]
    pub fn live(&self) -> &Rc<Live> {
        &self.live
    }

    /// All of the response is handed over.
    pub fn is_answered(&self) {
        self.answered.set(true);
    }

    /// A piece of the response is handed over, which the client may take or not.
    #[must_use]
    pub fn offers(&self, bytes: usize) -> Option<Offered> {
        self.client.http2.then(|| Offered::new(&self.client, bytes))
    }

    /// It becomes a tunnel, which is no request being served any more.
    fn becomes_tunnel(&mut self) {
        self.is_answered();
        self.is_tunnel = true;
        self.client.worker.requests.update(|requests| requests - 1);
    }

    /// The host is known.
    pub fn is_for(&mut self, host: &str) {
        if let Some(record) = &mut self.record {
            host.clone_into(&mut record.host);
        }
    }

    /// The route is known.
    pub fn takes(&mut self, found: &Match<'_>) {
        let route = found.route;
        self.place = found.place;
        // Over plain HTTP it must not be said (RFC 6797 section 7.2).
        let hsts = route.hsts.as_ref().filter(|_| self.client.secure.is_some());
        // Copied: a clone would count its owners where all workers do.
        self.hsts = hsts.and_then(|hsts| HeaderValue::from_bytes(hsts.as_bytes()).ok());
        if let Some(record) = &mut self.record {
            route.label.clone_into(&mut record.route);
        }
    }

    /// The endpoint is known.
    pub fn served_by(&mut self, endpoint: Option<SocketAddr>) {
        if let Some(record) = &mut self.record {
            record.endpoint = endpoint;
        }
    }

    /// A piece of the response's body goes out.
    pub fn sends(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The response's body can't be finished.
    pub fn breaks_off(&self, error: &DownloadError) {
        let route = self.record.as_ref().map(|record| record.route.as_str());
        tracing::warn!(route, client = %self.client.peer, "response cut: {error}");
        self.is_answered();
    }

    /// Answers with our own words.
    #[must_use]
    pub fn answer(mut self, mut response: Response<Bytes>) -> Response<ResponseBody> {
        self.is_answered();
        self.has_status(&response);
        if self.grpc {
            return grpc::failed(&response).map(|text| ResponseBody::text(text, self));
        }
        // Who makes one request that others might read otherwise may have hidden the next in it; and what can't be served
        // now should not keep a connection.
        let closes = matches!(
            response.status(),
            StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED | StatusCode::SERVICE_UNAVAILABLE
        );
        if (closes || self.client.worker.lets_connections_go()) && !self.client.http2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(hsts) = self.hsts.take() {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts);
        }
        response.map(|text| ResponseBody::text(text, self))
    }

    /// Answers with the upstream's response.
    #[must_use]
    pub fn forward(mut self, answered: Answered) -> Response<ResponseBody> {
        let Answered { response, lease, patience } = answered;
        self.has_status(&response);
        self.served_by(Some(lease.endpoint().way.address));
        let (mut parts, source) = response.into_parts();
        // The version of this hop, not of the one behind us.
        parts.version = Version::HTTP_11;
        // A client that has not sent its body yet is not to send it, and could not say so.
        let ends = self.client.worker.lets_connections_go() || lease.has_left_body();
        if ends && !self.client.http2 {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(hsts) = self.hsts.take() {
            parts.headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(hsts);
        }
        let offered = self.offers(0);
        let download =
            Download { source, lease: Some(lease), patience, deadline: None, broken: None, offered };
        Response::from_parts(parts, ResponseBody::upstream(download, self))
    }

    /// Answers with the upstream's 101, after which the client's connection is the tunnel's.
    #[must_use]
    pub fn switch(mut self, mut answered: Answered, switched: Switched) -> Response<ResponseBody> {
        upgrade::confirm(switched.protocol, answered.response.headers_mut());
        self.has_status(&answered.response);
        self.becomes_tunnel();
        self.served_by(Some(answered.lease.endpoint().way.address));
        let tunnel = Tunnel::new(switched.upstream, self);
        answered.response.map(|_| ResponseBody::tunnel(tunnel))
    }

    /// Answers a CONNECT with 200, after which the stream is the tunnel's.
    #[must_use]
    pub fn connect(mut self, mut answered: Answered, switched: Switched) -> Response<ResponseBody> {
        connect::confirm(&mut answered.response);
        self.has_status(&answered.response);
        self.becomes_tunnel();
        self.served_by(Some(answered.lease.endpoint().way.address));
        let tunnel = Tunnel::new(switched.upstream, self);
        answered.response.map(|_| ResponseBody::tunnel(tunnel))
    }

    fn has_status<B>(&mut self, response: &Response<B>) {
        self.status = Some(response.status());
    }
}

/// A piece of a response that the client has not taken.
pub struct Offered {
    client: Rc<Client>,
    bytes: usize,
}

impl Offered {
    fn new(client: &Rc<Client>, bytes: usize) -> Self {
        client.offers();
        Self { client: Rc::clone(client), bytes }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.client.takes(self.bytes);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_tunnel {
            self.client.worker.requests.update(|requests| requests - 1);
        }
        if !self.answered.get() {
            self.client.request_given_up();
        }
        let now = Instant::now();
        let lasted = now - self.start;
        if let Some(route) = self.live.counted.routes.get(self.place) {
            let class = Class::of(self.status);
            route.requests[class].increment();
            route.response_bytes.add(self.bytes);
            if !self.is_tunnel {
                route.duration.observe(lasted);
            }
        }
        if let Some(record) = &self.record {
            let outcome = Outcome { status: self.status, bytes: self.bytes, received: None, lasted };
            self.client.worker.access_log.write(self.live.config.log.access_format, record, outcome);
        }
        self.client.request_ends(now);
    }
}
