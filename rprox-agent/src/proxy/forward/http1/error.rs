//! What can be wrong with an upstream's connection or what comes by it.

#![forbid(unsafe_code)]

use std::io;

use crate::proxy::http1::Flaw;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It ended early.
    #[error("the connection was closed before the response was complete")]
    Closed,
    /// The response is no HTTP, or not so that all would read it in one way.
    #[error("the response is malformed: {0}")]
    Malformed(&'static str),
    /// Its head or its trailers are too large.
    #[error("the response's header section is larger than limits.header_bytes, or has more than 100 fields")]
    TooLarge,
    /// The request's body can't be sent to its end, and so the response may never end.
    #[error("the request's body broke off")]
    Upload,
}

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(what) => Self::Malformed(what),
            Flaw::TooLarge => Self::TooLarge,
        }
    }
}
