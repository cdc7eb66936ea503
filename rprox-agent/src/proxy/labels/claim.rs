//! What a container's labels ask for.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::terms::{self, Labelled};
use crate::proxy::config::parse_path;
use crate::proxy::route::{HostPattern, RouteTls};
use crate::proxy::upstream::Upstream;
use crate::proxy::upstream::set::HEAVIEST;

/// What the labels that concern us begin with.
const PREFIX: &str = "rprox.";

/// The labels that there are, beside those of [`terms`].
const KEYS: [&str; 7] = ["host", "port", "path", "scheme", "tls", "weight", "https_redirect"];

/// Beginnings of those that are about requests, which nobody but the container can read where it has its own TLS.
const OF_REQUESTS: [&str; 6] = ["path", "scheme", "sticky.", "health.", "timeouts.response", "timeouts.body"];

/// A container with labels, as far as that concerns routes.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// When it was made, as Podman writes it; then its id. Of two that can't both have their way, the first one has.
    pub age: (String, String),
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The network that it was found on, and its address there.
    pub at: (String, IpAddr),
}

/// A host and path that a container asks to serve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// When the container was made, and its id.
    pub age: (String, String),
    /// The container's name.
    pub container: String,
    /// The network that it is reached by.
    pub network: String,
    /// An exact host, normalised.
    pub host: String,
    /// The path prefix, as a route has it.
    pub path: String,
    /// `h2c://10.89.0.5:80` or the like: an address, so that no name decides where requests go.
    pub upstream: String,
    /// Whose business TLS is.
    pub tls: RouteTls,
    /// The upstream's weight.
    pub weight: u32,
    /// Whether plain HTTP is redirected to HTTPS.
    pub https_redirect: bool,
    /// What else it says of the route.
    pub terms: Labelled,
}

impl Container {
    /// What it asks for: a claim for each of its hosts.
    ///
    /// # Errors
    ///
    /// When a label is malformed, unknown or missing: in words that name the container.
    pub fn claims(&self) -> Result<Vec<Claim>, String> {
        self.read().map_err(|reason| format!("the labels of container {} are ignored: {reason}", self.name))
    }

    fn read(&self) -> Result<Vec<Claim>, String> {
        let (mut hosts, mut port, mut path) = (Vec::new(), None, "/".to_owned());
        let (mut scheme, mut weight, mut https_redirect) = ("http", 1, true);
        let mut tls = RouteTls::Terminate;
        let mut terms = Labelled::default();
        let labels = self.labels.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
        for (key, value) in labels {
            let wrong = |should: &str| format!("{PREFIX}{key}={value:?} should be {should}");
            match key {
                "host" => {
                    hosts = read_hosts(value).ok_or_else(|| wrong("a host name, or several with commas"))?;
                }
                "port" => {
                    let number = value.parse::<u16>().ok().filter(|port| *port != 0);
                    port = Some(number.ok_or_else(|| wrong("a number from 1 to 65535"))?);
                }
                "path" => path = parse_path(value).map_err(|reason| format!("{PREFIX}{key}: {reason}"))?,
                "scheme" if matches!(value.as_str(), "http" | "h2c") => scheme = value,
                "scheme" => return Err(wrong("\"http\" or \"h2c\"")),
                "tls" => {
                    tls = match value.as_str() {
                        "passthrough" => RouteTls::Passthrough,
                        "terminate" => RouteTls::Terminate,
                        _ => return Err(wrong("\"passthrough\" or \"terminate\"")),
                    };
                }
                "weight" => {
                    let number = value.parse().ok().filter(|weight| (1..=HEAVIEST).contains(weight));
                    weight = number.ok_or_else(|| wrong(&format!("a number from 1 to {HEAVIEST}")))?;
                }
                "https_redirect" => {
                    https_redirect = value.parse().map_err(|_| wrong("\"true\" or \"false\""))?;
                }
                key if terms::KEYS.contains(&key) => {
                    terms.insert(key, value).map_err(|reason| format!("{PREFIX}{key}: {reason}"))?;
                }
                _ => return Err(unknown(key)),
            }
        }
        if tls == RouteTls::Passthrough {
            let mut keys = self.labels.keys().filter_map(|key| key.strip_prefix(PREFIX));
            let is_of_requests = |key: &&str| OF_REQUESTS.iter().any(|start| key.starts_with(start));
            if let Some(key) = keys.find(is_of_requests) {
                return Err(format!(
                    "{PREFIX}{key} is about requests, which {PREFIX}tls=passthrough leaves alone"
                ));
            }
        }
        if let Some(key) = terms.missing() {
            return Err(format!("{PREFIX}{key} is missing, without which other labels have no meaning"));
        }
        let port = port.ok_or_else(|| format!("{PREFIX}port is missing: the port that it listens on"))?;
        let (network, address) = &self.at;
        let socket = std::net::SocketAddr::new(*address, port);
        let claim = |host| Claim {
            age: self.age.clone(),
            container: self.name.clone(),
            network: network.clone(),
            host,
            path: path.clone(),
            upstream: format!("{scheme}://{socket}"),
            tls,
            weight,
            https_redirect,
            terms: terms.clone(),
        };
        Ok(hosts.into_iter().map(claim).collect())
    }
}

/// Whether a container with these labels asks for a route.
#[must_use]
pub fn asks(labels: &BTreeMap<String, String>) -> bool {
    labels.contains_key("rprox.host")
}

/// Of a container that asks for no route: that it has a label which isn't there, as where it meant to.
#[must_use]
pub fn misspelt(container: &str, labels: &BTreeMap<String, String>) -> Option<String> {
    let mut keys = labels.keys().filter_map(|label| label.strip_prefix(PREFIX));
    let key = keys.find(|key| !KEYS.contains(key) && !terms::KEYS.contains(key))?;
    Some(format!("the labels of container {container} are ignored: {}", unknown(key)))
}

fn unknown(key: &str) -> String {
    let all = KEYS.iter().chain(&terms::KEYS).map(|key| format!(".{key}")).collect::<Vec<_>>().join(", ");
    format!("there is no label {PREFIX}{key}, only rprox{all}")
}

impl Claim {
    /// Where it leads.
    #[must_use]
    pub fn upstream(&self) -> Option<Upstream> {
        Upstream::parse(&self.upstream, None).ok()
    }
}

/// Exact hosts alone: what a label can claim is what it names.
fn read_hosts(list: &str) -> Option<Vec<String>> {
    let hosts = list.split(',').map(|host| match HostPattern::parse(host.trim()) {
        Some(HostPattern::Exact(host)) => Some(host),
        _ => None,
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(labels: &[(&str, &str)]) -> Container {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Container {
            name: "web".to_owned(),
            age: (String::new(), "1".to_owned()),
            labels: labels.collect(),
            at: ("pod_network".to_owned(), "10.89.0.5".parse().unwrap()),
        }
    }

    #[test]
    fn a_container_asks_for_a_route_of_each_host() {
        let labels = [
            ("rprox.host", "A.example.com, b.example.com"),
            ("rprox.port", "3000"),
            ("rprox.path", "/api/"),
            ("rprox.scheme", "h2c"),
            ("rprox.weight", "3"),
            ("rprox.https_redirect", "false"),
            ("org.example.rprox.host", "not ours"),
        ];
        let claims = container(&labels).claims().unwrap();
        assert_eq!(
            claims.iter().map(|claim| claim.host.as_str()).collect::<Vec<_>>(),
            ["a.example.com", "b.example.com"]
        );
        let claim = &claims[1];
        assert_eq!((claim.path.as_str(), claim.upstream.as_str()), ("/api", "h2c://10.89.0.5:3000"));
        assert_eq!((claim.weight, claim.https_redirect), (3, false));
        assert!(claim.upstream().is_some());
    }

    #[test]
    fn each_mistake_names_the_container_and_the_reason() {
        let good = [("rprox.host", "a.example.com"), ("rprox.port", "80")];
        assert!(container(&good).claims().is_ok());
        for (key, value, reason) in [
            ("rprox.host", "*.example.com", "a host name"),
            ("rprox.host", "*", "a host name"),
            ("rprox.host", "a.example.com:80", "a host name"),
            ("rprox.host", "a.example.com,", "a host name"),
            ("rprox.port", "0", "from 1 to 65535"),
            ("rprox.port", "http", "from 1 to 65535"),
            ("rprox.path", "api", "must start with"),
            ("rprox.path", "/../x", "clients resolve"),
            ("rprox.scheme", "https", "\"http\" or \"h2c\""),
            ("rprox.scheme", "unix", "\"http\" or \"h2c\""),
            ("rprox.tls", "pass", "\"passthrough\" or \"terminate\""),
            ("rprox.weight", "0", "from 1 to"),
            ("rprox.https_redirect", "yes", "\"true\" or \"false\""),
            ("rprox.cert", "/etc/shadow", "there is no label rprox.cert"),
            ("rprox.prot", "80", "there is no label rprox.prot"),
            ("rprox.balance", "random", "rprox.balance: \"random\" is no way to balance"),
            ("rprox.timeouts.response", "5", "rprox.timeouts.response: \"5\" is not a duration"),
            ("rprox.health.path", "healthz", "\"healthz\" is not a path"),
            ("rprox.health.interval", "100ms", "less than a second"),
            ("rprox.health.interval", "10s", "rprox.health.path is missing"),
            ("rprox.health.healthy", "often", "rprox.health.healthy: invalid type"),
            ("rprox.health.status", "200,ok", "rprox.health.status: invalid type"),
            ("rprox.health.status", "200,99", "99 is no status"),
            ("rprox.sticky.cookie", "a b", "can't be a cookie's name"),
            ("rprox.sticky.secret", "x", "there is no label rprox.sticky.secret"),
        ] {
            let mut labels = good.to_vec();
            labels.push((key, value));
            let error = container(&labels).claims().unwrap_err();
            assert!(error.contains("container web") && error.contains(reason), "{key}={value}: {error}");
        }
        assert!(container(&good[..1]).claims().unwrap_err().contains("rprox.port is missing"));
        let typo = container(&[("rprox.hots", "a.example.com"), ("rprox.port", "80")]).labels;
        assert!(!asks(&typo) && misspelt("web", &typo).unwrap().contains("there is no label rprox.hots"));
        assert_eq!(misspelt("web", &container(&good[1..]).labels), None, "as an image may say");
        for (key, value) in [("rprox.path", "/x"), ("rprox.scheme", "h2c"), ("rprox.health.path", "/")] {
            let labels = [&good[..], &[("rprox.tls", "passthrough"), (key, value)]].concat();
            let error = container(&labels).claims().unwrap_err();
            assert!(error.contains(&format!("{key} is about requests")), "{error}");
        }
        let labels = [&good[..], &[("rprox.tls", "passthrough"), ("rprox.timeouts.connect", "1s")]].concat();
        assert_eq!(container(&labels).claims().unwrap()[0].tls, RouteTls::Passthrough);
    }
}
