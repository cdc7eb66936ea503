//! TLS towards clients.

#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::net::TcpStream;

use super::config::CertificateFiles;

/// Why certificates don't load or a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Stub.
    #[error("stub")]
    Stub,
}

/// The certificates, found by the name that a client asks for.
#[derive(Debug)]
pub struct Certificates {}

impl Certificates {
    /// Reads and checks `files`.
    ///
    /// # Errors
    ///
    /// When a file can't be read, or a key is not its certificate's.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        todo!("{files:?}")
    }

    /// Whether a certificate is for `host` (normalised).
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        todo!("{host}")
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}

/// The names that a certificate is for.
#[derive(Debug)]
pub struct CertificateNames {}

impl CertificateNames {
    /// Whether `host` (normalised) is one of them.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        todo!("{host}")
    }
}

/// Makes TLS connections of TCP ones. A clone shares configuration, session cache and ticket keys.
#[derive(Clone)]
pub struct TlsAcceptor {}

/// A client's TLS connection.
pub struct TlsConnection {
    /// The stream of plain text.
    pub stream: tokio_rustls::server::TlsStream<TcpStream>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
    /// What the certificate shown is for.
    pub covers: Arc<CertificateNames>,
}

impl TlsAcceptor {
    /// An acceptor that shows `certificates`.
    ///
    /// # Errors
    ///
    /// When the ticket keys can't be made.
    pub fn new(certificates: Arc<Certificates>) -> Result<Self, TlsError> {
        todo!("{certificates:?}")
    }

    /// Does the handshake. A name that no certificate is for is refused with the alert `unrecognized_name` (RFC 6066
    /// section 3); a client that names none sees the first certificate.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn accept(&self, tcp: TcpStream) -> Result<TlsConnection, TlsError> {
        todo!("{tcp:?}")
    }
}
