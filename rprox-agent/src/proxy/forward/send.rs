//! Gets a request's response from one endpoint or another.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::body::Source;
use super::choice::Choice;
use super::connect::WEBSOCKET;
use super::expect::{self, Question};
use super::failure::Failure;
use super::forwarded::Forwarded;
use super::headers;
use super::http1::Http1;
use super::pool::Lease;
use super::request::{Beside, UpstreamRequest};
use super::sticky;
use super::target::Target;
use super::tunnel;
use super::upgrade::Offer;
use crate::proxy::connection::client::Client;
use crate::proxy::connection::interim::Interim;
use crate::proxy::live::Live;
use crate::proxy::metrics::Limit;
use crate::proxy::route::Match;
use crate::proxy::timer::timeout;
use crate::proxy::upstream::Protocol;
use crate::proxy::upstream::set::UpstreamSet;
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Response, StatusCode, Uri, Version};

/// A request on its way, and what goes with it.
pub struct Outgoing<'a> {
    /// Whom it is for.
    pub target: Target,
    /// The request, its header section made the upstream's.
    pub request: UpstreamRequest,
    /// What the upstream is told of the client, if that isn't in the request.
    pub forwarded: Option<Rc<Forwarded>>,
    /// Whether the client takes trailers.
    pub trailers: bool,
    /// What the connection may go on in instead of HTTP.
    pub offer: Option<Offer>,
    /// Where the client hears what comes before the response.
    pub interim: Option<&'a Interim>,
}

/// A response, and the connection that its body comes by.
pub struct Answered {
    /// The response, its header section made ours.
    pub response: Response<Source>,
    /// The connection.
    pub lease: Lease,
    /// How long the next piece of its body may take.
    pub patience: Duration,
}

/// What an upstream answers with.
pub enum Reply {
    /// A response.
    Answered(Answered),
    /// 101, and the connection that now speaks the protocol that the client offered; or success with a WebSocket, and its stream.
    Switched(Answered, Switched),
}

/// What a connection has changed to.
pub struct Switched {
    /// As the response's `Upgrade` names it.
    pub protocol: HeaderValue,
    /// The upstream's end.
    pub upstream: tunnel::Upstream,
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
/// it has no body, and no byte of a response came.
///
/// # Errors
///
/// When no endpoint answered.
pub async fn send(
    client: &Client,
    live: &Rc<Live>,
    found: &Match<'_>,
    outgoing: Outgoing<'_>,
) -> Result<Reply, Lost> {
    let Outgoing { target, mut request, forwarded, trailers, offer, interim } = outgoing;
    let config = &live.config;
    let set = found.upstreams;
    let group = live.groups.of(set);
    group.budget.deposit(&config.retries);
    let marked = set.sticky.as_ref().and_then(|sticky| sticky::take(sticky, &mut request.head.headers));
    let only_http1 = offer.is_some();
    let mut choice =
        Choice::<Lease>::new(&client.worker, live, client.ends, Rc::clone(&group), only_http1, marked)
            .await?;
    let mut resends = 0;
    loop {
        let mut lease = choice.connect().await?;
        let offered = match &offer {
            None => None,
            Some(offer) => {
                Box::pin(propose(offer, &mut request.head, &mut lease, set.timeouts.response)).await
            }
        };
        if offered.is_none() && offer.as_ref().is_some_and(Offer::is_connect) {
            let endpoint = Some(lease.endpoint().way.address);
            return Err(Lost { failure: Failure::NoWebSocket, endpoint });
        }
        if trailers {
            headers::announce_trailers(&mut request.head.headers, lease.is_http2());
        }
        address(&mut request.head, &lease, set, &target);
        let question = expect::ask(&mut request, &lease, config.timeouts.expect);
        let beside = Beside {
            forwarded: forwarded.as_deref(),
            question: question.as_ref(),
            interim,
            body_with_head: !client.http2,
        };
        let result = lease.send(request, beside, set.timeouts.response).await;
        if question.as_ref().is_some_and(Question::was_ignored) {
            client.worker.metrics.limit_hits[Limit::ExpectTimeout].increment();
        }
        let error = match result {
            Ok(mut response) => {
                lease.endpoint().answered();
                if let Some(question) = question {
                    hear(&mut lease, &question, response.status());
                }
                if let (Some(sticky), Some(mark)) = (&set.sticky, choice.mark_of(lease.endpoint()))
                    && marked != Some(mark)
                {
                    sticky::give(sticky, mark, client.secure.is_some(), response.headers_mut());
                }
                let endpoint = lease.endpoint().way.address;
                let answered = Answered { response, lease, patience: set.timeouts.body };
                return receive(answered, offered)
                    .map_err(|failure| Lost { failure, endpoint: Some(endpoint) });
            }
            Err(error) => error,
        };
        let endpoint = lease.endpoint();
        let lost = |failure| Lost { failure, endpoint: Some(endpoint.way.address) };
        let timed_out = matches!(error.failure, Failure::ResponseTimeout);
        let was_sent = error.was_sent;
        let again = error.request.filter(|request| !was_sent || (!timed_out && request.may_be_sent_again()));
        // A connection that was used before may have ended for its own reasons.
        let is_stale = lease.is_reused() && lease.has_ended();
        if !is_stale && error.failure.is_endpoints() {
            endpoint.counts.failures.increment();
            endpoint.broke(&config.passive_health);
        }
        let Some(again) = again else { return Err(lost(error.failure)) };
        if !is_stale {
            resends += 1;
            if resends > config.retries.attempts
                || !group.budget.withdraw(&config.retries, &client.worker.metrics)
            {
                return Err(lost(error.failure));
            }
            choice.avoid(endpoint);
        }
        tracing::debug!(endpoint = %endpoint.way.address, error = %error.failure, "sending the request again");
        if !lease.is_http2() {
            // Its neighbours have most likely ended with it. One of HTTP/2 has none, but may have a successor.
            endpoint.forget();
        }
        request = again;
    }
}

/// What the response tells of whether the request's body is wanted, and of whether the endpoint is worth asking.
fn hear(lease: &mut Lease, question: &Question, status: StatusCode) {
    if question.is_refused_by(status) {
        lease.leaves_body();
    } else if question.was_ignored() {
        lease.endpoint().lets_expect_pass();
    }
}

/// Makes the client's offer in the connection's way; `None` where that has none, and the request is one like any other.
async fn propose<'a>(
    offer: &'a Offer,
    head: &mut Parts,
    lease: &mut Lease,
    limit: Duration,
) -> Option<&'a Offer> {
    let Some(link) = lease.http2_mut() else {
        offer.make(head);
        return Some(offer);
    };
    offer.withdraw(head);
    if !offer.can_connect(head) || timeout(limit, link.takes_websockets()).await != Some(true) {
        return None;
    }
    offer.connect(head);
    Some(offer)
}

/// Makes an upstream's answer one for the client.
fn receive(mut answered: Answered, offer: Option<&Offer>) -> Result<Reply, Failure> {
    if let Some(offer) = offer
        && answered.lease.is_http2()
    {
        return enter(answered, offer);
    }
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
    let upstream = answered.lease.http1_mut().map(Http1::switch).ok_or(Failure::UnaskedUpgrade)?;
    let upstream = tunnel::Upstream::Http1(upstream);
    Ok(Reply::Switched(answered, Switched { protocol, upstream }))
}

/// The same of what answers an extended CONNECT: success is a tunnel.
fn enter(mut answered: Answered, offer: &Offer) -> Result<Reply, Failure> {
    super::restore(answered.response.headers_mut())?;
    if !answered.response.status().is_success() {
        return Ok(Reply::Answered(answered));
    }
    offer.switch(&mut answered.response);
    let body = std::mem::replace(answered.response.body_mut(), Source::Http1);
    let upstream = match (body, answered.lease.http2_mut()) {
        (Source::Http2(body), Some(link)) => link.tunnel(body),
        _ => None,
    };
    let upstream = tunnel::Upstream::Http2(upstream.ok_or(Failure::UnaskedUpgrade)?);
    Ok(Reply::Switched(answered, Switched { protocol: HeaderValue::from_static(WEBSOCKET), upstream }))
}

/// Puts the request into the form that the connection wants.
fn address(head: &mut Parts, lease: &Lease, set: &UpstreamSet, target: &Target) {
    if lease.is_http2() {
        head.version = Version::HTTP_2;
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        let authority = match target.authority() {
            authority if authority.is_empty() => Authority::try_from(set.authority()),
            authority => Authority::try_from(authority.as_bytes()),
        };
        if let Ok(authority) = authority {
            let secure = lease.endpoint().way.protocol == Protocol::Https;
            parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
            parts.authority = Some(authority);
            head.headers.remove(HOST);
        }
        head.uri = Uri::from_parts(parts).unwrap_or_default();
        return;
    }
    head.version = Version::HTTP_11;
    if let Some(resource) = head.uri.authority().and(head.uri.path_and_query()) {
        // It was put into HTTP/2's form for another connection.
        head.uri = Uri::from(resource.clone());
    }
    let host = match target.authority() {
        // HTTP/1.0 may leave the host out; what the upstream speaks may not.
        authority if authority.is_empty() => HeaderValue::from_str(set.authority()).ok(),
        authority => Some(authority.clone()),
    };
    if let Some(host) = host.filter(|_| !head.headers.contains_key(HOST)) {
        head.headers.insert(HOST, host);
    }
}
