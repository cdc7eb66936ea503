//! Host names as requests write them, brought to one form.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The longest name that DNS can carry, in text without the trailing dot (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// The longest label of a name.
const MAX_LABEL: usize = 63;

/// The host of an authority (RFC 3986 section 3.2): in lower case, without port and trailing dot, an IPv6 literal in its
/// brackets and in its canonical form. Borrowed when there is nothing to change.
///
/// `None` when the authority is malformed, has user information, or names a host that neither DNS nor a URI could: requests
/// with such a one deserve a 400.
#[must_use]
pub fn normalise(authority: &str) -> Option<Cow<'_, str>> {
    if authority.starts_with('[') {
        return normalise_ipv6(authority);
    }
    let host = match authority.split_once(':') {
        Some((host, port)) if is_port(port) => host,
        Some(_) => return None,
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if !is_name(host) {
        return None;
    }
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

fn normalise_ipv6(authority: &str) -> Option<Cow<'_, str>> {
    let (literal, rest) = authority[1..].split_once(']')?;
    if !rest.is_empty() && !rest.strip_prefix(':').is_some_and(is_port) {
        return None;
    }
    let canonical = format!("[{}]", literal.parse::<Ipv6Addr>().ok()?);
    let written = &authority[..literal.len() + 2];
    Some(if canonical == written { Cow::Borrowed(written) } else { Cow::Owned(canonical) })
}

/// Whether `text` can stand after the colon of an authority. RFC 3986 lets it be empty.
fn is_port(text: &str) -> bool {
    text.is_empty() || (text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok())
}

/// Whether `text` is a host name without a trailing dot: labels of letters, digits, hyphens and underscores (which host
/// names may not have, but container names do), or an IPv4 address.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut label = 0;
    for byte in text.bytes() {
        match byte {
            b'.' if label == 0 => return false,
            b'.' => label = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' if label < MAX_LABEL => label += 1,
            _ => return false,
        }
    }
    label > 0 && text.len() <= MAX_NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(authority: &str) -> Option<String> {
        normalise(authority).map(Cow::into_owned)
    }

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        for authority in [
            "registry.example.com",
            "Registry.Example.COM",
            "registry.example.com:8443",
            "registry.example.com.",
            "REGISTRY.example.com.:443",
            "registry.example.com:",
        ] {
            assert_eq!(normal(authority).as_deref(), Some("registry.example.com"), "{authority}");
        }
    }

    #[test]
    fn what_is_normal_already_is_borrowed() {
        for authority in ["a.example.com", "a.example.com:443", "a.example.com.", "192.0.2.1:80", "[::1]:80"]
        {
            assert!(matches!(normalise(authority), Some(Cow::Borrowed(_))), "{authority}");
        }
    }

    #[test]
    fn ipv6_literals_are_canonical_and_keep_their_brackets() {
        assert_eq!(normal("[2001:DB8:0:0::1]:443").as_deref(), Some("[2001:db8::1]"));
        assert_eq!(normal("[::1]").as_deref(), Some("[::1]"));
        for malformed in
            ["[::1", "[]", "[::1]x", "[::1]:x", "[::1]:99999", "[fe80::1%eth0]", "::1", "[127.0.0.1]"]
        {
            assert_eq!(normal(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn malformed_authorities_are_refused() {
        let too_long = ["a"; 128].join(".");
        let long_label = "a".repeat(64);
        for malformed in [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a..",
            "user@example.com",
            "user:pw@example.com",
            "exa mple.com",
            "example.com\t",
            "example.com\0",
            "example.com/x",
            "example.com:80:80",
            "example.com:+80",
            "example.com:65536",
            "ex%61mple.com",
            "b\u{fc}cher.example",
            &too_long,
            &long_label,
        ] {
            assert_eq!(normal(malformed), None, "{malformed:?}");
        }
    }
}
