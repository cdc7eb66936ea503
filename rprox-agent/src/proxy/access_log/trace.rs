//! Trace context: the name that a request has in all services that it goes through (W3C Trace Context).

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace that a request is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace(String);

impl Trace {
    /// That of a request with these `headers`, which go on as they came. Where there is none that is valid, one is made if
    /// `create`, and said to be sampled: who turns that on wants to see the traces.
    #[must_use]
    pub fn of(headers: &mut HeaderMap, create: bool) -> Option<Self> {
        let known = headers.get(TRACEPARENT).and_then(|value| id(value.to_str().ok()?));
        if let Some(id) = known {
            return Some(Self(id.to_owned()));
        }
        if !create {
            return None;
        }
        let (id, parent) = (random(16)?, random(8)?);
        headers.insert(TRACEPARENT, HeaderValue::try_from(format!("00-{id}-{parent}-01")).ok()?);
        // What is said of a trace that isn't one is of no use to anybody.
        headers.remove(TRACESTATE);
        Some(Self(id))
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// The trace's id in a `traceparent`, of any version that begins as version 00 does (section 3.2).
fn id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.splitn(4, '-');
    let (version, id, parent, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let flags = if version == "00" { rest } else { rest.split('-').next()? };
    let is_valid = is_hex(version, 2)
        && version != "ff"
        && is_hex(id, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        && id.bytes().any(|byte| byte != b'0')
        && parent.bytes().any(|byte| byte != b'0');
    is_valid.then_some(id)
}

fn random(bytes: usize) -> Option<String> {
    let mut random = [0_u8; 16];
    rand::fill(&mut random[..bytes]);
    random[..bytes].iter().try_fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok()?;
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_one_goes_on_as_it_came() {
        let mut headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(GOOD))]);
        let trace = Trace::of(&mut headers, true).unwrap();
        assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(headers[TRACEPARENT], GOOD);
    }

    #[test]
    fn where_there_is_none_one_is_made_if_wanted() {
        let mut headers = HeaderMap::new();
        assert_eq!(Trace::of(&mut headers, false), None);
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let trace = Trace::of(&mut headers, true).unwrap();
        assert_eq!(id(headers[TRACEPARENT].to_str().unwrap()), Some(trace.id()));
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn only_the_valid_are_taken() {
        assert!(id(GOOD).is_some());
        assert!(id(&GOOD.replacen("00", "01", 1).replace("-01", "-01-more")).is_some());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
