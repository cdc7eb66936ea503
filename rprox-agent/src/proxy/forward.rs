//! The way of a request: whose it is, where it goes, what it looks like there, and what comes back.

#![forbid(unsafe_code)]

pub mod balance;
pub mod body;
mod choice;
pub mod client_certificate;
pub mod connect;
pub mod dial;
pub mod ejection;
pub mod endpoint;
pub mod exchange;
mod expect;
pub mod failure;
pub mod forwarded;
pub mod group;
pub mod headers;
pub mod http1;
pub mod http2;
mod place;
pub mod pool;
pub mod request;
pub mod retry;
pub mod send;
pub mod sticky;
pub mod target;
pub mod tunnel;
pub mod upgrade;
pub mod wire;

use std::future::pending;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, MAX_FORWARDS, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

pub use self::body::ResponseBody;
use self::body::{RequestBody, UploadError};
use self::exchange::Exchange;
use self::failure::Failure;
use self::forwarded::Forwarded;
use self::request::UpstreamRequest;
use self::send::{Outgoing, Reply};
use self::target::Target;
use self::upgrade::Offer;
use super::connection::body::ClientBody;
use super::connection::client::Client;
use super::connection::interim::Interim;
use super::connection::patience::Patience;
use super::live::Live;
use super::metrics::{Limit, Metrics};
use super::respond::{self, grpc};
use super::route::{Match, Route};
use super::tls::challenges;

/// Answers a request: by its upstream's response or by one of our own.
///
/// What the upstream says before that goes to `interim`, where the client can be told.
pub async fn handle(
    client: &Rc<Client>,
    mut parts: Box<Parts>,
    incoming: ClientBody,
    interim: Option<&Interim>,
) -> Response<ResponseBody> {
    let mut exchange = Exchange::begin(client, &mut parts);
    let live = Rc::clone(exchange.live());
    if let Err(response) = within_limits(client, &live, &parts) {
        return exchange.answer(*response);
    }
    let is_connect = connect::take(&mut parts);
    let (target, found) = match direct(client, &live, &mut parts, &mut exchange) {
        Ok(directed) => directed,
        Err(response) => return exchange.answer(*response),
    };
    let rate = if grpc::is_call(&parts.headers) { 0 } else { live.config.limits.client_rate };
    let patience = Patience::new(found.upstreams.timeouts.body, rate);
    let expects = expect::take(&mut parts);
    let body = match RequestBody::new(incoming, client, &live.config, patience, expects, interim) {
        Ok(body) => body,
        Err(failure) => {
            count(&client.worker.metrics, &failure);
            return exchange.answer(respond::text(failure.status(), failure.public()));
        }
    };
    let offer = if is_connect {
        Offer::websocket(&found.route.upgrade)
    } else if body.is_none() {
        Offer::find(&parts, &found.route.upgrade)
    } else {
        None
    };
    if is_connect && offer.is_none() {
        let reason = "WebSockets are not served here";
        return exchange.answer(respond::text(StatusCode::NOT_IMPLEMENTED, reason));
    }
    let trailers = headers::accepts_trailers(&parts.headers);
    let forwarded = match prepare(client, &live, found.route, &mut parts, &target) {
        Ok(forwarded) => forwarded,
        Err(response) => return exchange.answer(*response),
    };
    let request = UpstreamRequest { head: parts, body };
    let outgoing = Outgoing { target, request, forwarded, trailers, offer, interim };
    match send::send(client, &live, &found, outgoing).await {
        Ok(Reply::Switched(answered, switched)) if is_connect => exchange.connect(answered, switched),
        Ok(Reply::Switched(answered, switched)) => exchange.switch(answered, switched),
        Ok(Reply::Answered(answered)) => exchange.forward(answered),
        Err(lost) => {
            exchange.served_by(lost.endpoint);
            if lost.failure.is_given_up() {
                // There is nobody to answer. The stream's task knows by the same reset, and ends this as a request that was given up.
                pending::<()>().await;
            }
            let status = lost.failure.status();
            log(&found, &lost, status);
            count(&client.worker.metrics, &lost.failure);
            exchange.answer(respond::text(status, lost.failure.public()))
        }
    }
}

/// Refuses what would be too much.
fn within_limits(client: &Client, live: &Live, parts: &Parts) -> Result<(), Box<Response<Bytes>>> {
    let limits = &live.config.limits;
    let hits = &client.worker.metrics.limit_hits;
    if client.worker.requests.get() > limits.requests_in_flight {
        hits[Limit::RequestsInFlight].increment();
        let reason = "too many requests are being served";
        return Err(Box::new(respond::text(StatusCode::SERVICE_UNAVAILABLE, reason)));
    }
    if client.worker.shared.memory.is_short() {
        hits[Limit::Memory].increment();
        let reason = "not enough memory for another request";
        return Err(Box::new(respond::text(StatusCode::SERVICE_UNAVAILABLE, reason)));
    }
    // Over HTTP/1.1 that is seen to where they are read.
    if client.http2
        && parts.headers.len() > limits.headers
        && headers::fields(&parts.headers) > limits.headers
    {
        hits[Limit::Headers].increment();
        let reason = "the request has too many header fields";
        return Err(Box::new(respond::text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason)));
    }
    Ok(())
}

/// Counts a failure that is a limit's.
pub(super) fn count(metrics: &Metrics, failure: &Failure) {
    let limit = match failure {
        Failure::Busy => Limit::UpstreamConnections,
        Failure::Upload(UploadError::TooLarge) => Limit::BodyBytes,
        Failure::Upload(UploadError::Stalled) => Limit::ClientRate,
        _ => return,
    };
    metrics.limit_hits[limit].increment();
}

/// Tells the operator of a failure, which the client sees as `status`.
pub(super) fn log(found: &Match<'_>, lost: &send::Lost, status: StatusCode) {
    if lost.failure.is_clients() {
        return tracing::debug!(route = found.route.label, "{status}: {}", lost.failure);
    }
    tracing::warn!(
        route = found.route.label,
        upstream = found.upstreams.label,
        endpoint = lost.endpoint.map(tracing::field::display),
        "{status}: {}",
        lost.failure
    );
}

/// Finds out where the request goes, or what to say instead.
fn direct<'a>(
    client: &Client,
    live: &'a Live,
    parts: &mut Parts,
    exchange: &mut Exchange,
) -> Result<(Target, Match<'a>), Box<Response<Bytes>>> {
    let refuse = |status, detail: &str| Err(Box::new(respond::text(status, detail)));
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        // Neither a tunnel nor a mirror of the forwarding headers is anybody's business.
        return refuse(StatusCode::NOT_IMPLEMENTED, "this method is not served here");
    }
    let target = match Target::take(parts) {
        Ok(target) => target,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, reason),
    };
    let host = target.host();
    exchange.is_for(&host);
    if parts.uri.path().starts_with(challenges::HTTP_PATH)
        && let Some(body) = client.worker.shared.tls.challenges.body(&host, parts.uri.path())
    {
        return Err(Box::new(respond::plain(body)));
    }
    if let Some(secured) = &client.secure
        && !secured.covers.covers(&host)
    {
        let reason = "this connection's certificate is not for this host";
        return refuse(StatusCode::MISDIRECTED_REQUEST, reason);
    }
    if parts.method == Method::OPTIONS && ends_here(parts) {
        return Err(Box::new(respond::empty(StatusCode::NO_CONTENT)));
    }
    let Some(found) = live.routes.find(&host, parts.uri.path()) else {
        return refuse(StatusCode::NOT_FOUND, "no route leads from here");
    };
    exchange.takes(&found);
    if client.secure.is_some() && found.is_passed_through {
        // As by a certificate of ours that covers the upstream's host too.
        return refuse(StatusCode::MISDIRECTED_REQUEST, "TLS for this host is not ended here");
    }
    if client.secure.is_none()
        && found.route.https_redirect
        && (found.is_passed_through || live.tls.serves(&host))
    {
        let resource = parts.uri.path_and_query().map_or("/", |resource| resource.as_str());
        return Err(Box::new(respond::https_redirect(&parts.method, &host, resource)));
    }
    if found.route.is_passthrough() {
        return refuse(StatusCode::NOT_FOUND, "this host is served over TLS alone");
    }
    let beside = found.guard.map(|guard| guard.beside(found.place, parts.uri.path())).unwrap_or_default();
    for route in beside.iter().chain([found.route]) {
        if let Err((status, reason)) = client_certificate::check(client, route, &host) {
            return refuse(status, reason);
        }
    }
    drop(host);
    Ok((target, found))
}

/// Whether an OPTIONS request is for this server and not for what is behind it (RFC 9110 sections 7.6.2 and 9.3.7).
fn ends_here(parts: &mut Parts) -> bool {
    if parts.uri.path() == "*" {
        return true;
    }
    let Some(left) = parts.headers.get_mut(MAX_FORWARDS) else { return false };
    match left.to_str().ok().and_then(|left| left.parse::<u64>().ok()) {
        Some(0) => true,
        Some(hops) => {
            *left = HeaderValue::from(hops - 1);
            false
        }
        None => false,
    }
}

/// Makes the client's header section the one for the upstream; returns what goes with it.
fn prepare(
    client: &Client,
    live: &Live,
    route: &Route,
    parts: &mut Parts,
    target: &Target,
) -> Result<Option<Rc<Forwarded>>, Box<Response<Bytes>>> {
    let headers = &mut parts.headers;
    if !headers::only_chunked(headers) {
        let reason = "of the transfer codings only chunked is served";
        return Err(Box::new(respond::text(StatusCode::NOT_IMPLEMENTED, reason)));
    }
    if headers::has_look_alike(headers) {
        let reason = "a field's name differs from one of ours by an underscore";
        return Err(Box::new(respond::text(StatusCode::BAD_REQUEST, reason)));
    }
    headers::canonical_length(headers);
    headers::one_cookie(headers);
    headers::remove_hop_by_hop(headers);
    let trusted = live.config.trusts(client.peer);
    let forwarded = client.forwarding.apply(headers, target.authority(), trusted);
    client_certificate::apply(client, route, headers);
    let via = &client.worker.shared.via;
    if via.passes(headers) > live.config.limits.passes {
        client.worker.metrics.limit_hits[Limit::Passes].increment();
        tracing::warn!(
            route = route.label,
            "508: the route leads back here; the request came by more than limits.passes times"
        );
        let reason = "this service leads back to itself";
        return Err(Box::new(respond::text(StatusCode::LOOP_DETECTED, reason)));
    }
    via.mark(parts.version, headers);
    Ok(forwarded)
}

/// Makes the upstream's header section the one for the client.
///
/// # Errors
///
/// When the response can't be passed on.
pub(crate) fn restore(headers: &mut HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(TRANSFER_ENCODING)
        && (headers.contains_key(CONTENT_LENGTH) || !headers::only_chunked(headers))
    {
        return Err(Failure::TransferCoding);
    }
    headers::canonical_length(headers);
    headers::remove_hop_by_hop(headers);
    Ok(())
}
