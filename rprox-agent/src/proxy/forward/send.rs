//! Gets a request's response from one endpoint or another.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::Upgraded;
use tokio::time::{Instant, sleep};

use super::body::RequestBody;
use super::failure::Failure;
use super::pool::Lease;
use super::target::Target;
use super::upgrade::Offer;
use crate::proxy::connection::client::Client;
use crate::proxy::live::Live;
use crate::proxy::route::Match;
use crate::proxy::upstream::{Protocol, Upstream};
use crate::proxy::worker::Worker;

/// When no endpoint can be connected to, DNS is asked again after these pauses while they may just be moving: a pod that
/// restarts is gone for a moment, and its new address takes another to be known.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// How many times a request is sent again that may have reached an endpoint which did not answer.
const RESENDS: usize = 2;

/// A response, and the connection that its body comes by.
pub struct Answered {
    /// The response, its header section made ours.
    pub response: Response<Incoming>,
    /// Who sent it.
    pub endpoint: SocketAddr,
    /// The connection.
    pub lease: Lease,
}

/// What an upstream answers with.
pub enum Reply {
    /// A response.
    Answered(Answered),
    /// 101, and the connection that now speaks the protocol that the client offered.
    Switched(Answered, Switched),
}

/// What a connection has changed to.
pub struct Switched {
    /// As the response's `Upgrade` names it.
    pub protocol: HeaderValue,
    /// The upstream's end.
    pub upstream: Upgraded,
}

/// Why there is no response, and whose fault it was.
pub struct Lost {
    /// Why.
    pub failure: Failure,
    /// The last endpoint tried; `None`: none was known.
    pub endpoint: Option<SocketAddr>,
}

/// Sends the request to an endpoint of its upstream.
///
/// One that can't be connected to is passed over for the next: nothing was sent. Neither was it on a connection that had
/// ended unnoticed. A request that was sent is sent again only if doing it twice is doing it once (RFC 9110 section 9.2.2),
/// it has no body, and no byte of a response came. `offer` is what the connection may go on in instead of HTTP.
///
/// # Errors
///
/// When no endpoint answered.
pub async fn send(
    client: &Client,
    live: &Live,
    found: &Match<'_>,
    target: Target,
    mut request: Request<RequestBody>,
    offer: Option<Offer>,
) -> Result<Reply, Lost> {
    let worker = &client.worker;
    let upstream = found.upstream;
    let limit = live.config.timeouts.response;
    address(&mut request, upstream, &target);
    let offer = offer.filter(|_| upstream.protocol == Protocol::Http1);
    if let Some(offer) = &offer {
        offer.make(request.headers_mut());
    }
    let known = live.names.endpoints(upstream).await;
    let endpoints = known.map_err(|error| Lost { failure: Failure::Dns(error), endpoint: None })?;
    let mut choice = Choice { worker, live, upstream, endpoints, tried: Vec::new(), rounds: 0, start: None };
    let mut resends = 0;
    loop {
        let (endpoint, mut lease) = choice.connect().await?;
        let copy = may_be_sent_again(&request).then(|| Copy::of(&request));
        let error = match lease.send(request, limit).await {
            Ok(response) => {
                return receive(Answered { response, endpoint, lease }, offer.as_ref())
                    .await
                    .map_err(|failure| Lost { failure, endpoint: Some(endpoint) });
            }
            Err(error) => error,
        };
        let timed_out = matches!(error.failure, Failure::ResponseTimeout);
        let again = match (error.unsent, copy) {
            (Some(unsent), _) => Some(*unsent),
            (None, Some(copy)) if !timed_out => Some(copy.into_request()),
            _ => None,
        };
        match again {
            Some(again) if lease.is_reused() || resends < RESENDS => {
                if !lease.is_reused() {
                    resends += 1;
                }
                tracing::debug!(%endpoint, error = %error.failure, "sending the request again");
                // Its neighbours have most likely ended with it.
                worker.pool.forget(&[endpoint]);
                request = again;
            }
            _ => return Err(Lost { failure: error.failure, endpoint: Some(endpoint) }),
        }
    }
}

/// Makes an upstream's answer one for the client.
async fn receive(mut answered: Answered, offer: Option<&Offer>) -> Result<Reply, Failure> {
    let response = &mut answered.response;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if response.status().is_success() && offer.is_some_and(Offer::is_connect) {
            return Err(Failure::NotSwitched);
        }
        super::restore(response.headers_mut())?;
        return Ok(Reply::Answered(answered));
    }
    let protocol = offer.and_then(|offer| offer.accepted(response.status(), response.headers()));
    let protocol = protocol.ok_or(Failure::UnaskedUpgrade)?;
    super::restore(response.headers_mut())?;
    let mut upgraded = hyper::upgrade::on(response);
    let upstream = poll_fn(|cx| {
        answered.lease.drive(cx);
        Pin::new(&mut upgraded).poll(cx)
    });
    let upstream = upstream.await.map_err(Failure::Broken)?;
    Ok(Reply::Switched(answered, Switched { protocol, upstream }))
}

/// The endpoints of a request's upstream and what has come of them.
struct Choice<'a> {
    worker: &'a Worker,
    live: &'a Live,
    upstream: &'a Arc<Upstream>,
    endpoints: Rc<[SocketAddr]>,
    tried: Vec<SocketAddr>,
    rounds: usize,
    start: Option<Instant>,
}

impl Choice<'_> {
    /// A connection to the next endpoint that takes one.
    async fn connect(&mut self) -> Result<(SocketAddr, Lease), Lost> {
        let (worker, upstream) = (self.worker, self.upstream);
        let mut lost = None;
        loop {
            let Some(endpoint) = worker.balance.next(upstream, &self.endpoints, &self.tried) else {
                let lost = lost.take().unwrap_or(Lost { failure: Failure::Busy, endpoint: None });
                Box::pin(self.look_again(lost)).await?;
                continue;
            };
            match worker.pool.lease(&self.live.config, upstream.protocol, endpoint).await {
                Ok(lease) => {
                    if !lease.is_reused() {
                        worker.balance.works(endpoint);
                    }
                    return Ok((endpoint, lease));
                }
                Err(failure) => {
                    self.tried.push(endpoint);
                    lost = Some(self.note_failure(failure, endpoint));
                }
            }
        }
    }

    fn note_failure(&mut self, failure: Failure, endpoint: SocketAddr) -> Lost {
        if !matches!(failure, Failure::Busy) {
            self.start.get_or_insert_with(Instant::now);
            self.worker.balance.failed(endpoint);
            tracing::debug!(%endpoint, error = %failure, "trying another endpoint");
            let (names, upstream) = (self.live.names.clone(), Arc::clone(self.upstream));
            tokio::task::spawn_local(async move { names.refresh(&upstream).await.map(drop) });
        }
        Lost { failure, endpoint: Some(endpoint) }
    }

    /// All endpoints failed: perhaps there are others by now.
    async fn look_again(&mut self, lost: Lost) -> Result<(), Lost> {
        let Some(pause) = PAUSES.get(self.rounds) else { return Err(lost) };
        let moving = self.worker.balance.may_be_moving(&self.endpoints);
        if matches!(lost.failure, Failure::Busy) || (self.rounds > 0 && !moving) {
            return Err(lost);
        }
        self.rounds += 1;
        sleep(*pause).await;
        let Ok(endpoints) = self.live.names.refresh(self.upstream).await else { return Err(lost) };
        self.endpoints = endpoints;
        let limit = self.live.config.timeouts.connect;
        let in_time = self.start.is_some_and(|start| start.elapsed() < limit);
        if moving && in_time {
            self.tried.clear();
        } else if self.endpoints.iter().all(|endpoint| self.tried.contains(endpoint)) {
            return Err(lost);
        }
        Ok(())
    }
}

/// Puts the request into the form that the protocol wants.
fn address(request: &mut Request<RequestBody>, upstream: &Upstream, target: &Target) {
    if target.authority().is_empty()
        && let Ok(authority) = HeaderValue::from_str(&upstream.authority)
    {
        // HTTP/1.0 may leave the host out; what the upstream speaks may not.
        request.headers_mut().insert(HOST, authority);
    }
    match upstream.protocol {
        Protocol::Http1 => {
            *request.version_mut() = Version::HTTP_11;
            let body = request.body();
            // hyper would send a GET without its body if nothing says that there is one.
            if !body.is_none() && body.size_hint().exact().is_none() {
                request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Protocol::H2c => {
            *request.version_mut() = Version::HTTP_2;
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            if let Ok(authority) = Authority::try_from(target.authority().as_bytes()) {
                parts.scheme = Some(Scheme::HTTP);
                parts.authority = Some(authority);
                request.headers_mut().remove(HOST);
            }
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
    }
}

fn may_be_sent_again(request: &Request<RequestBody>) -> bool {
    request.body().is_none()
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        )
}

/// A request without a body, to be sent again.
struct Copy(Parts);

impl Copy {
    fn of(request: &Request<RequestBody>) -> Self {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        Self(parts)
    }

    fn into_request(self) -> Request<RequestBody> {
        Request::from_parts(self.0, RequestBody::none())
    }
}
