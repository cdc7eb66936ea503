//! Host names as requests write them, brought to one form.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// The host of an authority (RFC 3986 section 3.2): in lower case, without port and trailing dot, an IPv6 literal in its
/// brackets. Borrowed when there is nothing to change. `None` when the authority is malformed or has user information.
#[must_use]
pub fn normalise(authority: &str) -> Option<Cow<'_, str>> {
    todo!("{authority}")
}
