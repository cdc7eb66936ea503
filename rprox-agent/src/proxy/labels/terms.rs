//! Labels that say the same as keys of a route: how its upstreams are chosen from, waited for and watched.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use toml::{Table, Value};

use crate::proxy::config::{Terms, Timeouts};

/// The labels, without what all begin with. No `sticky.secret`: everybody who may look at the container can read a label.
pub(super) const KEYS: [&str; 12] = [
    "balance",
    "timeouts.connect",
    "timeouts.response",
    "timeouts.body",
    "sticky.cookie",
    "sticky.max_age",
    "health.path",
    "health.interval",
    "health.timeout",
    "health.healthy",
    "health.unhealthy",
    "health.status",
];

/// How often a label may have an endpoint asked: whoever starts containers does not decide on the agent's work.
const OFTEN: Duration = Duration::from_secs(1);

/// What the labels of a container say of its route. All containers of one route say the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labelled(BTreeMap<String, String>);

impl Labelled {
    /// Takes a label, one of [`KEYS`].
    ///
    /// # Errors
    ///
    /// When its value can't be that key's.
    pub(super) fn insert(&mut self, key: &str, value: &str) -> Result<(), String> {
        let mut alone = Self(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        if key.starts_with("health.") {
            alone.0.entry("health.path".to_owned()).or_insert_with(|| "/".to_owned());
        }
        let terms = alone.read("/", &Timeouts::default())?;
        if terms.health.is_some_and(|health| health.interval < OFTEN) {
            return Err(format!("{value:?} is less than a second"));
        }
        self.0.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// The label without which others have no meaning, if it is missing.
    pub(super) fn missing(&self) -> Option<&'static str> {
        let has_health = self.0.keys().any(|key| key.starts_with("health."));
        (has_health && !self.0.contains_key("health.path")).then_some("health.path")
    }

    /// The first label that `other` doesn't say the same by.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let mut keys = self.0.keys().chain(other.0.keys());
        keys.find(|key| self.0.get(*key) != other.0.get(*key)).map(String::as_str)
    }

    /// What they say, for a route with this `path`.
    ///
    /// # Errors
    ///
    /// None once each label has been taken by itself and none is missing.
    pub(super) fn read(&self, path: &str, all: &Timeouts) -> Result<Terms, String> {
        let mut keys = Table::new();
        for (key, text) in &self.0 {
            match key.split_once('.') {
                None => {
                    keys.insert(key.clone(), typed(key, text));
                }
                Some((table, inner)) => {
                    let table = keys.entry(table).or_insert_with(|| Table::new().into());
                    if let Value::Table(table) = table {
                        table.insert(inner.to_owned(), typed(key, text));
                    }
                }
            }
        }
        Terms::read(keys, path, all)
    }
}

/// A label's text as the file has it: most are strings there.
fn typed(key: &str, text: &str) -> Value {
    let number = |text: &str| text.trim().parse::<i64>().map_or_else(|_| text.into(), Value::Integer);
    match key {
        "health.healthy" | "health.unhealthy" => number(text),
        "health.status" => text.split(',').map(number).collect::<Vec<_>>().into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::upstream::set::{Balancing, UpstreamTimeouts};

    fn labelled(labels: &[(&str, &str)]) -> Labelled {
        let mut labelled = Labelled::default();
        for (key, value) in labels {
            labelled.insert(key, value).unwrap();
        }
        labelled
    }

    #[test]
    fn each_label_is_a_key_of_a_route() {
        let all = labelled(&[
            ("balance", "round-robin"),
            ("timeouts.connect", "1s"),
            ("timeouts.response", "5m"),
            ("timeouts.body", "2m"),
            ("sticky.cookie", "which"),
            ("sticky.max_age", "1h"),
            ("health.path", "/healthz"),
            ("health.interval", "10s"),
            ("health.timeout", "3s"),
            ("health.healthy", "2"),
            ("health.unhealthy", "5"),
            ("health.status", "200, 204"),
        ]);
        assert_eq!(all.0.keys().len(), KEYS.len());
        let terms = all.read("/api", &Timeouts::default()).unwrap();
        assert_eq!(terms.balance, Balancing::RoundRobin);
        let UpstreamTimeouts { connect, response, body } = terms.timeouts;
        assert_eq!([connect, response, body].map(|timeout| timeout.as_secs()), [1, 300, 120]);
        let sticky = terms.sticky.unwrap();
        assert_eq!((sticky.cookie.as_str(), sticky.path.as_str()), ("which", "/api"));
        assert_eq!(sticky.max_age, Some(Duration::from_hours(1)));
        let health = terms.health.unwrap();
        assert_eq!((health.path.as_str(), health.status.as_slice()), ("/healthz", &[200, 204][..]));
        assert_eq!((health.interval, health.timeout), (Duration::from_secs(10), Duration::from_secs(3)));
        assert_eq!((health.healthy, health.unhealthy), (2, 5));
    }

    #[test]
    fn containers_of_a_route_that_differ_are_told_in_what() {
        let one = labelled(&[("health.path", "/a"), ("balance", "round-robin")]);
        let other = labelled(&[("health.path", "/b"), ("balance", "round-robin")]);
        assert_eq!(one.difference(&other), Some("health.path"));
        assert_eq!(one.difference(&one.clone()), None);
        assert_eq!(one.difference(&Labelled::default()), Some("balance"));
        assert_eq!(labelled(&[("health.interval", "2s")]).missing(), Some("health.path"));
    }
}
