//! How it is told whether endpoints are well: `passive_health`, and a route's `health`.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::units;
use crate::proxy::upstream::set::HealthCheck;

/// When an endpoint is left out for what its requests show.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PassiveHealth {
    /// Requests in a row that got no response. A connection that can't be made needs no second.
    #[serde(deserialize_with = "units::count")]
    pub failures: u32,
    /// How long the first time; each further time twice as long.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "super::schema::Duration")]
    pub back_off: Duration,
    /// How long at most.
    #[serde(deserialize_with = "units::positive_duration")]
    #[schemars(with = "super::schema::Duration")]
    pub longest_back_off: Duration,
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self { failures: 3, back_off: Duration::from_secs(1), longest_back_off: Duration::from_secs(30) }
    }
}

/// `health` as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthTable {
    #[serde(deserialize_with = "path")]
    #[schemars(with = "String")]
    path: PathAndQuery,
    #[serde(default, deserialize_with = "units::some_positive_duration")]
    #[schemars(with = "Option<super::schema::Duration>")]
    interval: Option<Duration>,
    #[serde(default, deserialize_with = "units::some_positive_duration")]
    #[schemars(with = "Option<super::schema::Duration>")]
    timeout: Option<Duration>,
    healthy: Option<NonZeroU32>,
    unhealthy: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "statuses")]
    status: Vec<u16>,
}

impl HealthTable {
    pub(super) fn read(&self) -> HealthCheck {
        let all = HealthCheck::default();
        HealthCheck {
            path: self.path.clone(),
            interval: self.interval.unwrap_or(all.interval),
            timeout: self.timeout.unwrap_or(all.timeout),
            healthy: self.healthy.map_or(all.healthy, NonZeroU32::get),
            unhealthy: self.unhealthy.map_or(all.unhealthy, NonZeroU32::get),
            status: self.status.clone(),
        }
    }
}

fn statuses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    let statuses = Vec::<u16>::deserialize(deserializer)?;
    match statuses.iter().find(|status| !(100..600).contains(*status)) {
        Some(odd) => Err(D::Error::custom(format!("{odd} is no status; they are from 100 to 599"))),
        None => Ok(statuses),
    }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathAndQuery, D::Error> {
    let text = String::deserialize(deserializer)?;
    let path = Some(&text).filter(|text| text.starts_with('/')).and_then(|text| text.parse().ok());
    path.ok_or_else(|| D::Error::custom(format!("{text:?} is not a path; write it as \"/healthz\"")))
}
