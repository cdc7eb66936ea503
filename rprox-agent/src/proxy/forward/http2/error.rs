//! What can be wrong with an upstream's stream, or with its connection.

#![forbid(unsafe_code)]

use h2::Reason;

/// Why a stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ended early, or what came on it is malformed; or so did its connection.
    #[error("http2 error: {0}")]
    Stream(#[from] h2::Error),
    /// The connection takes no more streams.
    #[error("http2 error: {0}")]
    Unopened(#[source] h2::Error),
    /// 101, which HTTP/2 does not have (RFC 9113 section 8.6).
    #[error("the response is malformed: 101 over HTTP/2")]
    Switching,
    /// The request's body can't be sent to its end, and so the response may never end.
    #[error("the request's body broke off")]
    Upload,
}

impl Error {
    /// Whether the endpoint has certainly done nothing with the request, as it was not sent, or refused, or its stream is above the
    /// last one that a GOAWAY tells of (RFC 9113 sections 6.8 and 8.7): h2 ends no other stream with one that was received.
    pub(super) fn is_unprocessed(&self) -> bool {
        match self {
            Self::Unopened(_) => true,
            Self::Stream(error) => {
                let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
                error.is_remote() && (is_refused || error.is_go_away())
            }
            Self::Switching | Self::Upload => false,
        }
    }

    /// Of a stream that broke off while its response came.
    pub(super) fn of_body(error: h2::Error) -> Self {
        // Nobody but the upload resets a stream whose response is read.
        let is_ours = error.is_reset() && !error.is_remote() && !error.is_library();
        if is_ours { Self::Upload } else { Self::Stream(error) }
    }
}
