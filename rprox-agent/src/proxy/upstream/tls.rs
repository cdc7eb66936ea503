//! TLS towards upstreams: whose certificates are believed, and for which name.

#![forbid(unsafe_code)]

mod verifier;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, ServerCertVerifierBuilder, VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use thiserror::Error;

use self::verifier::Verifier;

/// Sessions that are remembered, of all upstreams with the same authorities: 8 for each of 128 server names.
const SESSIONS: usize = 1024;

/// Why TLS to an upstream can't be set up.
#[derive(Debug, Error)]
pub enum UpstreamTlsError {
    /// The file of authorities can't be read.
    #[error("{}: {source}; the agent's user must be able to read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What reading it gave.
        source: io::Error,
    },
    /// There is no certificate in it, or one that can't be used.
    #[error("{}: {reason}; a PEM file with the certificates of the authorities to believe is needed", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no authorities.
    #[error(
        "this system has no certificates of authorities to check upstreams by{0}; install them (on Debian: ca-certificates), or name a file with ca"
    )]
    NoSystemAuthorities(String),
    /// The library can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// Nor can the check of certificates.
    #[error("TLS can't be set up: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// A server name that is none.
    #[error("{0:?} can't be a certificate's name; write a host name or an address")]
    ServerName(String),
}

/// Which authorities an upstream's certificate must come from, with the sessions to resume; one for all upstreams that
/// believe the same.
#[derive(Clone, Debug)]
pub struct Authorities {
    config: Arc<ClientConfig>,
    only_http1: Arc<ClientConfig>,
    /// Tells one set of authorities from another, also over a reload.
    digest: u64,
}

/// How to do TLS with an upstream. Two are the same if they believe the same authorities for the same name.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// For the handshake.
    pub config: Arc<ClientConfig>,
    /// For one that must not end in HTTP/2.
    pub only_http1: Arc<ClientConfig>,
    /// Whose certificate is expected; sent as SNI, where it is a name.
    pub server_name: ServerName<'static>,
    digest: u64,
}

impl Authorities {
    /// Those in a PEM file.
    ///
    /// # Errors
    ///
    /// When it can't be read or has none.
    pub fn of_file(path: &Path) -> Result<Self, UpstreamTlsError> {
        let bad = |reason: String| UpstreamTlsError::Authorities { path: path.to_owned(), reason };
        let text =
            fs::read(path).map_err(|source| UpstreamTlsError::Read { path: path.to_owned(), source })?;
        let certificates = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad(format!("malformed PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(bad("no certificate in it".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| bad(error.to_string()))?;
        }
        let authorities = builder(roots).build().map_err(|error| bad(error.to_string()))?;
        let verifier = Verifier { authorities, given: certificates.clone() };
        Self::new(&certificates, Arc::new(verifier))
    }

    /// Those that this system believes.
    ///
    /// # Errors
    ///
    /// When it has none.
    pub fn of_system() -> Result<Self, UpstreamTlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Systems carry certificates too old to be parsed; one of them is no reason to believe none.
        let (added, _) = roots.add_parsable_certificates(found.certs.iter().cloned());
        if added == 0 {
            let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(UpstreamTlsError::NoSystemAuthorities(reason));
        }
        Self::new(&found.certs, builder(roots).build()?)
    }

    fn new(
        certificates: &[CertificateDer<'_>],
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<Self, UpstreamTlsError> {
        let mut digest = DefaultHasher::new();
        for certificate in certificates {
            certificate.as_ref().hash(&mut digest);
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let mut only_http1 = config.clone();
        only_http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), only_http1: Arc::new(only_http1), digest: digest.finish() })
    }

    /// TLS with `server_name`, a host name or an address.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn expect(&self, server_name: &str) -> Result<UpstreamTls, UpstreamTlsError> {
        let name = server_name.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        let server_name =
            ServerName::try_from(name).map_err(|_| UpstreamTlsError::ServerName(server_name.to_owned()))?;
        Ok(UpstreamTls {
            config: Arc::clone(&self.config),
            only_http1: Arc::clone(&self.only_http1),
            server_name,
            digest: self.digest,
        })
    }
}

fn builder(roots: RootCertStore) -> ServerCertVerifierBuilder {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(aws_lc_rs::default_provider()))
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.server_name == other.server_name
    }
}

impl Eq for UpstreamTls {}

impl Hash for UpstreamTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
        self.server_name.hash(state);
    }
}
