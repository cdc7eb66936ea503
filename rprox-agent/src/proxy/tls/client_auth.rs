//! Client certificates: whom a route asks for one, and whether a connection's will do.
//!
//! The handshake asks where the host that the client names has a route with `client_ca`, and refuses a certificate that none of
//! that host's CAs has signed. Whether it satisfies the route is for each request to say: one connection carries requests for
//! many paths, and by HTTP/2 for many hosts. What has been revoked is refused there too, so that connections which are open
//! feel it as well.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use sha2::{Digest, Sha256};

use super::sessions::Asked;
use super::{TlsError, names};
use crate::proxy::route::{HostPattern, Route};

/// The CAs of a file, any of which may have signed a client's certificate.
#[derive(Debug)]
pub struct ClientCa {
    /// The file that they are from.
    pub path: PathBuf,
    /// The file with what they have revoked.
    pub crl: Option<PathBuf>,
    roots: Vec<CertificateDer<'static>>,
    digest: [u8; 32],
    /// Knows what was revoked, unlike the handshake's.
    verifier: Arc<dyn ClientCertVerifier>,
    /// Whether it was told that the lists of what was revoked don't do.
    has_warned: AtomicBool,
}

/// Whom a route serves.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Who signs its clients' certificates.
    pub ca: Arc<ClientCa>,
    /// Whether clients without a certificate are refused.
    pub required: bool,
}

impl ClientCa {
    /// Reads the PEM file at `path`, and that of what its CAs have revoked, if there is one.
    ///
    /// # Errors
    ///
    /// When one can't be read, or is not one or more certificates, or revocation lists.
    pub fn load(path: &Path, crl: Option<&Path>) -> Result<Self, TlsError> {
        let refused = |reason: String| TlsError::ClientCa { path: path.to_owned(), reason };
        let roots: Vec<CertificateDer<'_>> = read(path, "certificate", refused)?;
        let verifier = verifier(&roots).map_err(|error| refused(error.to_string()))?;
        let verifier = match crl {
            None => verifier.build().map_err(|error| refused(error.to_string()))?,
            Some(crl) => {
                let refused = |reason: String| TlsError::ClientCrl { path: crl.to_owned(), reason };
                let lists: Vec<CertificateRevocationListDer<'_>> = read(crl, "revocation list", refused)?;
                // Each CA in a certificate's chain must have one that is not out of date, as with OpenSSL's
                // X509_V_FLAG_CRL_CHECK_ALL.
                let verifier = verifier.with_crls(lists).enforce_revocation_expiration();
                verifier.build().map_err(|error| refused(error.to_string()))?
            }
        };
        let mut digest = Sha256::new();
        for root in &roots {
            digest.update(Sha256::digest(root));
        }
        Ok(Self {
            path: path.to_owned(),
            crl: crl.map(Path::to_owned),
            digest: digest.finalize().into(),
            roots,
            verifier,
            has_warned: AtomicBool::new(false),
        })
    }

    /// Whether these CAs vouch, now, for a client that showed `chain`, and have revoked none of it.
    #[must_use]
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((first, rest)) = chain.split_first() else { return false };
        match self.verifier.verify_client_cert(first, rest, UnixTime::now()) {
            Ok(_) => true,
            Err(error) => {
                self.warn_of_lists(&error);
                false
            }
        }
    }

    /// Tells, once, if it is the lists that make clients be refused.
    fn warn_of_lists(&self, error: &rustls::Error) {
        use CertificateError::{
            ExpiredRevocationList, ExpiredRevocationListContext, UnknownRevocationStatus,
        };
        let reason = match error {
            rustls::Error::InvalidCertRevocationList(_) => "a list is not signed by its CA",
            rustls::Error::InvalidCertificate(UnknownRevocationStatus) => "a CA has no list in it",
            rustls::Error::InvalidCertificate(
                ExpiredRevocationList | ExpiredRevocationListContext { .. },
            ) => "a list is out of date",
            _ => return,
        };
        if let Some(crl) = &self.crl
            && !self.has_warned.swap(true, Relaxed)
        {
            tracing::warn!(
                client_crl = %crl.display(),
                "clients are refused, since nobody knows what was revoked: {reason}; get its CAs' newest lists"
            );
        }
    }
}

/// What is in the PEM file at `path`: one thing at least.
fn read<T: PemObject>(
    path: &Path,
    what: &str,
    refused: impl Fn(String) -> TlsError,
) -> Result<Vec<T>, TlsError> {
    let pem = fs::read(path).map_err(|source| TlsError::Read { path: PathBuf::from(path), source })?;
    let things = T::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refused(format!("malformed PEM: {error}")))?;
    if things.is_empty() {
        return Err(refused(format!("no {what} in it")));
    }
    Ok(things)
}

/// Takes certificates that one of `roots` has signed, and clients that show none.
fn verifier(roots: &[CertificateDer<'static>]) -> Result<ClientCertVerifierBuilder, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).allow_unauthenticated())
}

/// The CAs whose certificates the handshake asks for.
#[derive(Clone, Debug)]
pub(super) struct AskedCas {
    pub(super) asked: Asked,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

/// For each host of the routes what its handshake asks for. A host is found as a request's is: what is set up for it is all
/// that counts.
#[derive(Debug, Default)]
pub(super) struct AskedByHost<T> {
    exact: HashMap<String, Option<T>>,
    wildcard: HashMap<String, Option<T>>,
    any: Option<T>,
}

impl<T> AskedByHost<T> {
    /// What is asked of a client that names `host` (normalised).
    pub(super) fn of(&self, host: &str) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return found.as_ref();
        }
        let domain = names::domain_of(host).and_then(|domain| self.wildcard.get(domain));
        domain.map_or(self.any.as_ref(), Option::as_ref)
    }
}

impl<T: Clone> AskedByHost<T> {
    /// What `routes` ask for, made by `make` once for each set of CAs.
    pub(super) fn of_routes(
        routes: &[Arc<Route>],
        make: impl Fn(AskedCas) -> Result<T, TlsError>,
    ) -> Result<Self, TlsError> {
        let mut hosts: HashMap<&HostPattern, BTreeMap<[u8; 32], Arc<ClientCa>>> = HashMap::new();
        for route in routes {
            let cas = hosts.entry(&route.host).or_default();
            cas.extend(route.client_auth.iter().map(|auth| (auth.ca.digest, Arc::clone(&auth.ca))));
        }
        let mut known: HashMap<Asked, T> = HashMap::new();
        let mut by_host = Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None };
        for (host, cas) in hosts {
            let asked: Asked = cas.keys().copied().collect();
            let value = match (asked.is_empty(), known.get(&asked)) {
                (true, _) => None,
                (false, Some(value)) => Some(value.clone()),
                (false, None) => {
                    let roots: Vec<_> = cas.values().flat_map(|ca| ca.roots.iter().cloned()).collect();
                    let refused = |error: &dyn Error| TlsError::ClientCas(error.to_string());
                    let verifier = verifier(&roots).map_err(|error| refused(&error))?;
                    let verifier = verifier.build().map_err(|error| refused(&error))?;
                    let value = make(AskedCas { asked: asked.clone(), verifier })?;
                    known.insert(asked, value.clone());
                    Some(value)
                }
            };
            match host {
                HostPattern::Exact(host) => drop(by_host.exact.insert(host.clone(), value)),
                HostPattern::Wildcard(domain) => drop(by_host.wildcard.insert(domain.clone(), value)),
                HostPattern::Any => by_host.any = value,
            }
        }
        Ok(by_host)
    }
}
