//! What the workers tell each other of DNS.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::{info, warn};

use super::memory::Failure;
use super::resolver::{Found, Miss};
use crate::proxy::metrics::{Kind, Series, labelled};
use crate::proxy::upstream::Upstream;

/// The last good answer for each name, of the whole process. A worker that has not met a name yet begins with what another
/// knows of it, so that its first request need not wait, nor fail because DNS does just now. From then on the worker keeps
/// an answer of its own.
///
/// It also sees to it that what every worker meets by itself is logged once.
#[derive(Debug, Default)]
pub struct LastAnswers {
    state: Mutex<State>,
    found: AtomicI64,
    absent: AtomicI64,
    failed: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<Arc<Upstream>, (Found, Instant)>,
    /// The names that DNS fails for, and whether a last answer serves on.
    failing: HashMap<Arc<Upstream>, bool>,
}

impl LastAnswers {
    pub(super) fn get(&self, upstream: &Upstream) -> Option<(Found, Instant)> {
        self.lock().answers.get(upstream).cloned()
    }

    /// Notes an answer that came at `at`, and logs it if DNS failed before.
    pub(super) fn note(&self, upstream: &Arc<Upstream>, found: Found, at: Instant) {
        let mut state = self.lock();
        state.answers.insert(Arc::clone(upstream), (found, at));
        if state.failing.remove(upstream).is_some() {
            drop(state);
            info!(upstream = upstream.authority, "DNS has an answer for the upstream again");
        }
    }

    /// The endpoints last known of `upstream`, and how its look-ups go.
    pub fn state(&self, upstream: &Upstream) -> (Vec<SocketAddr>, &'static str) {
        if let (Some(address), Some(port)) = (upstream.address(), upstream.port) {
            return (vec![SocketAddr::new(address, port)], "not needed");
        }
        let state = self.lock();
        let endpoints = state.answers.get(upstream).map(|(found, _)| found.endpoints.clone());
        let dns = match (state.failing.get(upstream), &endpoints) {
            (None, Some(_)) => "ok",
            (None, None) => "not asked yet",
            (Some(true), _) => "fails, and the last answer serves on",
            (Some(false), _) => "fails",
        };
        (endpoints.unwrap_or_default().iter().map(|address| address.socket).collect(), dns)
    }

    /// Notes that a look-up has ended.
    pub(super) fn count(&self, outcome: &Result<Found, Miss>) {
        let counter = match outcome {
            Ok(_) => &self.found,
            Err(Miss::Absent) => &self.absent,
            Err(Miss::Failed(_)) => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// As metrics, of the names that are `wanted`: a worker that has nothing to do is slow to let go of others.
    pub fn series(&self, wanted: impl Fn(&Upstream) -> bool) -> Vec<Series> {
        let counts = [("found", &self.found), ("absent", &self.absent), ("failed", &self.failed)];
        let looked_up = counts.map(|(result, count)| labelled("result", result, count.load(Relaxed)));
        let state = self.lock();
        let failing = [("last_answer", true), ("nothing", false)];
        let failing = failing.map(|(serves, stale)| {
            let names = state.failing.iter().filter(|(name, still)| **still == stale && wanted(name)).count();
            labelled("serves", serves, i64::try_from(names).unwrap_or(i64::MAX))
        });
        vec![
            Series {
                name: "rprox_dns_look_ups",
                help: "Look-ups of upstreams' names",
                kind: Kind::Counter,
                values: looked_up.into(),
            },
            Series {
                name: "rprox_dns_failing_names",
                help: "Names that DNS fails for, by what serves instead",
                kind: Kind::Gauge,
                values: failing.into(),
            },
        ]
    }

    /// Forgets a name that DNS knows no more.
    pub(super) fn forget(&self, upstream: &Upstream) {
        self.lock().answers.remove(upstream);
    }

    /// Forgets all of a name that nobody is to ask for any more.
    pub(super) fn let_go(&self, upstream: &Upstream) {
        let mut state = self.lock();
        state.answers.remove(upstream);
        state.failing.remove(upstream);
    }

    /// Logs a failure that no other worker has met.
    pub(super) fn log(&self, upstream: &Arc<Upstream>, failure: &Failure) {
        let Failure { error, still_serves } = failure;
        let before = self.lock().failing.insert(Arc::clone(upstream), *still_serves);
        if before != Some(*still_serves) {
            let consequence = if *still_serves { "its last answer serves on" } else { "it has no endpoint" };
            warn!(upstream = upstream.authority, %error, "DNS fails for an upstream, {consequence}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if it did, each entry would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
