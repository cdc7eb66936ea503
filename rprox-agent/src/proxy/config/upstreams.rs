//! The upstreams of a route as they are written, and what holds for all upstreams.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::error::{Mistake, Place};
use super::routes::{Context, Written};
use super::{Timeouts, units};
use crate::proxy::upstream::set::{Balancing, HEAVIEST, Sticky, UpstreamTimeouts, Weighted};
use crate::proxy::upstream::tls::{Authorities, UpstreamTlsError};
use crate::proxy::upstream::{Protocol, Upstream};

/// How often requests are sent again, where that is safe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// How many times one request is, at most.
    pub attempts: u32,
    /// How many percent retries may add to a route's requests, for each worker.
    pub budget: u32,
    /// How many there may be each ten seconds however few requests there are, for each worker and route.
    pub minimum: u32,
    /// How long a request waits for an upstream whose every endpoint refuses connections and may just be on the move.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "super::schema::Duration")]
    pub moving: Duration,
}

impl Retries {
    /// What `minimum` is for.
    pub const WINDOW: Duration = Duration::from_secs(10);
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 2, budget: 20, minimum: 10, moving: Duration::from_secs(1) }
    }
}

/// A route's own time-outs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RouteTimeouts {
    #[serde(deserialize_with = "units::some_positive_duration")]
    #[schemars(with = "Option<super::schema::Duration>")]
    connect: Option<Duration>,
    #[serde(deserialize_with = "units::some_positive_duration")]
    #[schemars(with = "Option<super::schema::Duration>")]
    response: Option<Duration>,
    #[serde(deserialize_with = "units::some_positive_duration")]
    #[schemars(with = "Option<super::schema::Duration>")]
    body: Option<Duration>,
}

impl RouteTimeouts {
    /// Whether any is of requests.
    pub(super) fn is_of_requests(&self) -> bool {
        self.response.is_some() || self.body.is_some()
    }

    /// These, or else those for all.
    pub(super) fn over(&self, all: &Timeouts) -> UpstreamTimeouts {
        UpstreamTimeouts {
            connect: self.connect.unwrap_or(all.connect),
            response: self.response.unwrap_or(all.response),
            body: self.body.unwrap_or(all.body),
        }
    }
}

/// `sticky` as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StickyTable {
    #[serde(deserialize_with = "cookie_name")]
    cookie: String,
    #[serde(deserialize_with = "units::some_positive_duration")]
    #[schemars(with = "Option<super::schema::Duration>")]
    max_age: Option<Duration>,
    secret: String,
}

impl Default for StickyTable {
    fn default() -> Self {
        Self { cookie: "rprox".to_owned(), max_age: None, secret: String::new() }
    }
}

impl StickyTable {
    /// The same for a route with this path.
    pub(super) fn on(&self, path: &str) -> Sticky {
        let (cookie, secret) = (self.cookie.clone(), self.secret.clone());
        Sticky { cookie, path: path.to_owned(), max_age: self.max_age, secret }
    }
}

fn cookie_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    // A token (RFC 6265 section 4.1.1), which is what field names are too.
    if HeaderName::from_bytes(name.as_bytes()).is_ok() {
        return Ok(name);
    }
    Err(D::Error::custom(format!("{name:?} can't be a cookie's name; write letters, digits, '-' and '_'")))
}

/// `balance` as it is written.
pub(super) fn balancing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Balancing, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "least-connections" => Ok(Balancing::LeastConnections),
        "round-robin" => Ok(Balancing::RoundRobin),
        other => Err(D::Error::custom(format!(
            "{other:?} is no way to balance; write \"least-connections\" or \"round-robin\""
        ))),
    }
}

/// What `upstream` is: a text, a table, or a list of them.
#[derive(Debug)]
pub(super) enum UpstreamKey {
    One(UpstreamForm),
    Many(Vec<Spanned<UpstreamForm>>),
}

/// An upstream, by itself or with more to say of it.
#[derive(Debug)]
pub(super) enum UpstreamForm {
    Text(String),
    Table(UpstreamTable),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamTable {
    #[schemars(with = "String")]
    to: Spanned<String>,
    #[schemars(with = "Option<u32>")]
    weight: Option<Spanned<u32>>,
    #[schemars(with = "Option<PathBuf>")]
    ca: Option<Spanned<PathBuf>>,
    #[schemars(with = "Option<String>")]
    server_name: Option<Spanned<String>>,
}

const FORMS: &str = "an upstream (\"NAME:PORT\"), a table with `to`, or a list of them";

impl<'de> Deserialize<'de> for UpstreamForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = UpstreamForm;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an upstream (\"NAME:PORT\") or a table with `to`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<UpstreamForm, E> {
                Ok(UpstreamForm::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UpstreamForm, A::Error> {
                UpstreamTable::deserialize(MapAccessDeserializer::new(map)).map(UpstreamForm::Table)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de> Deserialize<'de> for UpstreamKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = UpstreamKey;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(FORMS)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<UpstreamKey, E> {
                Ok(UpstreamKey::One(UpstreamForm::Text(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UpstreamKey, A::Error> {
                let table = UpstreamTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(UpstreamKey::One(UpstreamForm::Table(table)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<UpstreamKey, A::Error> {
                let mut forms = Vec::new();
                while let Some(form) = list.next_element()? {
                    forms.push(form);
                }
                Ok(UpstreamKey::Many(forms))
            }
        }
        deserializer.deserialize_any(Key)
    }
}

/// An upstream of the file or of a flag.
pub(super) struct WrittenUpstream {
    pub(super) to: Written<String>,
    weight: Option<Written<u32>>,
    ca: Option<Written<PathBuf>>,
    server_name: Option<Written<String>>,
}

impl From<Written<String>> for WrittenUpstream {
    fn from(to: Written<String>) -> Self {
        Self { to, weight: None, ca: None, server_name: None }
    }
}

/// The upstreams that a key names, each with its place.
pub(super) fn written(key: Spanned<UpstreamKey>) -> Written<Vec<WrittenUpstream>> {
    let place = Place::Bytes(key.span());
    let one = |form: UpstreamForm, place: Place| match form {
        UpstreamForm::Text(value) => WrittenUpstream::from(Written { value, place }),
        UpstreamForm::Table(table) => WrittenUpstream {
            to: table.to.into(),
            weight: table.weight.map(Written::from),
            ca: table.ca.map(Written::from),
            server_name: table.server_name.map(Written::from),
        },
    };
    let value = match key.into_inner() {
        UpstreamKey::One(form) => vec![one(form, place.clone())],
        UpstreamKey::Many(forms) => {
            let forms = forms.into_iter();
            forms
                .map(|form| (Place::Bytes(form.span()), form))
                .map(|(place, form)| one(form.into_inner(), place))
                .collect()
        }
    };
    Written { value, place }
}

/// Whom the upstreams' certificates may be from; read once, however many upstreams say the same.
#[derive(Default)]
pub(super) struct AllAuthorities(HashMap<Option<PathBuf>, Authorities>);

impl AllAuthorities {
    fn get(&mut self, ca: Option<&Path>) -> Result<&Authorities, UpstreamTlsError> {
        Ok(match self.0.entry(ca.map(Path::to_owned)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(match ca {
                Some(file) => Authorities::of_file(file)?,
                None => Authorities::of_system()?,
            }),
        })
    }
}

impl WrittenUpstream {
    /// The upstream, with `text` for what it is to: a template's is filled in.
    pub(super) fn read(&self, text: &str, context: &mut Context<'_>) -> Result<Weighted, Mistake> {
        let ca = self.ca.as_ref().map(|ca| context.directory.join(&ca.value));
        let mut upstream = Upstream::parse(text, context.search).map_err(|error| self.to.mistake(error))?;
        if upstream.protocol == Protocol::Https {
            let authorities = context.authorities.get(ca.as_deref()).map_err(|error| match &self.ca {
                Some(ca) => ca.file_mistake(&error),
                None => self.to.mistake(error),
            })?;
            let tls = match &self.server_name {
                Some(name) => authorities.expect(&name.value).map_err(|error| name.mistake(error)),
                None => authorities.expect(upstream.host()).map_err(|error| self.to.mistake(error)),
            };
            upstream.tls = Some(Arc::new(tls?));
        } else if let Some(place) =
            self.ca.as_ref().map(|ca| &ca.place).or(self.server_name.as_ref().map(|name| &name.place))
        {
            return Err(Mistake::new(place.clone(), "ca and server_name are for an upstream with https://"));
        }
        let weight = match &self.weight {
            Some(weight) if weight.value > HEAVIEST => {
                return Err(weight.mistake(format!("a weight is from 0 to {HEAVIEST}")));
            }
            weight => weight.as_ref().map_or(1, |weight| weight.value),
        };
        Ok(Weighted { upstream: Arc::new(upstream), weight, ca })
    }
}
