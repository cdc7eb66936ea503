//! TLS towards clients: a certificate for each name, TLS 1.2 and 1.3, HTTP/2 or HTTP/1.1 by ALPN.

#![forbid(unsafe_code)]

mod accept;
mod certificate;
mod certificates;
pub mod challenges;
pub mod client_auth;
pub mod identity;
pub mod names;
mod recorded;
mod self_signed;
mod sessions;
mod store;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use self::accept::{Accepted, Opening, Secured, TlsConnection};
pub use self::certificate::Certificate;
pub use self::certificates::Certificates;
pub use self::names::CertificateNames;
pub use self::recorded::Recorded;
pub use self::store::{Kept, TlsAcceptor};
use super::metrics::HandshakeFailure;

/// Why certificates don't load or a handshake failed.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{}: {source}; the agent's user must be able to read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What reading it gave.
        source: io::Error,
    },
    /// A certificate file holds no certificate, or a malformed one.
    #[error("{}: {reason}; a PEM file with the server's certificate first, then its chain, is needed", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key file holds no usable private key.
    #[error("{}: {reason}; an unencrypted PEM private key (PKCS#8, PKCS#1 or SEC1) is needed", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("{} is not the private key of the certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file of CAs holds none that serve.
    #[error("{}: {reason}; a PEM file with the certificates of CAs that sign clients' is needed", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of what CAs have revoked holds nothing that serves.
    #[error("{}: {reason}; a PEM file with the revocation lists (CRLs) of the CAs of client_ca is needed", path.display())]
    ClientCrl {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// CAs that serve one by one don't together.
    #[error("the CAs of client certificates: {0}")]
    ClientCas(String),
    /// A certificate of our own can't be made.
    #[error("can't make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// The TLS library can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(rustls::Error),
    /// The client asked for a name that no certificate is for.
    #[error("no certificate for {0:?}; the client got the alert unrecognized_name")]
    UnrecognizedName(String),
    /// A client asked to validate a name (RFC 8737) that is not being validated.
    #[error("no validation of {0:?} is going on; the client got the alert no_application_protocol")]
    NoChallenge(String),
    /// The handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
}

impl TlsError {
    /// What kind of failed handshake it is.
    #[must_use]
    pub fn failure(&self) -> HandshakeFailure {
        match self {
            Self::UnrecognizedName(_) | Self::NoChallenge(_) => HandshakeFailure::UnrecognizedName,
            // As rustls reports what went wrong in the protocol itself.
            Self::Handshake(error) if error.kind() != io::ErrorKind::InvalidData => HandshakeFailure::Closed,
            _ => HandshakeFailure::Refused,
        }
    }
}

#[cfg(test)]
mod tests;
