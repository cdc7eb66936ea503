//! The names that a certificate is for.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::proxy::host;

/// The names of a certificate's subjectAltName; its subject's common name does not count (RFC 9525 section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    pub(super) exact: BTreeSet<String>,
    /// What follows the `*.` of a wildcard.
    pub(super) wildcard: BTreeSet<String>,
}

impl CertificateNames {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let extension = certificate.subject_alternative_name().ok().flatten();
        let mut names = Self::default();
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            names.insert(name);
        }
        names
    }

    fn insert(&mut self, name: &GeneralName<'_>) {
        let (set, name) = match name {
            GeneralName::DNSName(name) => match name.strip_prefix("*.") {
                Some(domain) => (&mut self.wildcard, host::normalise(domain).map(String::from)),
                None => (&mut self.exact, host::normalise(name).map(String::from)),
            },
            GeneralName::IPAddress(octets) => (&mut self.exact, address(octets)),
            _ => return,
        };
        set.extend(name);
    }

    /// Whether `host` (normalised) is one of them. A wildcard stands for one whole label (RFC 9525 section 6.3).
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.exact.contains(host) || domain_of(host).is_some_and(|domain| self.wildcard.contains(domain))
    }

    /// Each name as it is written, for people.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.exact.iter().cloned().chain(self.wildcard.iter().map(|domain| format!("*.{domain}")))
    }

    /// Whether there are none, so that no client would ever trust the certificate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }
}

/// The domain whose wildcard `host` falls under: `example.com` for `a.example.com`. Addresses fall under none.
#[must_use]
pub fn domain_of(host: &str) -> Option<&str> {
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return None;
    }
    host.split_once('.').map(|(_, domain)| domain)
}

/// The address in a certificate, in the form of a normalised host.
fn address(octets: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(octets).to_string());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| format!("[{}]", IpAddr::from(octets)))
}
