//! Why a certificate could not be had.

#![forbid(unsafe_code)]

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::proxy::state::StateError;
use crate::proxy::tls::TlsError;

/// The kind of problem that comes with "not so often" (RFC 8555 section 6.7).
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";

/// The server knows the account no more.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Why a certificate could not be had.
#[derive(Debug, Error)]
pub(super) enum AcmeError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// What is kept of the account.
    #[error("{}: {error}; remove the file, and a new account is made", path.display())]
    Account {
        path: PathBuf,
        #[source]
        error: serde_json::Error,
    },
    /// The CA of the server.
    #[error("{}: {reason}; a PEM file with the root that the ACME server's certificate comes from is needed", path.display())]
    Ca { path: PathBuf, reason: String },
    /// The connection to the server can't be set up.
    #[error("the ACME server can't be asked: {0}")]
    Setup(String),
    /// The server said no, or nothing.
    #[error("the ACME server: {}", chain(.0))]
    Server(#[from] instant_acme::Error),
    /// No way of validation is left.
    #[error("the ACME server offers no challenge that is set up here; see acme.challenge")]
    NoChallenge,
    /// The host was not found to be ours.
    #[error(
        "the ACME server could not validate the host by {challenge}: {reason}; it must reach this agent there, on port {port}"
    )]
    Invalid { challenge: &'static str, port: u16, reason: String },
    /// A key or a request for a certificate.
    #[error("can't make a request for a certificate: {0}")]
    Request(#[from] rcgen::Error),
    /// The certificate that came is not one.
    #[error("the ACME server's certificate: {0}")]
    Certificate(#[from] TlsError),
    /// The certificate that came is for something else.
    #[error("the ACME server's certificate is not for the host")]
    OtherHost,
    /// It took too long.
    #[error("the ACME server took longer than {}s", .0.as_secs())]
    TimedOut(Duration),
}

impl AcmeError {
    /// Whether the server asks for patience.
    pub(super) fn is_rate_limit(&self) -> bool {
        self.has_type(RATE_LIMITED)
    }

    /// Whether the account is gone.
    pub(super) fn is_lost_account(&self) -> bool {
        self.has_type(NO_ACCOUNT)
    }

    fn has_type(&self, name: &str) -> bool {
        let Self::Server(instant_acme::Error::Api(problem)) = self else { return false };
        problem.r#type.as_deref() == Some(name)
    }
}

/// An error with what it comes from, which for a connection is all that says something.
pub(super) fn chain(error: &instant_acme::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a text does not fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
