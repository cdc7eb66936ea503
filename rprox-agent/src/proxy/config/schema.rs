//! The configuration's JSON schema, for editors and for whoever makes configurations by program.
//!
//! It is made from the types that the file is read into. What those read in ways of their own is described by the shapes here.

#![forbid(unsafe_code)]
#![expect(dead_code, reason = "these types only say what the shape of a value is")]

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};

use super::file::File;
use super::tls::TlsTable;
use super::upstreams::UpstreamTable;

/// The schema of the configuration file.
///
/// TOML has no null, so a key that may be left out is just that.
#[must_use]
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12();
    let mut schema = settings.into_generator().into_root_schema_for::<File>();
    schema.insert("title".to_owned(), "rprox-agent's configuration".into());
    // Some are not what one would write: durations have no form of their own in JSON.
    RecursiveTransform(|schema: &mut Schema| drop(schema.remove("default"))).transform(&mut schema);
    schema
}

/// A number and `ms`, `s`, `m`, `h` or `d`.
#[derive(JsonSchema)]
#[schemars(inline)]
pub(super) struct Duration(#[schemars(regex(pattern = r"^[0-9]+ *(ms|s|m|h|d)$"))] String);

/// A number of bytes, or a number and `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
pub(super) enum Size {
    Bytes(u64),
    Text(#[schemars(regex(pattern = r"^[0-9]+ *(B|KiB|MiB|GiB|TiB)?$"))] String),
}

/// A number of bytes, as above, or `off`.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
pub(super) enum Memory {
    Bytes(u64),
    Text(#[schemars(regex(pattern = r"^([0-9]+ *(B|KiB|MiB|GiB|TiB)?|off)$"))] String),
}

/// One or a list of them.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// How lines of the log look.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// `"self-signed"`, or a table.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
pub(super) enum Tls {
    Text(#[schemars(regex(pattern = "^self-signed$"))] String),
    Table(TlsTable),
}

/// `NAME:PORT`, or a table with more to say of it.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
pub(super) enum Upstream {
    Text(String),
    Table(UpstreamTable),
}

/// How a request's endpoint is chosen.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", inline)]
pub(super) enum Balance {
    LeastConnections,
    RoundRobin,
}
