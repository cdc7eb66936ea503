//! The static table (RFC 7541 appendix A).

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use foldhash::HashMap;
use http::header::{self, HeaderName};

use super::field::{Field, Pseudo};

/// How many entries it has; their numbers begin with 1.
pub(super) const LENGTH: usize = 61;

/// The entries.
pub(super) static FIELDS: LazyLock<[Field; LENGTH]> = LazyLock::new(fields);

/// The number of the first entry with a name.
pub(super) static NUMBERS: LazyLock<HashMap<HeaderName, usize>> = LazyLock::new(|| {
    let mut numbers = HashMap::default();
    for (place, field) in FIELDS.iter().enumerate() {
        if let Field::Header(name, _) = field {
            numbers.entry(name.clone()).or_insert(place + 1);
        }
    }
    numbers
});

fn fields() -> [Field; LENGTH] {
    [
        Field::pseudo(Pseudo::Authority, ""),
        Field::pseudo(Pseudo::Method, "GET"),
        Field::pseudo(Pseudo::Method, "POST"),
        Field::pseudo(Pseudo::Path, "/"),
        Field::pseudo(Pseudo::Path, "/index.html"),
        Field::pseudo(Pseudo::Scheme, "http"),
        Field::pseudo(Pseudo::Scheme, "https"),
        Field::pseudo(Pseudo::Status, "200"),
        Field::pseudo(Pseudo::Status, "204"),
        Field::pseudo(Pseudo::Status, "206"),
        Field::pseudo(Pseudo::Status, "304"),
        Field::pseudo(Pseudo::Status, "400"),
        Field::pseudo(Pseudo::Status, "404"),
        Field::pseudo(Pseudo::Status, "500"),
        Field::header(header::ACCEPT_CHARSET, ""),
        Field::header(header::ACCEPT_ENCODING, "gzip, deflate"),
        Field::header(header::ACCEPT_LANGUAGE, ""),
        Field::header(header::ACCEPT_RANGES, ""),
        Field::header(header::ACCEPT, ""),
        Field::header(header::ACCESS_CONTROL_ALLOW_ORIGIN, ""),
        Field::header(header::AGE, ""),
        Field::header(header::ALLOW, ""),
        Field::header(header::AUTHORIZATION, ""),
        Field::header(header::CACHE_CONTROL, ""),
        Field::header(header::CONTENT_DISPOSITION, ""),
        Field::header(header::CONTENT_ENCODING, ""),
        Field::header(header::CONTENT_LANGUAGE, ""),
        Field::header(header::CONTENT_LENGTH, ""),
        Field::header(header::CONTENT_LOCATION, ""),
        Field::header(header::CONTENT_RANGE, ""),
        Field::header(header::CONTENT_TYPE, ""),
        Field::header(header::COOKIE, ""),
        Field::header(header::DATE, ""),
        Field::header(header::ETAG, ""),
        Field::header(header::EXPECT, ""),
        Field::header(header::EXPIRES, ""),
        Field::header(header::FROM, ""),
        Field::header(header::HOST, ""),
        Field::header(header::IF_MATCH, ""),
        Field::header(header::IF_MODIFIED_SINCE, ""),
        Field::header(header::IF_NONE_MATCH, ""),
        Field::header(header::IF_RANGE, ""),
        Field::header(header::IF_UNMODIFIED_SINCE, ""),
        Field::header(header::LAST_MODIFIED, ""),
        Field::header(header::LINK, ""),
        Field::header(header::LOCATION, ""),
        Field::header(header::MAX_FORWARDS, ""),
        Field::header(header::PROXY_AUTHENTICATE, ""),
        Field::header(header::PROXY_AUTHORIZATION, ""),
        Field::header(header::RANGE, ""),
        Field::header(header::REFERER, ""),
        Field::header(header::REFRESH, ""),
        Field::header(header::RETRY_AFTER, ""),
        Field::header(header::SERVER, ""),
        Field::header(header::SET_COOKIE, ""),
        Field::header(header::STRICT_TRANSPORT_SECURITY, ""),
        Field::header(header::TRANSFER_ENCODING, ""),
        Field::header(header::USER_AGENT, ""),
        Field::header(header::VARY, ""),
        Field::header(header::VIA, ""),
        Field::header(header::WWW_AUTHENTICATE, ""),
    ]
}
