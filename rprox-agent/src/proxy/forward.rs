//! The way of a request: whose it is, where it goes, what it looks like there, and what comes back.

#![forbid(unsafe_code)]

pub mod balance;
pub mod body;
pub mod client_certificate;
pub mod connect;
pub mod exchange;
pub mod failure;
pub mod forwarded;
pub mod headers;
pub mod link;
pub mod pool;
pub mod send;
pub mod target;
pub mod tunnel;
pub mod upgrade;

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, MAX_FORWARDS, TRANSFER_ENCODING, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use self::body::RequestBody;
pub use self::body::ResponseBody;
use self::connect::Connect;
use self::exchange::Exchange;
use self::failure::Failure;
use self::send::Reply;
use self::target::Target;
use self::upgrade::Offer;
use super::connection::client::Client;
use super::live::Live;
use super::respond;
use super::route::{Match, Route};
use super::tls::challenges;

/// Answers a request: by its upstream's response or by one of our own.
pub async fn handle(client: &Rc<Client>, request: Request<Incoming>) -> Response<ResponseBody> {
    let (mut parts, incoming) = request.into_parts();
    let mut exchange = Exchange::begin(client, &parts);
    let live = Rc::clone(exchange.live());
    let connect = Connect::take(&mut parts);
    let (target, found) = match direct(client, &live, &mut parts, &mut exchange) {
        Ok(directed) => directed,
        Err(response) => return exchange.answer(*response),
    };
    let body = match RequestBody::new(incoming, client, &live.config) {
        Ok(body) => body,
        Err(failure) => return exchange.answer(respond::text(failure.status(), failure.public())),
    };
    let offer = match &connect {
        Some(_) => Offer::websocket(&found.route.upgrade),
        None if body.is_none() => Offer::find(&parts, &found.route.upgrade),
        None => None,
    };
    if connect.is_some() && offer.is_none() {
        let reason = "WebSockets are not served here";
        return exchange.answer(respond::text(StatusCode::NOT_IMPLEMENTED, reason));
    }
    if let Err(response) = prepare(client, &live, found.route, &mut parts, &target) {
        return exchange.answer(*response);
    }
    match send::send(client, &live, &found, target, Request::from_parts(parts, body), offer).await {
        Ok(Reply::Switched(answered, switched)) => match connect {
            Some(connect) => exchange.connect(answered, switched, connect),
            None => exchange.switch(answered, switched),
        },
        Ok(Reply::Answered(answered)) => exchange.forward(answered),
        Err(lost) => {
            let status = lost.failure.status();
            log(&found, &lost, status);
            exchange.served_by(lost.endpoint);
            exchange.answer(respond::text(status, lost.failure.public()))
        }
    }
}

fn log(found: &Match<'_>, lost: &send::Lost, status: StatusCode) {
    if lost.failure.is_clients() {
        return tracing::debug!(route = found.route.label, "{status}: {}", lost.failure);
    }
    tracing::warn!(
        route = found.route.label,
        upstream = found.upstream.authority,
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
    exchange.takes(found.route);
    if client.secure.is_none() && found.route.https_redirect && live.tls.serves(&host) {
        let resource = parts.uri.path_and_query().map_or("/", |resource| resource.as_str());
        return Err(Box::new(respond::https_redirect(&parts.method, &host, resource)));
    }
    if let Err((status, reason)) = client_certificate::check(client, found.route, &host) {
        return refuse(status, reason);
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

/// Makes the client's header section the one for the upstream.
fn prepare(
    client: &Client,
    live: &Live,
    route: &Route,
    parts: &mut Parts,
    target: &Target,
) -> Result<(), Box<Response<Bytes>>> {
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
    let trailers = headers::accepts_trailers(headers);
    headers::remove_hop_by_hop(headers);
    if trailers {
        headers::announce_trailers(headers);
    }
    // Answered by hyper, with the 100 that the client waits for, when the body is first asked for.
    headers.remove(EXPECT);
    let trusted = live.config.trusts(client.peer);
    client.forwarding.apply(headers, target.authority(), trusted);
    client_certificate::apply(client, route, headers);
    headers.append(VIA, via(parts.version));
    Ok(())
}

/// This hop, for loops to be seen (RFC 9110 section 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 rprox",
        Version::HTTP_10 => "1.0 rprox",
        _ => "1.1 rprox",
    })
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
