//! Upstreams and their endpoints, as the whole process sees them.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use serde::Serialize;

use crate::proxy::live::Rules;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::Shared;

/// Endpoints that are listed; the others are only counted.
const LISTED: usize = 1000;

#[derive(Serialize)]
pub(super) struct UpstreamStatus<'a> {
    name: &'a str,
    dns: &'static str,
    endpoints: Vec<EndpointStatus>,
    /// Those beyond the number that is listed.
    more_endpoints: usize,
}

#[derive(Serialize)]
struct EndpointStatus {
    address: SocketAddr,
    state: State,
    requests_running: i64,
    /// Each worker finds out by itself.
    left_out_by_workers: i64,
}

/// What comes first holds, where more than one does.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Its upstream has no weight on any route.
    Draining,
    /// It fails a health check.
    Unhealthy,
    /// A worker leaves it out since it failed.
    LeftOut,
    /// Nothing is known against it.
    Healthy,
}

/// What workers count of an endpoint.
#[derive(Clone, Copy, Default)]
struct Counts {
    running: i64,
    left_out: i64,
}

/// All upstreams of `rules`, by name.
pub(super) fn all<'a>(shared: &Shared, rules: &'a Rules) -> Vec<UpstreamStatus<'a>> {
    let counts = counts(shared);
    let healthy = shared.health.endpoints();
    #[expect(clippy::mutable_key_type, reason = "two upstreams are compared by what never changes in them")]
    let serving = serving(rules);
    let mut upstreams: Vec<_> = rules.routes.upstreams().collect();
    upstreams.sort_unstable_by_key(|upstream| &upstream.authority);
    let mut room = LISTED;
    let status = |upstream: &'a Upstream| {
        let (mut addresses, dns) = shared.last_answers.state(upstream);
        let more_endpoints = addresses.len().saturating_sub(room);
        addresses.truncate(room);
        room -= addresses.len();
        let endpoints = addresses.into_iter().map(|address| {
            let Counts { running, left_out } = counts.get(&address).copied().unwrap_or_default();
            let state = match healthy.get(&address) {
                _ if !serving.contains(upstream) => State::Draining,
                Some(false) => State::Unhealthy,
                _ if left_out > 0 => State::LeftOut,
                _ => State::Healthy,
            };
            EndpointStatus { address, state, requests_running: running, left_out_by_workers: left_out }
        });
        UpstreamStatus { name: &upstream.authority, dns, endpoints: endpoints.collect(), more_endpoints }
    };
    upstreams.into_iter().map(status).collect()
}

/// The upstreams that any route gives requests to.
#[expect(clippy::mutable_key_type, reason = "two upstreams are compared by what never changes in them")]
fn serving(rules: &Rules) -> HashSet<&Upstream> {
    let sets = rules.all_routes().flat_map(|route| route.upstream.sets());
    let weighted = sets.flat_map(|set| &set.upstreams).filter(|weighted| weighted.weight > 0);
    weighted.map(|weighted| weighted.upstream.as_ref()).collect()
}

fn counts(shared: &Shared) -> HashMap<SocketAddr, Counts> {
    let mut counts: HashMap<SocketAddr, Counts> = HashMap::new();
    for (address, metrics) in shared.metrics.iter().flat_map(|worker| worker.endpoints.all()) {
        let Some(address) = address else { continue };
        let sum = counts.entry(address).or_default();
        sum.running += metrics.running.get();
        sum.left_out += metrics.left_out.get();
    }
    counts
}
