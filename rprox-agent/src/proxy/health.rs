//! Active health checks: one request after the other to each endpoint of a route that wants it, once for the whole process.
//!
//! The main thread asks, and workers read what came of it: a flag for each endpoint and check, which they look up when they
//! arrange a route's endpoints and from then on just read.

#![forbid(unsafe_code)]

mod check;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::config::DnsConfig;
use super::dns::Names;
use super::forward::endpoint::Way;
use super::live::Rules;
use super::metrics::{Kind, Series, labelled};
use super::proxy_protocol::Version;
use super::upstream::Upstream;
use super::upstream::set::{HealthCheck, UpstreamSet};
use super::worker::Shared;

/// The time between the first checks of two sets, so that ten thousand of them don't begin at once.
const SPACING: Duration = Duration::from_millis(1);

/// How often endpoints that nobody knows any more are forgotten.
const TIDYING: Duration = Duration::from_secs(1);

/// What a check has come to for an endpoint.
#[derive(Debug)]
pub struct Verdict(AtomicBool);

impl Verdict {
    /// Whether the endpoint is well, or not known not to be.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.0.load(Relaxed)
    }
}

type Verdicts = HashMap<(Way, Arc<HealthCheck>), Arc<Verdict>>;

/// The verdicts of the whole process. They outlive a reload that leaves a check as it is.
#[derive(Debug, Default)]
pub struct Board(Mutex<Verdicts>);

impl Board {
    /// What `check` says of the endpoint, now and from now on.
    pub fn verdict(&self, way: &Way, check: &Arc<HealthCheck>) -> Arc<Verdict> {
        let mut verdicts = self.lock();
        let verdict = verdicts.entry((way.clone(), Arc::clone(check)));
        Arc::clone(verdict.or_insert_with(|| Arc::new(Verdict(AtomicBool::new(true)))))
    }

    /// Whether the endpoints are well, by all checks that concern them.
    pub fn endpoints(&self) -> BTreeMap<SocketAddr, bool> {
        let mut healthy = BTreeMap::new();
        for ((way, _), verdict) in self.lock().iter() {
            *healthy.entry(way.address).or_insert(true) &= verdict.is_healthy();
        }
        healthy
    }

    /// The same as a metric.
    pub fn series(&self) -> Series {
        let healthy = self.endpoints().into_iter();
        let values = healthy.map(|(at, healthy)| labelled("endpoint", at.to_string(), healthy.into()));
        Series {
            name: "rprox_endpoint_healthy",
            help: "Whether an endpoint passes its health checks",
            kind: Kind::Gauge,
            values: values.collect(),
        }
    }

    /// Forgets endpoints that neither a worker nor a check knows any more.
    fn tidy(&self) {
        self.lock().retain(|_, verdict| Arc::strong_count(verdict) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, Verdicts> {
        // Nothing panics while it is held; if it did, each entry would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks what the rules in force want checked, for ever.
pub async fn run(shared: Arc<Shared>) {
    let mut swapped = shared.swapped.subscribe();
    let mut checks = Checks { running: HashMap::new(), names: None };
    loop {
        let rules = shared.rules.load_full();
        checks.follow(&rules, &shared);
        drop(rules);
        while timeout(TIDYING, swapped.changed()).await.is_err() {
            shared.health.tidy();
        }
    }
}

/// What checks of a set go by. Sets that agree in it share them, also over a swap of the rules: a check that is as it was
/// goes on in its own time.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Wanted {
    upstreams: Vec<Arc<Upstream>>,
    check: Arc<HealthCheck>,
    proxy_protocol: Option<Version>,
}

impl Wanted {
    fn by(set: &UpstreamSet) -> Option<Self> {
        let upstreams = set.upstreams.iter().map(|weighted| Arc::clone(&weighted.upstream)).collect();
        Some(Self { upstreams, check: set.health.clone()?, proxy_protocol: set.proxy_protocol })
    }
}

/// The checks that run.
struct Checks {
    running: HashMap<Wanted, AbortHandle>,
    /// What they know of names, and what that was set up by.
    names: Option<(DnsConfig, Names)>,
}

impl Checks {
    /// Has those run that `rules` want, and no others.
    fn follow(&mut self, rules: &Rules, shared: &Arc<Shared>) {
        let sets = rules.all_routes().flat_map(|route| route.upstream.sets());
        #[expect(clippy::mutable_key_type, reason = "upstreams are compared by what never changes in them")]
        let wanted: HashSet<_> = sets.filter_map(|set| Wanted::by(set)).collect();
        if wanted.is_empty() {
            self.names = None;
        } else if self.names.as_ref().is_none_or(|(config, _)| *config != rules.dns) {
            match Names::new(&rules.dns, Arc::clone(&shared.last_answers), |_, _| {}) {
                Ok(names) => {
                    self.keep_only(|_| false);
                    self.names = Some((rules.dns.clone(), names));
                }
                Err(error) => {
                    tracing::error!(%error, "health checks can't look names up in the new way");
                }
            }
        }
        self.keep_only(|running| wanted.contains(running));
        let Some((_, names)) = &self.names else { return };
        names.keep_only(|upstream| rules.routes.leads_to(upstream));
        let mut start = Instant::now();
        for new in wanted {
            self.running.entry(new).or_insert_with_key(|new| {
                let watch = watch(new.clone(), start, names.clone(), Arc::clone(shared));
                start += SPACING;
                tokio::task::spawn_local(watch).abort_handle()
            });
        }
    }

    fn keep_only(&mut self, wanted: impl Fn(&Wanted) -> bool) {
        for (_, task) in self.running.extract_if(|running, _| !wanted(running)) {
            task.abort();
        }
    }
}

/// How the checks of one endpoint went lately.
struct Tally {
    verdict: Arc<Verdict>,
    /// Results in a row that say otherwise than the verdict.
    against: u32,
    /// Whether any check has ended: the first decides at once.
    checked: bool,
}

/// Checks the endpoints of `wanted` from `start` on, again and again.
async fn watch(wanted: Wanted, start: Instant, names: Names, shared: Arc<Shared>) {
    let Wanted { upstreams, check, proxy_protocol } = &wanted;
    sleep_until(start).await;
    #[expect(clippy::mutable_key_type, reason = "two ways are compared by what never changes in them")]
    let mut tallies: HashMap<Way, Tally> = HashMap::new();
    loop {
        let started = Instant::now();
        let mut endpoints: Vec<(Way, &Arc<Upstream>)> = Vec::new();
        for upstream in upstreams {
            // One name that is silent must not hold up the others.
            let known = timeout(check.timeout, names.endpoints(upstream)).await;
            if let Ok(Ok(known)) = known {
                endpoints.extend(known.iter().map(|known| (Way::new(known.socket, upstream), upstream)));
            }
        }
        tallies.retain(|way, _| endpoints.iter().any(|(known, _)| known == way));
        let config = Arc::clone(&shared.rules.load().config);
        let checks = endpoints.iter().map(async |(way, upstream)| {
            let preface = proxy_protocol.map(Version::own_header);
            let passed = check::passes(check, way, upstream, &config, preface.as_deref()).await;
            (way, passed)
        });
        for (way, passed) in join_all(checks).await {
            let tally = tallies.entry(way.clone()).or_insert_with(|| Tally {
                verdict: shared.health.verdict(way, check),
                against: 0,
                checked: false,
            });
            tally.count(check, way, passed);
        }
        // Checks of many agents should not come at the same moments for ever.
        let pause = check.interval.mul_f64(0.9 + fastrand::f64() / 5.0);
        sleep_until(started + pause.max(Duration::from_millis(10))).await;
    }
}

impl Tally {
    fn count(&mut self, check: &HealthCheck, way: &Way, passed: Result<(), String>) {
        let healthy = self.verdict.is_healthy();
        let first = !std::mem::replace(&mut self.checked, true);
        if passed.is_ok() == healthy {
            self.against = 0;
            return;
        }
        self.against += 1;
        let needed = if healthy { check.unhealthy } else { check.healthy };
        if self.against < needed && !first {
            return;
        }
        self.against = 0;
        self.verdict.0.store(!healthy, Relaxed);
        match passed {
            Ok(()) => tracing::info!(endpoint = %way.address, path = %check.path, "healthy again"),
            Err(reason) => {
                tracing::warn!(endpoint = %way.address, path = %check.path, reason, "unhealthy: left out");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_check_decides_and_then_so_many_in_a_row() {
        let check = HealthCheck { healthy: 2, unhealthy: 3, ..HealthCheck::default() };
        let way = Way::new("10.0.0.1:80".parse().unwrap(), &Upstream::parse("a:80", None).unwrap());
        let verdict = Board::default().verdict(&way, &Arc::new(check.clone()));
        let mut tally = Tally { verdict, against: 0, checked: false };
        let mut count = |passed: bool| {
            tally.count(&check, &way, passed.then_some(()).ok_or_else(|| "500".to_owned()));
            tally.verdict.is_healthy()
        };
        assert!(!count(false), "the first");
        assert_eq!([true, true].map(&mut count), [false, true]);
        assert_eq!(
            [false, false, true, false, false, false].map(&mut count),
            [true, true, true, true, true, false]
        );
    }
}
