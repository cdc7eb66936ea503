//! A request and its response as the client's connection and the access log see them.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;

use super::body::{Download, DownloadError, ResponseBody};
use super::connect::Connect;
use super::send::{Answered, Switched};
use super::tunnel::Tunnel;
use super::upgrade;
use crate::proxy::access_log::Record;
use crate::proxy::connection::client::Client;
use crate::proxy::live::Live;
use crate::proxy::route::Route;

/// Lasts from a request's head to the end of the response's body.
pub struct Exchange {
    client: Rc<Client>,
    live: Rc<Live>,
    /// What the response says of HTTPS.
    hsts: Option<HeaderValue>,
    /// `None` while nobody wants an access log.
    record: Option<Box<Record>>,
}

impl Exchange {
    /// A request has come.
    #[must_use]
    pub fn begin(client: &Rc<Client>, parts: &Parts) -> Self {
        client.request_begins();
        let live = client.worker.live();
        let wanted = live.config.log.access;
        let record = wanted.then(|| {
            Box::new(Record {
                client: client.peer,
                start: std::time::Instant::now(),
                version: parts.version,
                method: parts.method.clone(),
                host: String::new(),
                path: parts.uri.path().to_owned(),
                status: None,
                bytes: 0,
                route: String::new(),
                endpoint: None,
            })
        });
        Self { client: Rc::clone(client), live, hsts: None, record }
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

    /// The host is known.
    pub fn is_for(&mut self, host: &str) {
        if let Some(record) = &mut self.record {
            host.clone_into(&mut record.host);
        }
    }

    /// The route is known.
    pub fn takes(&mut self, route: &Route) {
        // Over plain HTTP it must not be said (RFC 6797 section 7.2).
        self.hsts = route.hsts.clone().filter(|_| self.client.secure.is_some());
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
        if let Some(record) = &mut self.record {
            record.bytes += bytes as u64;
        }
    }

    /// The response's body can't be finished.
    pub fn breaks_off(&self, error: &DownloadError) {
        let route = self.record.as_ref().map(|record| record.route.as_str());
        tracing::warn!(route, client = %self.client.peer, "response cut: {error}");
    }

    /// Answers with our own words.
    #[must_use]
    pub fn answer(mut self, mut response: Response<Bytes>) -> Response<ResponseBody> {
        self.has_status(&response);
        self.client.framing.borrow_mut().stays_http();
        let doubtful = matches!(response.status(), StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED);
        if doubtful && !self.client.http2 {
            // Who makes one request that others might read otherwise may have hidden the next in it.
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
        let Answered { response, endpoint, lease } = answered;
        self.has_status(&response);
        self.client.framing.borrow_mut().stays_http();
        self.served_by(Some(endpoint));
        let (mut parts, incoming) = response.into_parts();
        // The version of this hop, not of the one behind us.
        parts.version = Version::HTTP_11;
        if let Some(hsts) = self.hsts.take() {
            parts.headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(hsts);
        }
        let download = Download { incoming, lease: Some(lease), deadline: None, broken: None };
        Response::from_parts(parts, ResponseBody::upstream(download, self))
    }

    /// Answers with the upstream's 101, after which the client's connection is the tunnel's.
    #[must_use]
    pub fn switch(mut self, mut answered: Answered, switched: Switched) -> Response<ResponseBody> {
        upgrade::confirm(switched.protocol, answered.response.headers_mut());
        self.has_status(&answered.response);
        self.served_by(Some(answered.endpoint));
        let client = Rc::clone(&self.client);
        client.goes_on_as(Tunnel::new(switched.upstream, self));
        answered.response.map(|_| ResponseBody::tunnel())
    }

    /// Answers a CONNECT with 200, after which the stream is the tunnel's.
    #[must_use]
    pub fn connect(
        mut self,
        mut answered: Answered,
        switched: Switched,
        connect: Connect,
    ) -> Response<ResponseBody> {
        let stream = connect.confirm(&mut answered.response);
        self.has_status(&answered.response);
        self.served_by(Some(answered.endpoint));
        let tunnel = Tunnel::new(switched.upstream, self);
        tokio::task::spawn_local(async move {
            if let Ok(stream) = stream.await {
                tunnel.run(TokioIo::new(stream), Bytes::new()).await;
            }
        });
        answered.response.map(|_| ResponseBody::tunnel())
    }

    fn has_status<B>(&mut self, response: &Response<B>) {
        if let Some(record) = &mut self.record {
            record.status = Some(response.status());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.request_ends();
    }
}
