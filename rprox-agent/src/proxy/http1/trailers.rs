//! Which fields may come behind a body (RFC 9110 section 6.5).

#![forbid(unsafe_code)]

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, HOST, MAX_FORWARDS, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName};

use crate::proxy::forward::headers::{self, tokens};

/// What means something in a head alone, whoever calls it a trailer.
const HEADS: [HeaderName; 15] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    MAX_FORWARDS,
    PROXY_AUTHORIZATION,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// The trailers that a message announces (RFC 9110 section 6.6.2) and may have.
#[must_use]
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(TRAILER).iter().flat_map(tokens);
    let names = names.filter_map(|name| HeaderName::try_from(name).ok());
    names.filter(|name| !HEADS.contains(name) && !headers::is_hop_by_hop(name)).collect()
}
