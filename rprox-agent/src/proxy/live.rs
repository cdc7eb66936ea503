//! What the configuration decides, which a reload swaps as a whole while requests run.
//!
//! Whoever begins something asks for the rules in force once and keeps to them to the end: a request is routed, timed and
//! logged by one configuration, whatever is swapped meanwhile, and the next one, on the same connection too, goes by the
//! new one. A connection keeps what it was opened with: its certificate, and the sizes that its HTTP was set up for.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Cache};
use foldhash::HashMap;
use hyper::server::conn::http1;

use super::config::Config;
use super::dns::{DnsError, Names};
use super::forward::group::Groups;
use super::forward::pool::Pool;
use super::metrics::{Metrics, PassthroughMetrics, RouteMetrics};
use super::route::{Route, RouteTable};
use super::tls::{Kept, TlsAcceptor, TlsError};
use super::worker::{Shared, http1_server, http2_server};

/// A configuration ready to serve by, of the whole process.
pub struct Rules {
    /// The configuration.
    pub config: Config,
    /// Routes by the labels of containers, besides the configuration's.
    pub found: Vec<Route>,
    /// All routes.
    pub routes: RouteTable,
    /// TLS, and the certificates.
    pub tls: Arc<TlsAcceptor>,
    /// When it was made ready.
    pub loaded_at: SystemTime,
}

impl Rules {
    /// Makes a configuration ready: certificates read, routes arranged.
    ///
    /// # Errors
    ///
    /// When a certificate does not load.
    pub fn new(config: Config, kept: &Arc<Kept>) -> Result<Self, TlsError> {
        let tls = Arc::new(TlsAcceptor::new(&config, kept)?);
        let routes = RouteTable::new(config.routes.clone());
        Ok(Self { found: Vec::new(), routes, tls, loaded_at: SystemTime::now(), config })
    }

    /// The same with other routes by labels.
    #[must_use]
    pub fn with(&self, found: Vec<Route>) -> Self {
        let all = self.config.routes.iter().chain(&found).cloned().collect();
        Self {
            routes: RouteTable::new(all),
            found,
            tls: Arc::clone(&self.tls),
            loaded_at: self.loaded_at,
            config: self.config.clone(),
        }
    }

    /// Whether any host is, or may come to be, served over HTTPS.
    #[must_use]
    pub fn may_serve_https(&self) -> bool {
        !self.tls.is_empty() || self.routes.passes_through() || self.config.podman.is_some()
    }

    /// All routes, in the order of their [places](super::route::Match::place).
    pub fn all_routes(&self) -> impl Iterator<Item = &Route> {
        self.config.routes.iter().chain(&self.found)
    }
}

/// The rules as one worker has them, with what it made of them for itself.
pub struct Live {
    rules: Arc<Rules>,
    /// Endpoints of upstreams.
    pub names: Names,
    /// What is counted of each route, by its place, and last of requests that no route is for.
    pub route_metrics: Box<[Arc<RouteMetrics>]>,
    /// What is counted of each route whose TLS is passed through, by its place.
    pub passthrough_metrics: HashMap<usize, Arc<PassthroughMetrics>>,
    /// The upstreams of each route.
    pub groups: Groups,
    /// How to serve HTTP/1.1.
    pub http1: http1::Builder,
    /// How to serve HTTP/2.
    pub http2: h2::server::Builder,
}

impl Deref for Live {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.rules
    }
}

impl Live {
    fn new(rules: Arc<Rules>, names: Names, metrics: &Metrics) -> Self {
        let limits = &rules.config.limits;
        // The last is for requests that no route is for.
        let labels = rules.all_routes().map(|route| route.label.as_str()).chain([""]);
        let passthrough = rules.all_routes().enumerate().filter(|(_, route)| route.is_passthrough());
        let (places, passed): (Vec<_>, Vec<_>) =
            passthrough.map(|(place, route)| (place, route.label.as_str())).unzip();
        let passed = metrics.passthrough.of(passed.into_iter());
        Self {
            http1: http1_server(limits),
            http2: http2_server(limits),
            route_metrics: metrics.routes.of(labels),
            passthrough_metrics: places.into_iter().zip(passed).collect(),
            groups: Groups::default(),
            names,
            rules,
        }
    }
}

/// A worker's window on the rules in force. Looking costs a read of memory that only a reload writes.
pub struct View {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    pool: Rc<Pool>,
    seen: RefCell<Seen>,
}

struct Seen {
    rules: Cache<Arc<ArcSwap<Rules>>, Arc<Rules>>,
    live: Rc<Live>,
}

impl View {
    /// A view whose names tell `pool` of endpoints that are gone.
    ///
    /// # Errors
    ///
    /// When DNS can't be set up.
    pub fn new(shared: Arc<Shared>, metrics: Arc<Metrics>, pool: Rc<Pool>) -> Result<Self, DnsError> {
        let rules = shared.rules.load_full();
        let names = names(&shared, &rules, &pool)?;
        let live = Rc::new(Live::new(rules, names, &metrics));
        let seen = Seen { rules: Cache::new(Arc::clone(&shared.rules)), live };
        Ok(Self { shared, metrics, pool, seen: RefCell::new(seen) })
    }

    /// The rules in force now.
    pub fn live(&self) -> Rc<Live> {
        let mut seen = self.seen.borrow_mut();
        let Seen { rules, live } = &mut *seen;
        let rules = rules.load();
        if !Arc::ptr_eq(rules, &live.rules) {
            *live = Rc::new(self.adopt(Arc::clone(rules), live));
        }
        Rc::clone(live)
    }

    /// Other rules are in force. What is known of names stays, unless they are to be looked up in another way; what no
    /// route leads to any more is let go.
    fn adopt(&self, rules: Arc<Rules>, before: &Live) -> Live {
        let mut kept = before.names.clone();
        if rules.config.dns != before.config.dns {
            match names(&self.shared, &rules, &self.pool) {
                Ok(new) => kept = new,
                Err(error) => tracing::error!(%error, "names are looked up as before"),
            }
        }
        kept.keep_only(|upstream| rules.routes.leads_to(upstream));
        Live::new(rules, kept, &self.metrics)
    }
}

fn names(shared: &Shared, rules: &Rules, pool: &Rc<Pool>) -> Result<Names, DnsError> {
    let pool = Rc::clone(pool);
    Names::new(&rules.config.dns, Arc::clone(&shared.last_answers), move |_, gone| pool.forget(gone))
}
