//! The table `[acme]`: certificates from an ACME server.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use toml::Spanned;

use super::CertificateFiles;
use super::error::{Mistake, Place};
use super::routes::Written;
use super::units;
use crate::proxy::host;
use crate::proxy::tls::names;

const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// How certificates are had by ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The server's directory.
    pub directory: String,
    /// Whom the server may write to: `mailto:` URIs.
    pub contacts: Vec<String>,
    /// How hosts are validated: each way in turn, until one succeeds.
    pub challenges: Vec<AcmeChallenge>,
    /// The hosts to have a certificate for.
    pub hosts: Vec<String>,
    /// The folder for the account and the certificates.
    pub state: PathBuf,
    /// The root that the server's own certificate comes from, where it is not one of the system's.
    pub ca: Option<PathBuf>,
    /// How long to wait after a first failure.
    pub retry: Duration,
    /// What ties the account to one that the server's owner gave out.
    pub external_account: Option<ExternalAccount>,
}

impl AcmeConfig {
    /// The files with `host`'s certificate: in fact one file, so that it and its key are replaced together.
    #[must_use]
    pub fn files(&self, host: &str) -> CertificateFiles {
        let file = self.state.join("certificates").join(format!("{host}.pem"));
        CertificateFiles { cert: file.clone(), key: file }
    }
}

/// A way to prove that a host is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// A certificate, on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A file, on port 80 (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
}

/// An external account binding (RFC 8555 section 7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// Its identifier.
    pub kid: String,
    /// Its key. Never to be shown.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ExternalAccount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ExternalAccount").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AcmeTable {
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    directory: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "contacts")]
    #[schemars(with = "super::schema::OneOrMany<String>")]
    contact: Vec<String>,
    #[schemars(with = "bool")]
    agree_terms: Spanned<bool>,
    #[serde(default)]
    challenge: Option<AcmeChallenge>,
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    hosts: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    #[schemars(with = "Option<PathBuf>")]
    ca: Option<Spanned<PathBuf>>,
    #[serde(default = "default_retry", deserialize_with = "units::positive_duration")]
    #[schemars(with = "super::schema::Duration")]
    retry: Duration,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    eab_kid: Option<Spanned<String>>,
    #[serde(default)]
    #[schemars(with = "Option<PathBuf>")]
    eab_key: Option<Spanned<PathBuf>>,
}

impl AcmeTable {
    /// What it comes to: for its own hosts, or else for `hosts`; with paths relative to `directory`.
    pub(super) fn read(
        self,
        hosts: Vec<String>,
        state: Option<PathBuf>,
        directory: &Path,
    ) -> Result<AcmeConfig, Mistake> {
        let terms = Written::from(self.agree_terms);
        if !terms.value {
            return Err(terms.mistake(
                "a certificate is issued to those who agree to the server's terms of service: agree_terms = true",
            ));
        }
        let hosts = match self.hosts {
            Some(listed) => {
                listed.into_iter().map(|host| read_host(&host.into())).collect::<Result<_, _>>()?
            }
            None => hosts,
        };
        let state = state.ok_or_else(|| {
            Mistake::new(
                Place::Whole,
                "[acme] needs a folder to keep keys and certificates in: state = \"FOLDER\"",
            )
        })?;
        Ok(AcmeConfig {
            directory: match self.directory {
                Some(directory) => read_directory(&directory.into())?,
                None => PRODUCTION.to_owned(),
            },
            contacts: self.contact,
            challenges: self
                .challenge
                .map_or_else(|| vec![AcmeChallenge::TlsAlpn01, AcmeChallenge::Http01], |only| vec![only]),
            hosts,
            state,
            ca: self.ca.map(|ca| read_ca(&ca.into(), directory)).transpose()?,
            retry: self.retry,
            external_account: external_account(self.eab_kid, self.eab_key, directory)?,
        })
    }
}

fn default_retry() -> Duration {
    Duration::from_mins(1)
}

fn read_directory(written: &Written<String>) -> Result<String, Mistake> {
    match written.value.as_str() {
        "production" => Ok(PRODUCTION.to_owned()),
        "staging" => Ok(STAGING.to_owned()),
        url => match url.parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("https") && uri.authority().is_some() => Ok(url.to_owned()),
            _ => Err(written.mistake(format!(
                "{url:?} is not an ACME directory; write \"production\" or \"staging\" for Let's Encrypt's, or an https:// URL"
            ))),
        },
    }
}

fn read_host(written: &Written<String>) -> Result<String, Mistake> {
    let normal = host::normalise(&written.value).filter(|host| is_issuable(host));
    normal.map(std::borrow::Cow::into_owned).ok_or_else(|| {
        written.mistake(format!(
            "{:?} can't have a certificate by ACME here; write a host's full name without a wildcard",
            written.value
        ))
    })
}

/// Whether a public server could issue for `host` (normalised) by these challenges: a name with a dot, of letters, digits and
/// hyphens alone.
pub(super) fn is_issuable(host: &str) -> bool {
    names::domain_of(host).is_some() && !host.contains('_')
}

fn read_ca(written: &Written<PathBuf>, directory: &Path) -> Result<PathBuf, Mistake> {
    let path = directory.join(&written.value);
    fs::metadata(&path).map_err(|error| written.mistake(format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn external_account(
    kid: Option<Spanned<String>>,
    key: Option<Spanned<PathBuf>>,
    directory: &Path,
) -> Result<Option<ExternalAccount>, Mistake> {
    let (kid, key) = match (kid.map(Written::from), key.map(Written::from)) {
        (None, None) => return Ok(None),
        (Some(kid), Some(key)) => (kid, key),
        (Some(kid), None) => return Err(kid.mistake("eab_kid needs eab_key, the file with its key")),
        (None, Some(key)) => return Err(key.mistake("eab_key needs eab_kid, the key's identifier")),
    };
    let path = directory.join(&key.value);
    let text = fs::read_to_string(&path).map_err(|error| key.file_mistake(&named(&error, &path)))?;
    // Given out in base64url (RFC 8555 section 7.3.4), by some with padding.
    let decoded = data_encoding::BASE64URL_NOPAD.decode(text.trim().trim_end_matches('=').as_bytes());
    let decoded = decoded.map_err(|_| key.mistake(format!("{}: not a key in base64url", path.display())))?;
    Ok(Some(ExternalAccount { kid: kid.value, key: decoded }))
}

/// `error` in the words that a reader needs.
fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// One e-mail address or a list of them.
fn contacts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let contacts = units::texts(deserializer, "an e-mail address or a list of them")?;
    contacts
        .into_iter()
        .map(|contact| {
            let address = contact.strip_prefix("mailto:").unwrap_or(&contact);
            let is_address = address.split_once('@').is_some_and(|(local, domain)| {
                !local.is_empty()
                    && host::is_name(domain)
                    && address.bytes().all(|byte| byte.is_ascii_graphic())
            });
            let refused = || D::Error::custom(format!("{contact:?} is not an e-mail address"));
            is_address.then(|| format!("mailto:{address}")).ok_or_else(refused)
        })
        .collect()
}
