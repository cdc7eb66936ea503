//! The metrics of routes and endpoints, summed over all workers.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proxy::metrics::{
    Class, Counter, EndpointMetrics, Kind, Label, Labels, Metrics, PassthroughMetrics, RouteMetrics, Series,
    Sum, Value,
};

/// The series of routes. A request that no route is for has an empty label.
pub(super) fn routes(workers: &[Arc<Metrics>]) -> Vec<Series> {
    let mut by_route: BTreeMap<String, Vec<Arc<RouteMetrics>>> = BTreeMap::new();
    for (route, metrics) in workers.iter().flat_map(|worker| worker.routes.all()) {
        by_route.entry(route).or_default().push(metrics);
    }
    let (mut requests, mut bytes, mut durations) = (Vec::new(), Vec::new(), Vec::new());
    for (route, metrics) in by_route {
        let label = ("route", route);
        for (place, class) in Class::VALUES.iter().enumerate() {
            let count = metrics.iter().filter_map(|metrics| metrics.requests.iter().nth(place));
            let labels = vec![label.clone(), ("code", (*class).to_owned())];
            requests.push((labels, Value::Number(count.map(Counter::get).sum())));
        }
        let sum = metrics.iter().map(|metrics| metrics.response_bytes.get()).sum();
        bytes.push((vec![label.clone()], Value::Number(sum)));
        let mut sum = Sum::default();
        for metrics in metrics {
            metrics.duration.add_to(&mut sum);
        }
        durations.push((vec![label], Value::Durations(sum)));
    }
    let counter = Kind::Counter;
    vec![
        series("rprox_requests", "Requests by route and class of their response's status", counter, requests),
        series("rprox_response_bytes", "Bytes of responses' bodies", counter, bytes),
        series(
            "rprox_request_duration_seconds",
            "Time from a request's head to the end of its response, without tunnels",
            Kind::Histogram,
            durations,
        ),
    ]
}

/// The series of routes whose TLS is passed through.
pub(super) fn passthrough(workers: &[Arc<Metrics>]) -> Vec<Series> {
    let mut by_route: BTreeMap<String, Vec<Arc<PassthroughMetrics>>> = BTreeMap::new();
    for (route, metrics) in workers.iter().flat_map(|worker| worker.passthrough.all()) {
        by_route.entry(route).or_default().push(metrics);
    }
    let sum = |more: &[(&'static str, &str)], count: fn(&PassthroughMetrics) -> i64| {
        let sums = by_route.iter().map(|(route, metrics)| {
            let more = more.iter().map(|(label, value)| (*label, (*value).to_owned()));
            let labels = [("route", route.clone())].into_iter().chain(more).collect();
            (labels, Value::Number(metrics.iter().map(|metrics| count(metrics)).sum()))
        });
        sums.collect::<Vec<(Labels, Value)>>()
    };
    let bytes = [
        sum(&[("direction", "received")], |of| of.received.get()),
        sum(&[("direction", "sent")], |of| of.sent.get()),
    ];
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    vec![
        series(
            "rprox_passthrough_connections",
            "Connections whose TLS was passed through to an endpoint",
            counter,
            sum(&[], |of| of.connections.get()),
        ),
        series(
            "rprox_passthrough_connections_open",
            "Those of them that are open",
            gauge,
            sum(&[], |of| of.open.get()),
        ),
        series(
            "rprox_passthrough_failures",
            "Connections to be passed through that no endpoint took",
            counter,
            sum(&[], |of| of.failures.get()),
        ),
        series(
            "rprox_passthrough_bytes",
            "Bytes received from clients, and sent to them",
            counter,
            bytes.concat(),
        ),
    ]
}

/// The series of endpoints.
pub(super) fn endpoints(workers: &[Arc<Metrics>]) -> Vec<Series> {
    let mut by_endpoint: BTreeMap<Option<SocketAddr>, Vec<Arc<EndpointMetrics>>> = BTreeMap::new();
    for (endpoint, metrics) in workers.iter().flat_map(|worker| worker.endpoints.all()) {
        by_endpoint.entry(endpoint).or_default().push(metrics);
    }
    let sum = |count: fn(&EndpointMetrics) -> i64| {
        let sums = by_endpoint.iter().map(|(endpoint, metrics)| {
            let endpoint = endpoint.map_or_else(|| "others".to_owned(), |endpoint| endpoint.to_string());
            let sum = metrics.iter().map(|metrics| count(metrics)).sum();
            (vec![("endpoint", endpoint)], Value::Number(sum))
        });
        sums.collect()
    };
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    [
        ("rprox_upstream_connects", "Connections made to an endpoint", counter, sum(|of| of.connects.get())),
        (
            "rprox_upstream_connect_failures",
            "Connections to an endpoint that could not be made",
            counter,
            sum(|of| of.connect_failures.get()),
        ),
        (
            "rprox_upstream_reuses",
            "Requests on a connection that was there",
            counter,
            sum(|of| of.reuses.get()),
        ),
        (
            "rprox_upstream_failures",
            "Requests that an endpoint did not answer, or not with HTTP",
            counter,
            sum(|of| of.failures.get()),
        ),
        (
            "rprox_upstream_requests_running",
            "Requests that an endpoint serves now",
            gauge,
            sum(|of| of.running.get()),
        ),
        (
            "rprox_upstream_left_out",
            "Workers that leave an endpoint out since it failed",
            gauge,
            sum(|of| of.left_out.get()),
        ),
    ]
    .map(|(name, help, kind, values)| series(name, help, kind, values))
    .into()
}

fn series(name: &'static str, help: &'static str, kind: Kind, values: Vec<(Labels, Value)>) -> Series {
    Series { name, help, kind, values }
}
