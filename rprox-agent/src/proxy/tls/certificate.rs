//! A certificate and its key, from their files.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateNames, TlsError};
use crate::proxy::config::CertificateFiles;

/// How long before its end a certificate is warned of at the earliest: automatic renewal has long happened by then.
const ENDS_SOON: Duration = Duration::from_hours(7 * 24);

/// A certificate chain with its private key.
#[derive(Debug)]
pub struct Certificate {
    /// The file that it is from.
    pub file: PathBuf,
    /// What it is for.
    pub names: Arc<CertificateNames>,
    /// What an operator should know and can still act on: it has expired, its key is open to all.
    pub warnings: Vec<String>,
    /// From when on clients take it.
    pub not_before: SystemTime,
    /// Until when clients take it.
    pub not_after: SystemTime,
    pub(super) key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads both files and checks that they belong together.
    ///
    /// # Errors
    ///
    /// When one can't be read or used, or they don't.
    pub fn load(files: &CertificateFiles) -> Result<Self, TlsError> {
        let CertificateFiles { cert, key } = files;
        let mut certificate = Self::parse(&read(cert)?, &read(key)?, files)?;
        certificate.warnings.extend(permission_warning(key));
        Ok(certificate)
    }

    /// The certificate and key in PEM texts, which `files` name in messages.
    ///
    /// # Errors
    ///
    /// When one can't be used, or they don't belong together.
    pub fn parse(cert_pem: &[u8], key_pem: &[u8], files: &CertificateFiles) -> Result<Self, TlsError> {
        let CertificateFiles { cert, key } = files;
        let bad_certificate = |reason: String| TlsError::Certificate { path: cert.clone(), reason };

        let chain = CertificateDer::pem_slice_iter(cert_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad_certificate(format!("malformed PEM: {error}")))?;
        let first = chain.first().ok_or_else(|| bad_certificate("no certificate in it".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|error| bad_certificate(format!("malformed certificate: {error}")))?;
        let names = CertificateNames::of(&parsed);
        if names.is_empty() {
            return Err(bad_certificate(
                "the first certificate has no DNS name or address in its subjectAltName".to_owned(),
            ));
        }
        let warnings = validity_warning(&parsed, cert).into_iter().collect::<Vec<_>>();
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));

        let private = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| TlsError::Key {
            path: key.clone(),
            reason: format!("no private key in it: {error}"),
        })?;
        let certified =
            CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(_) => {
                        TlsError::Mismatch { cert: cert.clone(), key: key.clone() }
                    }
                    error => TlsError::Key { path: key.clone(), reason: error.to_string() },
                }
            })?;
        Ok(Self {
            file: cert.clone(),
            names: Arc::new(names),
            warnings,
            not_before,
            not_after,
            key: Arc::new(certified),
        })
    }

    /// The chain, the certificate itself first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Whether `other` is this one: the same chain, and so the same key.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// Whether a client that takes signatures by `schemes` can take this certificate's.
    pub(super) fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }

    /// Whether its key is RSA.
    pub(super) fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }
}

fn time(time: x509_parser::time::ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    if time.timestamp() < 0 { SystemTime::UNIX_EPOCH - seconds } else { SystemTime::UNIX_EPOCH + seconds }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source: io::Error| TlsError::Read { path: path.to_owned(), source })
}

fn validity_warning(certificate: &X509Certificate<'_>, path: &Path) -> Option<String> {
    let path = path.display();
    let validity = certificate.validity();
    let seconds = validity.not_after.timestamp().saturating_sub(validity.not_before.timestamp());
    // Short-lived certificates are renewed late.
    let lifetime = Duration::from_secs(seconds.max(0).unsigned_abs());
    match validity.time_to_expiration() {
        Some(left) if left.unsigned_abs() < ENDS_SOON.min(lifetime / 10) => {
            Some(format!("{path}: the certificate ends soon, on {}", validity.not_after))
        }
        Some(_) => None,
        None if validity.not_before.timestamp() > x509_parser::time::ASN1Time::now().timestamp() => {
            Some(format!("{path}: the certificate is not valid before {}", validity.not_before))
        }
        None => Some(format!("{path}: the certificate expired on {}; clients refuse it", validity.not_after)),
    }
}

fn permission_warning(key: &Path) -> Option<String> {
    let mode = fs::metadata(key).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        let path = key.display();
        format!(
            "{path}: every local user can use this private key file (mode {:03o}); run: chmod o= {path}",
            mode & 0o777
        )
    })
}
