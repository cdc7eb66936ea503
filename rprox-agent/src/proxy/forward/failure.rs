//! Why a request got no response from its upstream, and what the client is told.

#![forbid(unsafe_code)]

use std::io;

use http::StatusCode;

use super::body::UploadError;
use super::request::UpstreamRequest;
use super::{http1, http2};
use crate::proxy::connection::body::BodyError;
use crate::proxy::dns::DnsError;

/// Why there is no response to pass on. The text is for the log; [`public`](Self::public) is for the client.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No address to connect to.
    #[error(transparent)]
    Dns(DnsError),
    /// The connection was refused, or there is no way there.
    #[error("can't connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection took too long.
    #[error("no connection within timeouts.connect")]
    ConnectTimeout,
    /// No TLS came about, or not with whom it should.
    #[error(
        "TLS: {0}; ca and server_name of the upstream say whose certificate is believed, and for which name"
    )]
    Handshake(#[source] io::Error),
    /// The response took too long.
    #[error("no response within timeouts.response")]
    ResponseTimeout,
    /// The connection broke, or what came is no HTTP.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// What has endpoints is not to serve.
    #[error("only upstreams of weight 0 have an endpoint at the moment")]
    Drained,
    /// All connections allowed are in use.
    #[error("limits.upstream_connections reached on every endpoint")]
    Busy,
    /// The response speaks a transfer coding that we don't, or says in two ways how long it is.
    #[error("its response has a Transfer-Encoding other than chunked, or a Content-Length beside it")]
    TransferCoding,
    /// 101 to a request that did not ask for it, or not for this.
    #[error(
        "it switches to a protocol that the client did not offer, or that the route's upgrade does not list"
    )]
    UnaskedUpgrade,
    /// Success, but no 101.
    #[error("it does not switch to WebSocket, which an HTTP/2 client asked for by CONNECT")]
    NotSwitched,
    /// A WebSocket that the endpoint has no way for.
    #[error("it speaks HTTP/2 and takes no WebSocket there (RFC 8441), which an HTTP/2 client asked for")]
    NoWebSocket,
    /// The client's own doing.
    #[error(transparent)]
    Upload(UploadError),
}

/// What is wrong with a connection, or with what comes by it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Of one that speaks HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] http1::Error),
    /// Of one that speaks HTTP/2.
    #[error(transparent)]
    Http2(#[from] http2::Error),
}

/// Why there is no response, and what can be sent again.
pub struct SendError {
    /// Why.
    pub failure: Failure,
    /// The request, if all of it is still there.
    pub request: Option<UpstreamRequest>,
    /// Whether the upstream may have seen it.
    pub was_sent: bool,
}

impl SendError {
    /// Not a byte of it was sent.
    #[must_use]
    pub fn unsent(failure: impl Into<Failure>, request: UpstreamRequest) -> Self {
        Self { failure: failure.into(), request: Some(request), was_sent: false }
    }

    /// It was sent.
    #[must_use]
    pub fn sent(failure: Failure, request: Option<UpstreamRequest>) -> Self {
        Self { failure, request, was_sent: true }
    }
}

impl Failure {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Dns(DnsError::Absent { .. })
            | Self::Connect(_)
            | Self::Handshake(_)
            | Self::Broken(_)
            | Self::TransferCoding
            | Self::UnaskedUpgrade
            | Self::NotSwitched => StatusCode::BAD_GATEWAY,
            Self::Dns(_) | Self::Drained | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoWebSocket => StatusCode::NOT_IMPLEMENTED,
            Self::Upload(error) => error.status(),
        }
    }

    /// What the client is told: enough to know whom to ask, and nothing of the inside.
    #[must_use]
    pub fn public(&self) -> &'static str {
        match self {
            Self::Dns(DnsError::Absent { .. }) => "the service's name is unknown",
            Self::Dns(_) | Self::Drained => "the service can't be found at the moment",
            Self::Connect(_) => "the service can't be reached",
            Self::Handshake(_) => "the service can't be reached safely",
            Self::ConnectTimeout => "the service can't be reached in time",
            Self::ResponseTimeout => "the service did not answer in time",
            Self::Broken(_) | Self::TransferCoding | Self::UnaskedUpgrade | Self::NotSwitched => {
                "the service's answer can't be passed on"
            }
            Self::Busy => "the service is busy",
            Self::NoWebSocket => "WebSockets are not served here",
            Self::Upload(error) => error.public(),
        }
    }

    /// Whether the endpoint could not be connected to.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout | Self::Handshake(_))
    }

    /// Whether it is the client's doing, and nothing an operator needs to see.
    #[must_use]
    pub fn is_clients(&self) -> bool {
        matches!(self, Self::Upload(_) | Self::NoWebSocket)
    }

    /// Whether it speaks against the endpoint.
    #[must_use]
    pub fn is_endpoints(&self) -> bool {
        !self.is_clients() && !matches!(self, Self::Busy)
    }

    /// Whether there is nobody to answer: the stream was reset that the request's body came by.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        matches!(self, Self::Upload(UploadError::Broken(BodyError::Http2(_))))
    }
}
