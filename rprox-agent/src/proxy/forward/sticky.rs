//! Cookies that bring a client back to the endpoint that served it.
//!
//! The cookie's value is a mark of the endpoint and not its address: a digest, cut short, and with the route's secret in it if it has one. It
//! is ours alone and ends here; the upstream doesn't see it.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::net::SocketAddr;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

use crate::proxy::upstream::set::Sticky;

/// The mark of the endpoint at `address`.
#[must_use]
pub fn mark(sticky: &Sticky, address: SocketAddr) -> u64 {
    let mut digest = Sha256::new();
    digest.update((sticky.secret.len() as u64).to_be_bytes());
    digest.update(sticky.secret.as_bytes());
    digest.update(address.to_string());
    let digest = digest.finalize();
    digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

/// Takes the cookie out of a request. Returns the mark in it.
pub fn take(sticky: &Sticky, headers: &mut HeaderMap) -> Option<u64> {
    let is_ours = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| name == sticky.cookie);
    let mut mark = None;
    let mut rest = Vec::new();
    for field in headers.get_all(COOKIE) {
        let Ok(text) = field.to_str() else {
            rest.push(field.clone());
            continue;
        };
        if !text.split("; ").any(is_ours) {
            rest.push(field.clone());
            continue;
        }
        let value = text.split("; ").find(|pair| is_ours(pair)).and_then(|pair| pair.split_once('='));
        mark = mark.or_else(|| value.and_then(|(_, value)| u64::from_str_radix(value, 16).ok()));
        let others = text.split("; ").filter(|pair| !is_ours(pair)).collect::<Vec<_>>().join("; ");
        // A part of a header value is one.
        rest.extend(HeaderValue::try_from(others).ok().filter(|others| !others.is_empty()));
    }
    headers.remove(COOKIE);
    for field in rest {
        headers.append(COOKIE, field);
    }
    mark
}

/// Gives the client a cookie with `mark`.
pub fn give(sticky: &Sticky, mark: u64, secure: bool, headers: &mut HeaderMap) {
    let Sticky { cookie, path, .. } = sticky;
    let mut text = format!("{cookie}={mark:016x}; Path={path}; HttpOnly; SameSite=Lax");
    if let Some(age) = sticky.max_age {
        let _ = write!(text, "; Max-Age={}", age.as_secs());
    }
    if secure {
        text.push_str("; Secure");
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.append(SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(secret: &str) -> Sticky {
        Sticky { cookie: "rprox".into(), path: "/".into(), max_age: None, secret: secret.into() }
    }

    fn take_from(fields: &[&str]) -> (Option<u64>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, field.parse().unwrap());
        }
        let mark = take(&sticky(""), &mut headers);
        (mark, headers.get_all(COOKIE).iter().map(|field| field.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn only_our_own_cookie_is_taken_out() {
        let kept = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
        assert_eq!(take_from(&["a=1; rprox=00000000000000ff; b=2"]), (Some(255), kept(&["a=1; b=2"])));
        assert_eq!(take_from(&["rprox=ff"]), (Some(255), kept(&[])));
        assert_eq!(take_from(&["a=1", "rprox=ff", "b=2"]), (Some(255), kept(&["a=1", "b=2"])));
        assert_eq!(take_from(&["a=rprox; xrprox=1"]), (None, kept(&["a=rprox; xrprox=1"])));
        assert_eq!(take_from(&["rprox=nonsense; a=1"]), (None, kept(&["a=1"])));
        assert_eq!(take_from(&[]), (None, kept(&[])));
    }

    #[test]
    fn a_mark_is_stable_and_the_secret_s_own() {
        let address = "10.0.0.1:80".parse().unwrap();
        assert_eq!(mark(&sticky(""), address), mark(&sticky(""), address));
        assert_ne!(mark(&sticky(""), address), mark(&sticky("x"), address));
        assert_ne!(mark(&sticky(""), address), mark(&sticky(""), "10.0.0.1:81".parse().unwrap()));
    }

    #[test]
    fn the_cookie_says_what_browsers_must_know() {
        let mut headers = HeaderMap::new();
        let age = Some(std::time::Duration::from_hours(1));
        give(&Sticky { max_age: age, ..sticky("") }, 255, true, &mut headers);
        let expected = "rprox=00000000000000ff; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure";
        assert_eq!(headers[SET_COOKIE], expected);
    }
}
