//! A certificate of our own making, for trying things out: no client trusts it before its user has said so.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use sha2::{Digest, Sha256};

use super::{Certificate, Certificates, TlsError};
use crate::proxy::config::{CertificateFiles, Config};
use crate::proxy::route::{self, HostPattern};
use crate::proxy::state::{StateError, StateFolder};

/// How long it is good for.
const LIFETIME: Duration = Duration::from_hours(365 * 24);

/// A clock that is this much behind ours still takes it.
const CLOCK_SKEW: Duration = Duration::from_hours(1);

/// Its name in the state folder; certificate and key in one file, which is replaced as a whole.
const FILE: &str = "self-signed.pem";

/// The hosts of `config`'s routes that no other certificate is for; this host itself where a route is for any.
pub(super) fn names(config: &Config) -> BTreeSet<String> {
    let certificates = config.certificates.iter().filter_map(|files| Certificate::load(files).ok());
    let others = Certificates::new(certificates.map(std::sync::Arc::new).collect());
    let by_acme =
        |host: &str| config.acme.as_ref().is_some_and(|acme| acme.hosts.iter().any(|by| by == host));
    let mut names = BTreeSet::new();
    for host in route::terminated(&config.routes) {
        match host {
            HostPattern::Exact(host) if others.covers(host) || by_acme(host) => {}
            HostPattern::Exact(host) => drop(names.insert(host.clone())),
            HostPattern::Wildcard(domain) if others.covers(&format!("x.{domain}")) => {}
            HostPattern::Wildcard(domain) => drop(names.insert(format!("*.{domain}"))),
            HostPattern::Any => names.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned)),
        }
    }
    names
}

/// The one of the last start, where it is for `names` and good for a while yet; else a new one, kept in `state` if it can be.
pub(super) fn obtain(
    names: &BTreeSet<String>,
    state: Option<&Path>,
) -> Result<(Option<CertificateFiles>, Certificate), TlsError> {
    let folder = state.and_then(|path| StateFolder::open(path).map_err(tell_of).ok());
    let files = folder.as_ref().map(|folder| one_file(folder.path(FILE)));
    if let Some(kept) = files.as_ref().and_then(|files| Certificate::load(files).ok())
        && kept.names.iter().collect::<BTreeSet<_>>() == *names
        && kept.not_after > SystemTime::now() + LIFETIME / 3
    {
        tell(&kept);
        return Ok((files, kept));
    }
    let pem = make(names)?;
    let written = folder.and_then(|folder| folder.write(FILE, pem.as_bytes()).map_err(tell_of).ok());
    let files = files.filter(|_| written.is_some());
    let origin = files.clone().unwrap_or_else(|| one_file(PathBuf::from("the self-signed certificate")));
    let certificate = Certificate::parse(pem.as_bytes(), pem.as_bytes(), &origin)?;
    tell(&certificate);
    Ok((files, certificate))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn tell_of(error: StateError) {
    tracing::warn!("the self-signed certificate lasts until the agent ends: {error}");
}

fn one_file(path: PathBuf) -> CertificateFiles {
    CertificateFiles { cert: path.clone(), key: path }
}

/// A certificate and its key, PEM.
fn make(names: &BTreeSet<String>) -> Result<String, TlsError> {
    let names = names.iter().map(|name| name.trim_matches(['[', ']']).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "rprox self-signed");
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + LIFETIME).into();
    let key = KeyPair::generate()?;
    Ok(format!("{}{}", params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn tell(certificate: &Certificate) {
    let names = certificate.names.iter().collect::<Vec<_>>().join(", ");
    let fingerprint = certificate.chain().first().map(|der| HEXLOWER.encode(&Sha256::digest(der)));
    let fingerprint = fingerprint.unwrap_or_default();
    tracing::warn!(
        "self-signed certificate for {names}, SHA-256 {fingerprint}: for trying out, clients don't trust it"
    );
}
