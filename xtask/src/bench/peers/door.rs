//! Ways into a proxy.

use super::super::ends::{HOST, PASSTHROUGH_HOST};

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Door {
    Http,
    /// TLS that the proxy ends.
    Https,
    /// TLS that it passes on by the name in it.
    Passthrough,
}

impl Door {
    pub(in super::super) fn scheme(self) -> &'static str {
        if self == Self::Http { "http" } else { "https" }
    }

    /// The host that is asked for there.
    pub(in super::super) fn host(self) -> &'static str {
        if self == Self::Passthrough { PASSTHROUGH_HOST } else { HOST }
    }
}
