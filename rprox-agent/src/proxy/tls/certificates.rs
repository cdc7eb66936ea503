//! The certificates that are there, found by the name that a client asks for.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Certificate, CertificateNames, TlsError, names};
use crate::proxy::config::CertificateFiles;
use crate::proxy::host;

/// The certificates, found by the name that a client asks for: one for exactly that name first, then a wildcard's.
#[derive(Debug, Default)]
pub struct Certificates {
    all: Vec<Arc<Certificate>>,
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
        let all = files.iter().map(Certificate::load);
        let all = all.map(|certificate| certificate.map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        for warning in all.iter().flat_map(|certificate| &certificate.warnings) {
            tracing::warn!("{warning}");
        }
        Ok(Self::new(all))
    }

    /// These, the first of which is for clients that ask for no name.
    #[must_use]
    pub fn new(all: Vec<Arc<Certificate>>) -> Self {
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
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.all.iter()
    }

    fn places(&self, host: &str) -> Option<&[usize]> {
        let places = self.exact.get(host).or_else(|| self.wildcard.get(names::domain_of(host)?))?;
        Some(places)
    }

    /// The certificate to show to a client.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Result<&Arc<Certificate>, TlsError> {
        let unrecognized = |asked: &str| TlsError::UnrecognizedName(asked.to_owned());
        let Some(asked) = hello.server_name() else {
            return self.all.first().ok_or_else(|| unrecognized(""));
        };
        let places =
            host::normalise(asked).and_then(|host| self.places(&host)).ok_or_else(|| unrecognized(asked))?;
        let suits = |place: &&usize| self.all[**place].suits(hello.signature_schemes());
        // Where none suits, rustls says so to the client in its own words.
        Ok(&self.all[*places.iter().find(suits).unwrap_or(&places[0])])
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(&hello).ok().map(|certificate| Arc::clone(&certificate.key))
    }
}

/// The places of the certificates that have each of their names of one kind.
fn by_name(
    all: &[Arc<Certificate>],
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
