//! What a route says of all its upstreams, where it comes from labels and not from the file.

#![forbid(unsafe_code)]

use serde::Deserialize;
use toml::Table;

use super::health::HealthTable;
use super::upstreams::{RouteTimeouts, StickyTable, balancing};
use super::{Timeouts, nearest};
use crate::proxy::upstream::set::{Balancing, HealthCheck, Sticky, UpstreamTimeouts};

/// How the upstreams of a route are chosen from, waited for and watched.
#[derive(Debug)]
pub struct Terms {
    /// `balance`
    pub balance: Balancing,
    /// `sticky`
    pub sticky: Option<Box<Sticky>>,
    /// `health`
    pub health: Option<HealthCheck>,
    /// `timeouts`, or those of all routes
    pub timeouts: UpstreamTimeouts,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    #[serde(deserialize_with = "balancing")]
    balance: Balancing,
    sticky: Option<StickyTable>,
    health: Option<HealthTable>,
    timeouts: RouteTimeouts,
}

impl Terms {
    /// By keys of a route, as the file has them, for one with this `path`.
    ///
    /// # Errors
    ///
    /// When there is no such key, or the value can't be its: in the words of the file's mistakes.
    pub fn read(keys: Table, path: &str, all: &Timeouts) -> Result<Self, String> {
        let written: Written = keys.try_into().map_err(|error| reword(&error))?;
        Ok(Self {
            balance: written.balance,
            sticky: written.sticky.map(|sticky| Box::new(sticky.on(path))),
            health: written.health.as_ref().map(HealthTable::read),
            timeouts: written.timeouts.over(all),
        })
    }
}

fn reword(error: &toml::de::Error) -> String {
    nearest::reword(error.message())
}
