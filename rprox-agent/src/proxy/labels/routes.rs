//! Which of the labels' claims become routes.
//!
//! The configuration comes first: a host that it has a route for, by name or by wildcard, is its own, whatever the path. Else a
//! container could take a part of it. Of containers that ask for the same host and path all serve it, as a route's upstreams do.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::claim::Claim;
use crate::proxy::config::{Config, default_upgrade};
use crate::proxy::route::{HostPattern, Route, RouteTls, UpstreamTemplate};
use crate::proxy::upstream::set::{UpstreamSet, Weighted};

/// The routes beside those of `config`, and for each claim that has none, why.
pub(super) fn arrange(claims: &[Claim], config: &Config) -> (Vec<Arc<Route>>, BTreeSet<String>) {
    let mut refused = BTreeSet::new();
    let mut by_match: BTreeMap<(&str, &str), Vec<&Claim>> = BTreeMap::new();
    // A host's TLS is one's business or another's, whatever the path.
    let mut eldest: BTreeMap<&str, &Claim> = BTreeMap::new();
    let mut eldest_first: Vec<_> = claims.iter().collect();
    eldest_first.sort();
    for claim in eldest_first {
        let group = by_match.entry((&claim.host, &claim.path)).or_default();
        if let Some(reason) = refusal(claim, eldest.get(claim.host.as_str()).copied(), group, config) {
            let Claim { host, path, container, .. } = claim;
            refused
                .insert(format!("no route {host}{path} for the labels of container {container}: {reason}"));
        } else {
            eldest.entry(&claim.host).or_insert(claim);
            group.push(claim);
        }
    }
    let routes = by_match.into_values().filter_map(|claims| route(&claims, config));
    (routes.map(Arc::new).collect(), refused)
}

/// Why `claim` can't be one of `others` on a host that is `eldest`'s, if it can't.
fn refusal(claim: &Claim, eldest: Option<&Claim>, others: &[&Claim], config: &Config) -> Option<String> {
    let podman = config.podman.as_ref()?;
    if !podman.networks.contains(&claim.network) {
        return Some(format!("podman.networks does not name {}", claim.network));
    }
    if !podman.allows(&claim.host) {
        return Some("podman.hosts does not allow the host".to_owned());
    }
    let patterns = config.routes.iter().map(|route| &route.host);
    let mut ours = patterns.filter(|pattern| **pattern != HostPattern::Any && pattern.covers(&claim.host));
    if let Some(pattern) = ours.next() {
        return Some(format!("the configuration has the route of {pattern}"));
    }
    if let Some(eldest) = eldest.filter(|eldest| eldest.tls != claim.tls) {
        return Some(format!("rprox.tls is another one than that of {}", eldest.container));
    }
    let first = others.first()?;
    let different = if first.https_redirect == claim.https_redirect {
        first.terms.difference(&claim.terms)?
    } else {
        "https_redirect"
    };
    Some(format!("rprox.{different} is another one than that of {}", first.container))
}

/// The route of claims for the same host and path; none where nobody asks.
fn route(claims: &[&Claim], config: &Config) -> Option<Route> {
    config.podman.as_ref()?;
    let first = claims.first()?;
    let weighted = |claim: &&Claim| {
        Some(Weighted { upstream: Arc::new(claim.upstream()?), weight: claim.weight, ca: None })
    };
    let upstreams: Box<[_]> = claims.iter().filter_map(weighted).collect();
    let label = upstreams.iter().map(|weighted| weighted.upstream.authority.as_str()).collect::<Vec<_>>();
    let terms = first.terms.read(&first.path, &config.timeouts).ok()?;
    let set = UpstreamSet {
        label: label.join(", "),
        upstreams,
        balance: terms.balance,
        sticky: terms.sticky,
        health: terms.health.map(Arc::new),
        timeouts: terms.timeouts,
        proxy_protocol: None,
    };
    let is_passthrough = first.tls == RouteTls::Passthrough;
    Some(Route {
        label: if is_passthrough { first.host.clone() } else { format!("{}{}", first.host, first.path) },
        host: HostPattern::Exact(first.host.clone()),
        path: first.path.clone(),
        tls: first.tls,
        upstream: UpstreamTemplate::Plain(Arc::new(set)),
        https_redirect: first.https_redirect,
        client_auth: None,
        hsts: config.hsts.clone().filter(|_| !is_passthrough),
        upgrade: default_upgrade(),
    })
}
