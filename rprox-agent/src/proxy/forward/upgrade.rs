//! Upgrades: HTTP/1.1 connections that go on in another protocol (RFC 9110 section 7.8).
//!
//! An offer goes upstream only if the route allows the protocol and the request has no body: of one that is still on its way
//! nobody could say where it ends and the new protocol begins. Whoever offers can always be answered in HTTP/1.1, so what isn't
//! passed on is left out and the request is served as any other.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::connect::{Handshake, WEBSOCKET};
use super::headers::tokens;

/// The protocols that a request offers to go on in and its route allows: `websocket`, or a list.
#[derive(Clone, Debug)]
pub struct Offer {
    protocols: HeaderValue,
    /// Where the upstream must show us, and not the client, that it speaks WebSocket.
    handshake: Option<Handshake>,
}

impl Offer {
    /// What the request offers of `allowed`, which is in lower case; `None`: nothing.
    #[must_use]
    pub fn find(parts: &Parts, allowed: &[String]) -> Option<Self> {
        if parts.version != Version::HTTP_11
            || !parts.headers.contains_key(UPGRADE)
            || !is_upgrade(&parts.headers)
        {
            return None;
        }
        let mut offered = String::new();
        for protocol in protocols(&parts.headers) {
            if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(protocol)) {
                let separator = if offered.is_empty() { "" } else { ", " };
                let _ = write!(offered, "{separator}{protocol}");
            }
        }
        let protocols = HeaderValue::try_from(offered).ok().filter(|offered| !offered.is_empty())?;
        Some(Self { protocols, handshake: None })
    }

    /// A WebSocket of our own asking, if it is `allowed`.
    #[must_use]
    pub fn websocket(allowed: &[String]) -> Option<Self> {
        let is_allowed = allowed.iter().any(|allowed| allowed == WEBSOCKET);
        let handshake = Some(Handshake::new()?);
        is_allowed.then_some(Self { protocols: HeaderValue::from_static(WEBSOCKET), handshake })
    }

    /// Puts it into a header section that is rid of the fields for one hop.
    pub fn make(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocols.clone());
        if let Some(handshake) = &self.handshake {
            handshake.ask(headers);
        }
    }

    /// Whether the client asked by CONNECT, to which success says that there is a tunnel.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.handshake.is_some()
    }

    /// What the response takes of it.
    #[must_use]
    pub fn accepted(&self, status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
        if status != StatusCode::SWITCHING_PROTOCOLS || !is_upgrade(headers) {
            return None;
        }
        if self.handshake.as_ref().is_some_and(|handshake| !handshake.is_answered(headers)) {
            return None;
        }
        let mut taken = protocols(headers).peekable();
        taken.peek()?;
        let is_offered =
            |protocol: &str| tokens(&self.protocols).any(|offered| offered.eq_ignore_ascii_case(protocol));
        taken.all(is_offered).then(|| headers.get(UPGRADE).cloned())?
    }
}

/// Tells the client that its offer was taken, in a header section that is rid of the fields for one hop.
pub fn confirm(protocol: HeaderValue, headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Whether `Connection` says that `Upgrade` is meant for this hop.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(UPGRADE).iter().flat_map(tokens).filter(|protocol| !protocol.is_empty())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn find(version: Version, fields: &[(&str, &str)], allowed: &[&str]) -> Option<Offer> {
        let mut request = Request::builder().version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let allowed: Vec<_> = allowed.iter().map(|allowed| (*allowed).to_owned()).collect();
        Offer::find(&request.body(()).unwrap().into_parts().0, &allowed)
    }

    fn offered(fields: &[(&str, &str)], allowed: &[&str]) -> Option<String> {
        find(Version::HTTP_11, fields, allowed).map(|offer| offer.protocols.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_the_route_allows_is_offered_and_no_more() {
        let fields =
            [("connection", "keep-alive, Upgrade"), ("upgrade", "h2c, WebSocket"), ("upgrade", "tcp")];
        assert_eq!(offered(&fields, &["websocket"]).as_deref(), Some("WebSocket"));
        assert_eq!(offered(&fields, &["websocket", "tcp"]).as_deref(), Some("WebSocket, tcp"));
        assert_eq!(offered(&fields, &[]), None);
    }

    #[test]
    fn an_offer_that_is_not_for_this_hop_is_none() {
        assert_eq!(offered(&[("upgrade", "websocket")], &["websocket"]), None);
        assert_eq!(offered(&[("upgrade", "websocket"), ("connection", "close")], &["websocket"]), None);
        let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert!(find(Version::HTTP_10, &fields, &["websocket"]).is_none());
    }

    #[test]
    fn only_what_was_offered_can_be_accepted() {
        let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
        let offer = find(Version::HTTP_11, &fields, &["websocket"]).unwrap();
        let answer = |status, fields: &[(&'static str, &'static str)]| {
            let headers = fields
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect();
            offer.accepted(status, &headers).is_some()
        };
        let switching = StatusCode::SWITCHING_PROTOCOLS;
        assert!(answer(switching, &[("connection", "Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!answer(switching, &[("connection", "Upgrade"), ("upgrade", "h2c")]));
        assert!(!answer(switching, &[("connection", "Upgrade")]));
        assert!(!answer(switching, &[("upgrade", "websocket")]));
        assert!(!answer(StatusCode::OK, &[("connection", "Upgrade"), ("upgrade", "websocket")]));
    }
}
