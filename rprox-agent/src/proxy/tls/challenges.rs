//! Answers to an ACME server that validates this host: a file by HTTP-01 (RFC 8555 section 8.3), a certificate by TLS-ALPN-01
//! (RFC 8737). They are here while an order is running and not a moment longer.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::version;

use super::TlsError;
use crate::proxy::tls::accept::Fixed;

/// The path that HTTP-01 asks for, up to its token.
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// The protocol that TLS-ALPN-01 asks for.
pub(super) const ALPN: &[u8] = b"acme-tls/1";

/// What validations of running orders are answered with, by host.
#[derive(Default)]
pub struct Challenges(ArcSwap<HashMap<String, Answer>>);

/// What a host's validation is answered with.
#[derive(Clone)]
pub enum Answer {
    /// By HTTP-01: this body, where the token is asked for.
    Http {
        /// The token.
        token: String,
        /// The body.
        body: String,
    },
    /// By TLS-ALPN-01: this certificate, which holds the answer.
    Tls(Arc<ServerConfig>),
}

impl Answer {
    /// An answer by the certificate for it.
    ///
    /// # Errors
    ///
    /// When the TLS library does not take it.
    pub fn tls(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // Not by `from_der`, which refuses the critical extension that the answer is in.
        let key = provider.key_provider.load_private_key(key).map_err(TlsError::Setup)?;
        let certified = CertifiedKey::new(vec![certificate], key);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Fixed(Arc::new(certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self::Tls(Arc::new(config)))
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.load().keys()).finish()
    }
}

impl Challenges {
    /// Answers `host`'s validation from now on.
    pub fn begin(&self, host: &str, answer: &Answer) {
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.insert(host.to_owned(), answer.clone());
            all
        });
    }

    /// Answers it no more.
    pub fn end(&self, host: &str) {
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.remove(host);
            all
        });
    }

    /// The body for a request of HTTP-01, where one is due.
    #[must_use]
    pub fn body(&self, host: &str, path: &str) -> Option<String> {
        let asked = path.strip_prefix(HTTP_PATH)?;
        match self.0.load().get(host)? {
            Answer::Http { token, body } if token == asked => Some(body.clone()),
            _ => None,
        }
    }

    /// How to answer a handshake of TLS-ALPN-01, where one is due.
    pub(super) fn config(&self, host: &str) -> Option<Arc<ServerConfig>> {
        match self.0.load().get(host)? {
            Answer::Tls(config) => Some(Arc::clone(config)),
            Answer::Http { .. } => None,
        }
    }
}
