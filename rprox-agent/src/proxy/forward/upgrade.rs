//! Upgrades: HTTP/1.1 connections that go on in another protocol (RFC 9110 section 7.8).
//!
//! An offer goes upstream only if the route allows the protocol and the request has no body: of one that is still on its way
//! nobody could say where it ends and the new protocol begins. Whoever offers can always be answered in HTTP/1.1, so what isn't
//! passed on is left out and the request is served as any other. To an upstream that speaks HTTP/2 a WebSocket is an extended CONNECT.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::connect::{self, Handshake, WEBSOCKET};
use super::headers::tokens;

/// The protocols that a request offers to go on in and its route allows: `websocket`, or a list.
#[derive(Clone, Debug)]
pub struct Offer {
    protocols: HeaderValue,
    asked: Asked,
}

/// How the client asked.
#[derive(Clone, Debug)]
enum Asked {
    /// By an upgrade, with a key whose answer tells it that its upstream speaks WebSocket.
    Upgrade(Option<HeaderValue>),
    /// By CONNECT: the upstream must show us, and not the client, that it speaks WebSocket.
    Connect(Handshake),
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
        let mut keys = parts.headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let key = keys.next().filter(|key| keys.next().is_none() && connect::is_key(key)).cloned();
        Some(Self { protocols, asked: Asked::Upgrade(key) })
    }

    /// A WebSocket of our own asking, if it is `allowed`.
    #[must_use]
    pub fn websocket(allowed: &[String]) -> Option<Self> {
        let is_allowed = allowed.iter().any(|allowed| allowed == WEBSOCKET);
        let asked = Asked::Connect(Handshake::new()?);
        is_allowed.then_some(Self { protocols: HeaderValue::from_static(WEBSOCKET), asked })
    }

    /// Makes it to an upstream that speaks HTTP/1.1, in a head that is rid of the fields for one hop.
    pub fn make(&self, head: &mut Parts) {
        self.withdraw(head);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, self.protocols.clone());
        if let Asked::Connect(handshake) = &self.asked {
            handshake.ask(&mut head.headers);
        }
    }

    /// Leaves the head as it was before it was made.
    pub fn withdraw(&self, head: &mut Parts) {
        head.headers.remove(CONNECTION);
        head.headers.remove(UPGRADE);
        if head.method == Method::CONNECT {
            head.method = Method::GET;
        }
        match &self.asked {
            Asked::Upgrade(Some(key)) => {
                head.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
            }
            Asked::Upgrade(None) => {}
            Asked::Connect(_) => {
                head.headers.remove(SEC_WEBSOCKET_KEY);
            }
        }
    }

    /// Whether it can be made to an upstream that speaks HTTP/2: as a WebSocket, whose handshake we can answer.
    #[must_use]
    pub fn can_connect(&self, head: &Parts) -> bool {
        match &self.asked {
            Asked::Upgrade(None) => false,
            Asked::Upgrade(Some(_)) => {
                head.method == Method::GET
                    && tokens(&self.protocols).any(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET))
            }
            Asked::Connect(_) => true,
        }
    }

    /// Makes it to an upstream that speaks HTTP/2: the GET becomes the extended CONNECT that stands for it (RFC 8441 section 5).
    pub fn connect(&self, head: &mut Parts) {
        head.method = Method::CONNECT;
        head.headers.remove(SEC_WEBSOCKET_KEY);
    }

    /// Makes an upstream's success with that the 101 that the client waits for, if it does.
    pub fn switch<B>(&self, response: &mut Response<B>) {
        response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        if let Asked::Upgrade(Some(key)) = &self.asked {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, connect::accept(key));
        }
    }

    /// Whether the client asked by CONNECT, to which success says that there is a tunnel.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.asked, Asked::Connect(_))
    }

    /// What the response takes of it.
    #[must_use]
    pub fn accepted(&self, status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
        if status != StatusCode::SWITCHING_PROTOCOLS || !is_upgrade(headers) {
            return None;
        }
        if let Asked::Connect(handshake) = &self.asked
            && !handshake.is_answered(headers)
        {
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
