//! Whether a connection goes on behind a message (RFC 9112 section 9.3).

#![forbid(unsafe_code)]

use http::HeaderValue;

use crate::proxy::forward::headers::tokens;

/// What a message's `Connection` fields say of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Persistence {
    closes: bool,
    keeps_alive: bool,
}

impl Persistence {
    /// Reads one of the fields.
    pub fn hear(&mut self, value: &HeaderValue) {
        for option in tokens(value) {
            self.closes |= option.eq_ignore_ascii_case("close");
            self.keeps_alive |= option.eq_ignore_ascii_case("keep-alive");
        }
    }

    /// Whether another message may follow one of HTTP/1.0 or 1.1.
    #[must_use]
    pub fn keeps_alive(self, is_1_0: bool) -> bool {
        !self.closes && (!is_1_0 || self.keeps_alive)
    }
}
