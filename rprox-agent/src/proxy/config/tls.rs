//! The keys of TLS towards clients: `tls`, `hsts`, and a route's `client_ca`, `client_crl` and `client_cert`.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use super::error::Mistake;
use super::routes::Written;
use super::units;
use crate::proxy::tls::TlsError;
use crate::proxy::tls::client_auth::{ClientAuth, ClientCa};

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// How TLS is spoken with clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// Whether hosts without a certificate get one that we sign ourselves.
    pub self_signed: bool,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsTable {
    min_version: TlsVersion,
    self_signed: bool,
}

impl<'de> Deserialize<'de> for TlsConfig {
    /// A table, or `"self-signed"` for one with just that.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;
        impl<'de> Visitor<'de> for TextOrTable {
            type Value = TlsConfig;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("\"self-signed\" or a table")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TlsConfig, E> {
                match text {
                    "self-signed" => Ok(TlsConfig { self_signed: true, ..TlsConfig::default() }),
                    other => Err(E::custom(format!("{other:?} is not a way of TLS; write \"self-signed\""))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TlsConfig, A::Error> {
                let TlsTable { min_version, self_signed } =
                    TlsTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TlsConfig { min_version, self_signed })
            }
        }
        deserializer.deserialize_any(TextOrTable)
    }
}

/// What `Strict-Transport-Security` says (RFC 6797); nothing where it is `off`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hsts(pub(super) Option<HeaderValue>);

impl<'de> Deserialize<'de> for Hsts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hsts(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Reads `off`, `1y` or `1y; includeSubDomains; preload`.
fn parse_hsts(text: &str) -> Result<Option<HeaderValue>, String> {
    if text == "off" {
        return Ok(None);
    }
    let mut parts = text.split(';').map(str::trim);
    let age = parts.next().unwrap_or_default();
    let years = age.strip_suffix('y').and_then(|years| years.trim().parse::<u32>().ok());
    let seconds = match years {
        Some(years) => u64::from(years) * 365 * 86_400,
        None => units::parse_duration(age)?.as_secs(),
    };
    let mut value = format!("max-age={seconds}");
    for part in parts {
        let known =
            ["includeSubDomains", "preload"].into_iter().find(|known| part.eq_ignore_ascii_case(known));
        let known = known.ok_or_else(|| {
            format!("{part:?} can't follow an hsts duration; includeSubDomains and preload can")
        })?;
        value.push_str("; ");
        value.push_str(known);
    }
    HeaderValue::try_from(value).map(Some).map_err(|error| error.to_string())
}

/// What a route asks of its clients' certificates, as it is written.
#[derive(Default)]
pub(super) struct WrittenClientAuth {
    pub(super) ca: Option<Written<PathBuf>>,
    pub(super) crl: Option<Written<PathBuf>>,
    pub(super) cert: Option<Written<String>>,
}

impl WrittenClientAuth {
    pub(super) fn new(
        ca: Option<Spanned<PathBuf>>,
        crl: Option<Spanned<PathBuf>>,
        cert: Option<Spanned<String>>,
    ) -> Self {
        Self { ca: ca.map(Written::from), crl: crl.map(Written::from), cert: cert.map(Written::from) }
    }

    /// What it comes to, with paths relative to `directory`.
    pub(super) fn read(&self, directory: &Path, cas: &mut ClientCas) -> Result<Option<ClientAuth>, Mistake> {
        let required = match &self.cert {
            None => true,
            Some(cert) => match cert.value.as_str() {
                "require" => true,
                "optional" => false,
                other => {
                    return Err(cert.mistake(format!("{other:?} is neither \"require\" nor \"optional\"")));
                }
            },
        };
        let Some(ca) = &self.ca else {
            let needs =
                |key| format!("{key} needs client_ca, the file with the CAs that sign clients' certificates");
            return match (&self.crl, &self.cert) {
                (Some(crl), _) => Err(crl.mistake(needs("client_crl"))),
                (None, Some(cert)) => Err(cert.mistake(needs("client_cert"))),
                (None, None) => Ok(None),
            };
        };
        let path = directory.join(&ca.value);
        let crl = self.crl.as_ref().map(|crl| (crl, directory.join(&crl.value)));
        let loaded = cas.get(path, crl.as_ref().map(|(_, path)| path.clone()));
        let ca = loaded.map_err(|error| match (&error, &crl) {
            (TlsError::ClientCrl { .. }, Some((crl, _))) => crl.file_mistake(&error),
            (TlsError::Read { path, .. }, Some((crl, of))) if path == of => crl.file_mistake(&error),
            _ => ca.file_mistake(&error),
        })?;
        Ok(Some(ClientAuth { ca, required }))
    }
}

/// The CAs of clients, with what they have revoked; read once, however many routes name the same files.
#[derive(Default)]
pub(super) struct ClientCas(HashMap<(PathBuf, Option<PathBuf>), Arc<ClientCa>>);

impl ClientCas {
    fn get(&mut self, ca: PathBuf, crl: Option<PathBuf>) -> Result<Arc<ClientCa>, TlsError> {
        Ok(match self.0.entry((ca, crl)) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(new) => {
                let (ca, crl) = new.key();
                let loaded = Arc::new(ClientCa::load(ca, crl.as_deref())?);
                Arc::clone(new.insert(loaded))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsts_values() {
        for (text, value) in [
            ("1y", "max-age=31536000"),
            ("2y; includeSubDomains;preload", "max-age=63072000; includeSubDomains; preload"),
            ("10m", "max-age=600"),
            ("0s", "max-age=0"),
        ] {
            assert_eq!(parse_hsts(text).unwrap().unwrap(), value, "{text}");
        }
        assert_eq!(parse_hsts("off").unwrap(), None);
        for bad in ["", "1", "1y; preloaded", "1y\r\nX: y", "-1y"] {
            assert!(parse_hsts(bad).is_err(), "{bad}");
        }
    }
}
