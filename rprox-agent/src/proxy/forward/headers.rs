//! Header fields that are for one hop only (RFC 9110 section 7.6.1).

#![forbid(unsafe_code)]

use std::iter;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes `Connection`, the fields that it lists, and those that are for one hop without being listed.
///
/// `Host` and `Content-Length` stay even if listed: they are the message's, and who lists them is up to no good.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // One look at each name is cheaper than to hash all that there might be.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if let Some(first) = headers.get(CONNECTION).cloned() {
        let more: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().skip(1).cloned().collect();
        headers.remove(CONNECTION);
        for value in iter::once(&first).chain(&more) {
            for name in tokens(value) {
                if !matches!(name, "close" | "keep-alive" | "") {
                    remove_listed(headers, name);
                }
            }
        }
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TE);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
}

/// Removes fields of these `names`. One look at each that is there is cheaper than to hash all that there might be.
pub(in crate::proxy) fn remove_all<const N: usize>(headers: &mut HeaderMap, names: [HeaderName; N]) {
    if headers.keys().any(|name| names.contains(name)) {
        for name in names {
            headers.remove(name);
        }
    }
}

/// Whether a field of this name is for one hop without being listed.
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

fn remove_listed(headers: &mut HeaderMap, name: &str) {
    if let Ok(name) = HeaderName::try_from(name)
        && name != HOST
        && name != CONTENT_LENGTH
    {
        headers.remove(name);
    }
}

/// Whether the message has no transfer coding but chunked, which is taken off and put on again at each hop. Any other
/// would be lost with the field that names it.
#[must_use]
pub fn only_chunked(headers: &HeaderMap) -> bool {
    headers
        .get_all(TRANSFER_ENCODING)
        .iter()
        .enumerate()
        .all(|(index, value)| index == 0 && value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Names that nobody but us may give a meaning to, as CGI and what came after it write them.
const OURS: [&str; 4] = ["content_length", "transfer_encoding", "x_forwarded_", "x_real_ip"];

/// Whether a field's name is one of ours for an upstream that can't tell `_` from `-`: those that read them from the environment
/// (CGI, WSGI, Rack, PHP).
#[must_use]
pub fn has_look_alike(headers: &HeaderMap) -> bool {
    headers.keys().any(is_look_alike)
}

/// Takes such fields off.
pub fn remove_look_alikes(headers: &mut HeaderMap) {
    for name in headers.keys().filter(|name| is_look_alike(name)).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

fn is_look_alike(name: &HeaderName) -> bool {
    name.as_str().contains('_') && {
        let name = name.as_str().replace('-', "_");
        OURS.iter().any(|ours| name.starts_with(ours))
    }
}

/// Writes a length that was taken although it stands there twice (`5, 5`) or has leading zeros as the number that it is: others
/// might see no number there, or an octal one.
pub fn canonical_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return };
    let written = first.as_bytes();
    if lengths.next().is_none()
        && (written.len() == 1 || !written.starts_with(b"0"))
        && !written.contains(&b',')
    {
        return;
    }
    let number = tokens(first).next().and_then(|digits| digits.parse::<u64>().ok());
    if let Some(number) = number {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(number));
    }
}

/// The number that all `Content-Length` are; `None` if there is none, or not one number.
#[must_use]
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    let number = |value: &HeaderValue| {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<u64>().ok())
    };
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter().map(number);
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
}

/// Puts the cookies of an HTTP/2 request, which may come in crumbs, into the one field that others expect (RFC 9113 section 8.2.3).
pub fn one_cookie(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        // Made of header values, and so one.
        if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, whole);
        }
    }
}

/// How many fields there are. Cookies that come in crumbs are one, as they are in HTTP/1.1.
#[must_use]
pub fn fields(headers: &HeaderMap) -> usize {
    headers.len() - headers.get_all(COOKIE).iter().skip(1).count()
}

/// Whether the sender takes trailers: `TE: trailers`.
#[must_use]
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("trailers"))
}

/// Says for ourselves that we take trailers, in the form of a connection by HTTP/2 or else HTTP/1.1: there the field has to be listed, or who
/// doesn't know it would pass it on (RFC 9110 section 10.1.4).
pub fn announce_trailers(headers: &mut HeaderMap, http2: bool) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if http2 {
        headers.remove(CONNECTION);
    } else {
        let listed = if headers.contains_key(UPGRADE) { "upgrade, te" } else { "te" };
        headers.insert(CONNECTION, HeaderValue::from_static(listed));
    }
}

/// The parts of a comma-separated list; none of a value that isn't ASCII.
pub(in crate::proxy) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn kept(fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = map(&[]);
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        remove_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_go_and_the_others_stay() {
        let fields = [
            ("accept", "*/*"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, deflate"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
        ];
        assert_eq!(kept(&fields), ["accept", "trailer"]);
    }

    #[test]
    fn listed_fields_go_in_any_case_and_from_any_line() {
        let fields = [
            ("connection", "X-One, close"),
            ("connection", " x-two ,,x-three"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-four", "4"),
        ];
        assert_eq!(kept(&fields), ["x-four"]);
    }

    #[test]
    fn listing_the_message_s_own_fields_does_nothing() {
        let fields = [("connection", "host, content-length"), ("host", "a"), ("content-length", "3")];
        assert_eq!(kept(&fields), ["content-length", "host"]);
    }

    #[test]
    fn only_plain_chunked_passes() {
        assert!(only_chunked(&map(&[])));
        assert!(only_chunked(&map(&[("transfer-encoding", "Chunked")])));
        assert!(!only_chunked(&map(&[("transfer-encoding", "gzip, chunked")])));
    }

    #[test]
    fn an_underscore_hides_none_of_our_names() {
        for name in ["content_length", "x_forwarded_for", "x-forwarded_proto", "x_real-ip"] {
            assert!(has_look_alike(&map(&[(name, "x")])), "{name}");
        }
        assert!(!has_look_alike(&map(&[
            ("x-forwarded-for", "x"),
            ("my_field", "x"),
            ("content-length", "1")
        ])));
    }

    #[test]
    fn trailers_are_found_in_a_list() {
        assert!(accepts_trailers(&map(&[("te", "deflate, Trailers")])));
        assert!(!accepts_trailers(&map(&[("te", "deflate")])));
    }
}
