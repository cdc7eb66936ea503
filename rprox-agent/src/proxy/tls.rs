//! TLS towards clients: a certificate for each name, TLS 1.2 and 1.3, HTTP/2 or HTTP/1.1 by ALPN.

#![forbid(unsafe_code)]

mod certificate;
mod names;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, ServerSessionMemoryCache};
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, version};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

pub use self::certificate::Certificate;
pub use self::names::CertificateNames;
use super::config::CertificateFiles;
use super::host;

/// The fatal alert `unrecognized_name` (112) as a plaintext record, which is how it looks before the `ServerHello` in every
/// version (RFC 8446 sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Sessions without tickets that are remembered, for TLS 1.2 clients that know none.
const SESSIONS: usize = 4096;

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
    /// The TLS library can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(rustls::Error),
    /// The client asked for a name that no certificate is for.
    #[error("no certificate for {0:?}; the client got the alert unrecognized_name")]
    UnrecognizedName(String),
    /// The handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
}

/// The certificates, found by the name that a client asks for: one for exactly that name first, then a wildcard's.
#[derive(Debug, Default)]
pub struct Certificates {
    all: Vec<Certificate>,
    /// For each name, places in `all`; where several certificates are for one name, ECDSA comes before RSA, which costs the
    /// server some ten times as much.
    exact: HashMap<String, Vec<usize>>,
    /// The same for what follows the `*.` of a wildcard.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Certificates {
    /// Reads and checks `files`, and logs what will soon be wrong with them.
    ///
    /// # Errors
    ///
    /// When a file can't be read, or a key is not its certificate's.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let all = files.iter().map(Certificate::load).collect::<Result<Vec<_>, _>>()?;
        for warning in all.iter().flat_map(|certificate| &certificate.warnings) {
            tracing::warn!("{warning}");
        }
        Ok(Self::new(all))
    }

    fn new(all: Vec<Certificate>) -> Self {
        let exact = by_name(&all, |names| &names.exact);
        let wildcard = by_name(&all, |names| &names.wildcard);
        Self { all, exact, wildcard }
    }

    /// Whether a certificate is for `host` (normalised).
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.places(host).is_some()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Each certificate, in the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.all.iter()
    }

    fn places(&self, host: &str) -> Option<&[usize]> {
        let places = self.exact.get(host).or_else(|| self.wildcard.get(names::domain_of(host)?))?;
        Some(places)
    }

    /// The place of the certificate to show to a client.
    fn choose(&self, hello: &ClientHello<'_>) -> Result<usize, TlsError> {
        let Some(asked) = hello.server_name() else {
            return if self.all.is_empty() { Err(TlsError::UnrecognizedName(String::new())) } else { Ok(0) };
        };
        let places = host::normalise(asked)
            .and_then(|host| self.places(&host))
            .ok_or_else(|| TlsError::UnrecognizedName(asked.to_owned()))?;
        let suits = |place: &&usize| self.all[**place].suits(hello.signature_schemes());
        // Where none suits, rustls says so to the client in its own words.
        Ok(*places.iter().find(suits).unwrap_or(&places[0]))
    }
}

/// The places of the certificates that have each of their names of one kind.
fn by_name(
    all: &[Certificate],
    names: impl Fn(&CertificateNames) -> &BTreeSet<String>,
) -> HashMap<String, Vec<usize>> {
    let mut places: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, certificate) in all.iter().enumerate() {
        for name in names(&certificate.names) {
            places.entry(name.clone()).or_default().push(place);
        }
    }
    for places in places.values_mut() {
        places.sort_by_key(|place| all[*place].is_rsa());
    }
    places
}

/// Makes TLS connections of TCP ones. A clone shares certificates, session cache and ticket keys, so that a session
/// resumes on whichever worker it comes back to.
#[derive(Clone)]
pub struct TlsAcceptor {
    certificates: Arc<Certificates>,
    /// One for each certificate, in the same order.
    configs: Arc<[Arc<ServerConfig>]>,
}

/// A client's TLS connection.
pub struct TlsConnection {
    /// The stream of plain text.
    pub stream: tokio_rustls::server::TlsStream<TcpStream>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
    /// What the certificate shown is for: a request for another host gets 421 (RFC 9110 section 15.5.20).
    pub covers: Arc<CertificateNames>,
}

impl TlsAcceptor {
    /// An acceptor that shows `certificates`.
    ///
    /// # Errors
    ///
    /// When the library can't make ticket keys.
    pub fn new(certificates: Arc<Certificates>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
        let sessions = ServerSessionMemoryCache::new(SESSIONS);
        let configs = certificates
            .iter()
            .map(|certificate| {
                let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
                    .with_no_client_auth()
                    .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.key))));
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                config.ticketer = Arc::clone(&ticketer);
                config.session_storage = Arc::clone(&sessions) as _;
                Ok(Arc::new(config))
            })
            .collect::<Result<_, _>>()
            .map_err(TlsError::Setup)?;
        Ok(Self { certificates, configs })
    }

    /// Does the handshake; how long it may take is the caller's to say. A name that no certificate is for is refused with
    /// the alert `unrecognized_name` (RFC 6066 section 3); a client that names none sees the first certificate.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn accept(&self, tcp: TcpStream) -> Result<TlsConnection, TlsError> {
        let mut start =
            LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(TlsError::Handshake)?;
        let place = match self.certificates.choose(&start.client_hello()) {
            Ok(place) => place,
            Err(error) => {
                // The connection ends here in any case; whether the client still hears why is its own concern.
                let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
                let _ = start.io.shutdown().await;
                return Err(error);
            }
        };
        let stream =
            start.into_stream(Arc::clone(&self.configs[place])).await.map_err(TlsError::Handshake)?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(TlsConnection { stream, http2, covers: Arc::clone(&self.certificates.all[place].names) })
    }
}

#[cfg(test)]
mod tests;
