//! What is logged, and how.

#![forbid(unsafe_code)]

use schemars::JsonSchema;
use serde::Deserialize;

use super::units;
use crate::cli::LogFormat;

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level or an `EnvFilter` directive list.
    #[serde(deserialize_with = "units::log_level")]
    #[schemars(with = "String")]
    pub level: String,
    /// Text or JSON.
    #[serde(deserialize_with = "units::log_format")]
    #[schemars(with = "super::schema::LogFormat")]
    pub format: LogFormat,
    /// Whether each request gets a line.
    pub access: bool,
    /// What that line looks like, and where it goes.
    pub access_format: AccessFormat,
    /// What happens with requests that are part of no trace.
    pub traceparent: Traceparent,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            access: true,
            access_format: AccessFormat::default(),
            traceparent: Traceparent::default(),
        }
    }
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// As the other lines of the log, and among them.
    #[default]
    Text,
    /// A JSON object, on standard output.
    Json,
    /// Apache's and nginx' format `combined`, on standard output.
    Combined,
}

/// What happens with requests that are part of no trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Traceparent {
    /// Nothing; what a client sends is passed on either way.
    #[default]
    Pass,
    /// They begin one.
    Create,
}
