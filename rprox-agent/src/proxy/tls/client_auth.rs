//! Client certificates: whom a route asks for one, and whether a connection's will do.
//!
//! The handshake asks where the host that the client names has a route with `client_ca`, and refuses a certificate that none of
//! that host's CAs has signed. Whether it satisfies the route is for each request to say: one connection carries requests for
//! many paths, and by HTTP/2 for many hosts.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};

use super::sessions::Asked;
use super::{TlsError, names};
use crate::proxy::route::{HostPattern, Route};

/// The CAs of a file, any of which may have signed a client's certificate.
#[derive(Debug)]
pub struct ClientCa {
    /// The file that they are from.
    pub path: PathBuf,
    roots: Vec<CertificateDer<'static>>,
    digest: [u8; 32],
    verifier: Arc<dyn ClientCertVerifier>,
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
    /// Reads the PEM file at `path`.
    ///
    /// # Errors
    ///
    /// When it can't be read, or is not one or more certificates.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        let refused = |reason: String| TlsError::ClientCa { path: path.to_owned(), reason };
        let pem = fs::read(path).map_err(|source| TlsError::Read { path: PathBuf::from(path), source })?;
        let roots = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| refused(format!("malformed PEM: {error}")))?;
        if roots.is_empty() {
            return Err(refused("no certificate in it".to_owned()));
        }
        let verifier = verifier(&roots).map_err(refused)?;
        let mut digest = Sha256::new();
        for root in &roots {
            digest.update(Sha256::digest(root));
        }
        Ok(Self { path: path.to_owned(), digest: digest.finalize().into(), roots, verifier })
    }

    /// Whether these CAs vouch, now, for a client that showed `chain`.
    #[must_use]
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((first, rest)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(first, rest, UnixTime::now()).is_ok()
    }
}

/// Takes certificates that one of `roots` has signed, and clients that show none.
fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())
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
                    let verifier = verifier(&roots).map_err(TlsError::ClientCas)?;
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
