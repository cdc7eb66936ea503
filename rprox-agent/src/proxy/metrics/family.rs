//! Metrics that are told apart by what is only known while the agent runs: routes and endpoints.
//!
//! Those of one label begin a cache line, so that no other worker writes to it. The counts of owners that an `Arc` has before
//! them take the line before: two workers' are two lines apart, and a processor that fetches lines by twos has no more than these.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cell::{Counter, Gauge, Labelled};
use super::{Class, Histogram, Label};

/// Endpoints that are told apart; what is beyond them is counted together, so that no name server can fill the memory.
const ENDPOINTS: usize = 1000;

/// What a worker counts of one route.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RouteMetrics {
    /// Requests, by their response's status.
    pub requests: Labelled<Class, Counter, { Class::VALUES.len() }>,
    /// Bytes of responses' bodies.
    pub response_bytes: Counter,
    /// How long requests took, from head to the end of the response. Tunnels are not among them.
    pub duration: Histogram,
}

/// What a worker counts of one route whose TLS is passed through.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PassthroughMetrics {
    /// Connections that an endpoint has taken.
    pub connections: Counter,
    /// Those of them that are open.
    pub open: Gauge,
    /// Connections that no endpoint has taken.
    pub failures: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub sent: Counter,
}

/// What a worker counts of one endpoint.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointMetrics {
    /// Connections made.
    pub connects: Counter,
    /// Connections that could not be made.
    pub connect_failures: Counter,
    /// Requests on a connection that was there.
    pub reuses: Counter,
    /// Requests that it did not answer, or not with HTTP.
    pub failures: Counter,
    /// Requests that it serves now.
    pub running: Gauge,
    /// 1 while it is left out since it failed.
    pub left_out: Gauge,
}

/// A worker's metrics of one kind, by their label. Locked when one is first met, and by who scrapes.
#[derive(Debug)]
pub struct Family<K, M>(Mutex<HashMap<K, Arc<M>>>);

impl<K, M> Default for Family<K, M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, M> Family<K, M> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<M>>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone, M> Family<K, M> {
    /// All of them as they are now.
    pub fn all(&self) -> Vec<(K, Arc<M>)> {
        self.lock().iter().map(|(label, metrics)| (label.clone(), Arc::clone(metrics))).collect()
    }
}

impl<M: Default> Family<String, M> {
    /// Those of these routes, in their order. Routes that are not among them are forgotten.
    pub fn of<'a>(&self, labels: impl Iterator<Item = &'a str>) -> Box<[Arc<M>]> {
        let mut routes = self.lock();
        let mut before = std::mem::take(&mut *routes);
        labels
            .map(|label| {
                let metrics = before.remove(label).unwrap_or_default();
                Arc::clone(routes.entry(label.to_owned()).or_insert(metrics))
            })
            .collect()
    }
}

impl Family<Option<SocketAddr>, EndpointMetrics> {
    /// Those of the endpoint at `address`.
    pub fn of(&self, address: SocketAddr) -> Arc<EndpointMetrics> {
        let mut endpoints = self.lock();
        let known = endpoints.contains_key(&Some(address)) || endpoints.len() < ENDPOINTS;
        Arc::clone(endpoints.entry(known.then_some(address)).or_default())
    }
}
