//! The table `[podman]`: routes by the labels of containers.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use toml::Spanned;

use super::error::Mistake;
use super::routes::Written;
use super::units;
use crate::proxy::route::HostPattern;

/// How routes are found by the labels of Podman's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodmanConfig {
    /// The socket of Podman's API.
    pub socket: PathBuf,
    /// The networks whose containers may have routes, the preferred first.
    pub networks: Vec<String>,
    /// The hosts that labels may name; empty: any that the configuration has no route for.
    pub hosts: Vec<HostPattern>,
    /// How often all containers are looked at, whatever was told of meanwhile.
    pub resync: Duration,
    /// How long the routes stay that were last known while the API fails.
    pub stale: Duration,
}

impl PodmanConfig {
    /// Whether a label may name `host`, which is normalised.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.covers(host))
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PodmanTable {
    #[schemars(with = "String")]
    socket: Spanned<String>,
    #[schemars(with = "Vec<String>")]
    networks: Spanned<Vec<String>>,
    #[serde(default, deserialize_with = "hosts")]
    #[schemars(with = "Vec<String>")]
    hosts: Vec<HostPattern>,
    #[serde(default = "default_resync", deserialize_with = "units::positive_duration")]
    #[schemars(with = "super::schema::Duration")]
    resync: Duration,
    #[serde(default = "default_stale", deserialize_with = "units::duration")]
    #[schemars(with = "super::schema::Duration")]
    stale: Duration,
}

fn default_resync() -> Duration {
    Duration::from_mins(1)
}

fn default_stale() -> Duration {
    Duration::from_mins(5)
}

fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostPattern>, D::Error> {
    let hosts = Vec::<String>::deserialize(deserializer)?.into_iter();
    let hosts = hosts.map(|host| {
        HostPattern::parse(&host).ok_or_else(|| {
            D::Error::custom(format!("{host:?} is not a host; write a name, \"*.\" and a name, or \"*\""))
        })
    });
    hosts.collect()
}

/// Whether Podman could have a network of this name.
fn is_network(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

impl PodmanTable {
    pub(super) fn read(self) -> Result<PodmanConfig, Mistake> {
        let (socket, networks) = (Written::from(self.socket), Written::from(self.networks));
        if cfg!(not(feature = "podman")) {
            return Err(
                socket.mistake("this build can't speak to Podman; build it with the feature `podman`")
            );
        }
        let Some(path) = socket.value.strip_prefix("unix:").filter(|path| path.starts_with('/')) else {
            return Err(socket.mistake(format!(
                "{:?} is no socket; write \"unix:/PATH\", for example \"unix:/run/user/1000/podman/podman.sock\"",
                socket.value
            )));
        };
        if networks.value.is_empty() {
            return Err(networks.mistake("name the networks whose containers may have routes"));
        }
        if let Some(odd) = networks.value.iter().find(|name| !is_network(name)) {
            return Err(networks
                .mistake(format!("{odd:?} is no network; its name has letters, digits, '_', '.' and '-'")));
        }
        Ok(PodmanConfig {
            socket: path.into(),
            networks: networks.value,
            hosts: self.hosts,
            resync: self.resync,
            stale: self.stale,
        })
    }
}
