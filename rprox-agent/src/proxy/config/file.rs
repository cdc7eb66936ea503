//! The configuration file as it is written; every key of it is here or in the parent's tables.

#![forbid(unsafe_code)]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::acme::AcmeTable;
use super::admin::AdminTable;
use super::health::HealthTable;
use super::podman::PodmanTable;
use super::tls::{Hsts, TlsConfig};
use super::units::{self, Addresses};
use super::upgrade;
use super::upstreams::{self, RouteTimeouts, StickyTable, UpstreamKey};
use super::{DnsConfig, Limits, Log, PassiveHealth, Retries, Timeouts};
use crate::proxy::proxy_protocol;
use crate::proxy::route::RouteTls;
use crate::proxy::upstream::set::Balancing;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) listen: ListenTable,
    #[schemars(with = "DnsConfig")]
    pub(super) dns: Spanned<DnsConfig>,
    #[serde(deserialize_with = "units::networks")]
    #[schemars(with = "super::schema::OneOrMany<String>")]
    pub(super) trusted_proxies: Vec<IpNet>,
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "super::schema::Duration")]
    pub(super) drain_timeout: Duration,
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) timeouts: Timeouts,
    pub(super) retries: Retries,
    pub(super) passive_health: PassiveHealth,
    pub(super) limits: Limits,
    pub(super) log: Log,
    #[schemars(with = "super::schema::Tls")]
    pub(super) tls: TlsConfig,
    #[schemars(with = "String")]
    pub(super) hsts: Hsts,
    pub(super) state: Option<PathBuf>,
    pub(super) acme: Option<AcmeTable>,
    pub(super) podman: Option<PodmanTable>,
    pub(super) admin: AdminTable,
    pub(super) watch: bool,
    pub(super) certificate: Vec<CertificateTable>,
    pub(super) route: Vec<RouteTable>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listen: ListenTable::default(),
            dns: Spanned::new(0..0, DnsConfig::default()),
            trusted_proxies: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            workers: None,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            passive_health: PassiveHealth::default(),
            limits: Limits::default(),
            log: Log::default(),
            tls: TlsConfig::default(),
            hsts: Hsts::default(),
            state: None,
            acme: None,
            podman: None,
            admin: AdminTable::default(),
            watch: true,
            certificate: Vec::new(),
            route: Vec::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListenTable {
    #[schemars(with = "Option<super::schema::OneOrMany<String>>")]
    pub(super) http: Option<Spanned<Addresses>>,
    #[schemars(with = "Option<super::schema::OneOrMany<String>>")]
    pub(super) https: Option<Spanned<Addresses>>,
    #[serde(deserialize_with = "units::networks")]
    #[schemars(with = "super::schema::OneOrMany<String>")]
    pub(super) proxy_protocol: Vec<IpNet>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateTable {
    #[schemars(with = "PathBuf")]
    pub(super) cert: Spanned<PathBuf>,
    #[schemars(with = "PathBuf")]
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    #[schemars(with = "String")]
    pub(super) host: Spanned<String>,
    #[schemars(with = "Option<String>")]
    pub(super) path: Option<Spanned<String>>,
    #[schemars(with = "super::schema::OneOrMany<super::schema::Upstream>")]
    pub(super) upstream: Spanned<UpstreamKey>,
    #[schemars(with = "Option<RouteTls>")]
    pub(super) tls: Option<Spanned<RouteTls>>,
    #[serde(default, deserialize_with = "upstreams::balancing")]
    #[schemars(with = "super::schema::Balance")]
    pub(super) balance: Balancing,
    pub(super) sticky: Option<StickyTable>,
    pub(super) health: Option<HealthTable>,
    #[serde(default)]
    pub(super) timeouts: RouteTimeouts,
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) allow: Option<Spanned<Vec<Spanned<String>>>>,
    #[schemars(with = "Option<PathBuf>")]
    pub(super) cert: Option<Spanned<PathBuf>>,
    #[schemars(with = "Option<PathBuf>")]
    pub(super) key: Option<Spanned<PathBuf>>,
    #[schemars(with = "Option<PathBuf>")]
    pub(super) client_ca: Option<Spanned<PathBuf>>,
    #[schemars(with = "Option<PathBuf>")]
    pub(super) client_crl: Option<Spanned<PathBuf>>,
    #[schemars(with = "Option<String>")]
    pub(super) client_cert: Option<Spanned<String>>,
    #[schemars(with = "Option<String>")]
    pub(super) hsts: Option<Hsts>,
    #[serde(default, deserialize_with = "upgrade::protocols")]
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) upgrade: Option<Vec<String>>,
    pub(super) proxy_protocol: Option<proxy_protocol::Version>,
    #[serde(default = "default_https_redirect")]
    pub(super) https_redirect: bool,
}

fn default_https_redirect() -> bool {
    true
}
