//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT, whose stream is the WebSocket, made the GET with an `Upgrade` that it
//! stands for in HTTP/1.1.

#![forbid(unsafe_code)]

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

/// What a handshake's key is hashed with (RFC 6455 section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes in a key.
const NONCE: usize = 16;

/// The protocol of an extended CONNECT that is served.
pub const WEBSOCKET: &str = "websocket";

/// Makes a CONNECT for a WebSocket a GET, and leaves every other request as it is; whether it was one.
pub fn take(parts: &mut Parts) -> bool {
    let protocol = parts.extensions.get::<Protocol>();
    let taken = parts.method == Method::CONNECT && protocol.is_some_and(|name| name.as_str() == WEBSOCKET);
    if taken {
        parts.method = Method::GET;
    }
    taken
}

/// Makes an upstream's 101 the answer to a CONNECT.
pub fn confirm<B>(response: &mut Response<B>) {
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    response.headers_mut().remove(CONTENT_LENGTH);
}

/// The two halves of a handshake by which an upstream shows that it speaks WebSocket.
#[derive(Clone, Debug)]
pub struct Handshake {
    key: HeaderValue,
    accept: HeaderValue,
}

/// Whether it is a key that a client may have: 16 bytes (RFC 6455 section 4.1).
pub fn is_key(key: &HeaderValue) -> bool {
    BASE64.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == NONCE)
}

/// The answer to a handshake's `key`.
pub fn accept(key: &HeaderValue) -> HeaderValue {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID.as_bytes()].concat());
    // Base64 is always a value.
    HeaderValue::try_from(BASE64.encode(digest.as_ref())).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Handshake {
    /// A new one; `None` where there is no randomness to be had.
    #[must_use]
    pub fn new() -> Option<Self> {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).ok()?;
        Self::with_key(&BASE64.encode(&nonce))
    }

    fn with_key(key: &str) -> Option<Self> {
        let key = HeaderValue::try_from(key).ok()?;
        Some(Self { accept: accept(&key), key })
    }

    /// Puts the key into a request.
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
    }

    /// Whether a response answers to the key.
    #[must_use]
    pub fn is_answered(&self, headers: &HeaderMap) -> bool {
        headers.get(SEC_WEBSOCKET_ACCEPT) == Some(&self.accept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfc_s_example_is_answered_as_it_says() {
        let handshake = Handshake::with_key("dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        let mut headers = HeaderMap::new();
        assert!(!handshake.is_answered(&headers));
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(handshake.is_answered(&headers));
    }

    #[test]
    fn a_key_is_16_bytes() {
        for (key, expected) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25j", false),
            ("", false),
        ] {
            assert_eq!(is_key(&HeaderValue::from_static(key)), expected, "{key}");
        }
    }
}
