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

use super::config::{Config, DnsConfig};
use super::dns::{DnsError, Names};
use super::forward::group::Groups;
use super::forward::pool::Pool;
use super::metrics::{Metrics, PassthroughMetrics, RouteMetrics};
use super::route::{Route, RouteTable};
use super::tls::{Kept, TlsAcceptor, TlsError};
use super::worker::Shared;

/// A configuration with all that it names.
#[derive(Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Arc<Config>,
    /// How names are looked up: as the configuration has it, with the servers of `/etc/resolv.conf` where it names none.
    pub dns: DnsConfig,
    /// TLS, and the certificates.
    pub tls: Arc<TlsAcceptor>,
    /// When it was loaded.
    pub loaded_at: SystemTime,
}

impl Loaded {
    /// Reads the certificates of `config`; `dns` is its own, with the servers that there are.
    ///
    /// # Errors
    ///
    /// When one does not load.
    pub fn new(config: Config, dns: DnsConfig, kept: &Arc<Kept>) -> Result<Self, TlsError> {
        let tls = Arc::new(TlsAcceptor::new(&config, kept)?);
        Ok(Self { config: Arc::new(config), dns, tls, loaded_at: SystemTime::now() })
    }

    /// Whether any host is, or may come to be, served over HTTPS.
    #[must_use]
    pub fn may_serve_https(&self) -> bool {
        !self.tls.is_empty()
            || self.config.podman.is_some()
            || self.config.routes.iter().any(|route| route.is_passthrough())
    }
}

/// What the whole process serves by: a configuration that is loaded, and its routes arranged.
pub struct Rules {
    loaded: Loaded,
    /// Routes by the labels of containers, besides the configuration's.
    found: Vec<Arc<Route>>,
    /// All routes.
    pub routes: RouteTable,
    /// What each worker counts of them.
    counted: Box<[Arc<Counted>]>,
}

/// What a worker counts of routes.
pub struct Counted {
    /// Of each route, by its place, and last of requests that no route is for.
    pub routes: Box<[Arc<RouteMetrics>]>,
    /// Of each route whose TLS is passed through, by its place.
    pub passthrough: HashMap<usize, Arc<PassthroughMetrics>>,
}

impl Deref for Rules {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

impl Rules {
    /// Arranges the routes of a configuration and those that labels ask for. All that takes its time with ten thousand is
    /// done here, so that a worker has little to do when rules are swapped. What `metrics`, each worker's, count of a route
    /// goes on from what they counted before.
    #[must_use]
    pub fn new(loaded: Loaded, found: Vec<Arc<Route>>, metrics: &[Arc<Metrics>]) -> Self {
        let all = || loaded.config.routes.iter().chain(&found);
        Self {
            routes: RouteTable::new(all().cloned()),
            counted: metrics.iter().map(|metrics| Arc::new(Counted::new(all(), metrics))).collect(),
            loaded,
            found,
        }
    }

    /// The configuration that they came of.
    #[must_use]
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// All routes, in the order of their [places](super::route::Match::place).
    pub fn all_routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.config.routes.iter().chain(&self.found)
    }
}

impl Counted {
    fn new<'a>(routes: impl Iterator<Item = &'a Arc<Route>> + Clone, metrics: &Metrics) -> Self {
        // The last is for requests that no route is for.
        let labels = routes.clone().map(|route| route.label.as_str()).chain([""]);
        let passthrough = routes.enumerate().filter(|(_, route)| route.is_passthrough());
        let (places, passed): (Vec<_>, Vec<_>) =
            passthrough.map(|(place, route)| (place, route.label.as_str())).unzip();
        let passed = metrics.passthrough.of(passed.into_iter());
        Self { routes: metrics.routes.of(labels), passthrough: places.into_iter().zip(passed).collect() }
    }
}

/// The rules as one worker has them, with what it made of them for itself.
pub struct Live {
    rules: Arc<Rules>,
    /// Endpoints of upstreams.
    pub names: Names,
    /// What is counted of routes.
    pub counted: Arc<Counted>,
    /// The upstreams of each route.
    pub groups: Groups,
}

impl Deref for Live {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.rules
    }
}

impl Live {
    fn new(rules: Arc<Rules>, names: Names, number: usize) -> Self {
        Self { counted: Arc::clone(&rules.counted[number]), groups: Groups::default(), names, rules }
    }
}

/// A worker's window on the rules in force. Looking costs a read of memory that only a reload writes.
pub struct View {
    shared: Arc<Shared>,
    /// The worker's, among all.
    number: usize,
    pool: Rc<Pool>,
    seen: RefCell<Seen>,
}

struct Seen {
    rules: Cache<Arc<ArcSwap<Rules>>, Arc<Rules>>,
    live: Rc<Live>,
}

impl View {
    /// The view of worker `number`, whose names tell `pool` of endpoints that are gone.
    ///
    /// # Errors
    ///
    /// When DNS can't be set up.
    pub fn new(shared: Arc<Shared>, number: usize, pool: Rc<Pool>) -> Result<Self, DnsError> {
        let rules = shared.rules.load_full();
        let names = names(&shared, &rules, &pool)?;
        let live = Rc::new(Live::new(rules, names, number));
        let seen = Seen { rules: Cache::new(Arc::clone(&shared.rules)), live };
        Ok(Self { shared, number, pool, seen: RefCell::new(seen) })
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
        if rules.dns != before.dns {
            match names(&self.shared, &rules, &self.pool) {
                Ok(new) => kept = new,
                Err(error) => tracing::error!(%error, "names are looked up as before"),
            }
        }
        kept.keep_only(|upstream| rules.routes.leads_to(upstream));
        Live::new(rules, kept, self.number)
    }
}

fn names(shared: &Shared, rules: &Rules, pool: &Rc<Pool>) -> Result<Names, DnsError> {
    let pool = Rc::clone(pool);
    Names::new(&rules.dns, Arc::clone(&shared.last_answers), move |_, gone| pool.forget(gone))
}
