//! What upstream names resolve to: one view of DNS for each worker.
//!
//! A name is looked up when the first request needs it, and from then on a task keeps its answer fresh, ahead of the
//! answer's expiry, for as long as requests ask for the name. So only the first request for a name ever waits for DNS: the
//! first of all workers', as one begins with what another knows. What a failed look-up means for the last good answer is
//! `memory`'s to say.

#![forbid(unsafe_code)]

mod address;
mod last_answers;
mod memory;
mod resolver;
mod servers;
mod system;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

pub use self::address::Address;
pub use self::last_answers::LastAnswers;
use self::memory::{Memory, Settled};
pub use self::resolver::RESOLV_CONF;
use self::resolver::{Found, Miss, Resolver, system_servers};
pub use self::system::SystemNames;
use super::config::DnsConfig;
use super::timer::{sleep_until, timeout};
use super::upstream::Upstream;

/// How long a name that no request asks for is still kept fresh. After it the name is forgotten, and the next request for it
/// waits for a look-up again.
const FORGET_AFTER: Duration = Duration::from_mins(10);

/// The least time between two look-ups of a name, however often connecting to it fails.
const LOOK_UP_SPACING: Duration = Duration::from_millis(100);

/// How long [`Names::refresh`] waits before it makes do with the answer there is. A server nearby answers in far less, and a
/// request that has failed to connect once has no time to lose on one that doesn't.
const REFRESH_WAIT: Duration = Duration::from_millis(500);

/// Why a name has no endpoints.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DnsError {
    /// `/etc/resolv.conf` is needed and can't be read.
    #[error("/etc/resolv.conf: {0}; DNS servers can be given with dns.servers or --dns-server")]
    ResolvConf(String),
    /// `/etc/resolv.conf` names no server.
    #[error("/etc/resolv.conf names no DNS server; give one with dns.servers or --dns-server")]
    NoServers,
    /// The resolver can't be set up.
    #[error("the DNS resolver can't be set up: {0}")]
    Setup(String),
    /// DNS says that there is nothing by that name.
    #[error("DNS has no address for {name}; is that pod running, on a network that the DNS server serves?")]
    Absent {
        /// The name.
        name: String,
    },
    /// DNS gave no usable answer.
    #[error("DNS look-up of {name} failed: {reason}; is the DNS server up and reachable?")]
    Failed {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// `config` with the servers that `/etc/resolv.conf` names now, where it names none.
///
/// # Errors
///
/// When that can't be read, or names none either.
pub fn with_servers(config: &DnsConfig) -> Result<DnsConfig, DnsError> {
    let servers = if config.servers.is_empty() { system_servers()? } else { config.servers.clone() };
    Ok(DnsConfig { servers, ..config.clone() })
}

/// A worker's view of DNS: the endpoints of every name in use. Its futures must run on a
/// [`LocalSet`](tokio::task::LocalSet), where it spawns its tasks; they end when the last clone is dropped.
#[derive(Clone)]
pub struct Names(Rc<Shared>);

struct Shared {
    resolver: Rc<Resolver>,
    config: DnsConfig,
    last_answers: Arc<LastAnswers>,
    entries: RefCell<HashMap<Arc<Upstream>, Rc<Entry>>>,
    on_gone: Box<OnGone>,
}

type OnGone = dyn Fn(&Upstream, &[SocketAddr]);

/// What is known of a name.
struct Entry {
    memory: RefCell<Memory>,
    /// Whether a request has asked since the task last looked.
    used: Cell<bool>,
    /// How many look-ups have begun.
    begun: Cell<u64>,
    /// How many have come to something: one less where the last one begun has yet to.
    ended: Cell<u64>,
    /// Tells those who wait that there is something new.
    news: Notify,
    /// Whether a look-up is wanted that begins now.
    is_wanted: Cell<bool>,
    /// Tells the task to look at that.
    wanted: Notify,
}

impl Names {
    /// A view that knows what `last_answers` has. `on_gone` is told of addresses that left an upstream's answer, so that
    /// idle connections to them can be dropped.
    ///
    /// # Errors
    ///
    /// When `/etc/resolv.conf` is needed and can't be read, or names no server.
    pub fn new(
        config: &DnsConfig,
        last_answers: Arc<LastAnswers>,
        on_gone: impl Fn(&Upstream, &[SocketAddr]) + 'static,
    ) -> Result<Self, DnsError> {
        Ok(Self(Rc::new(Shared {
            resolver: Rc::new(Resolver::new(config)?),
            config: config.clone(),
            last_answers,
            entries: RefCell::default(),
            on_gone: Box::new(on_gone),
        })))
    }

    /// The endpoints of `upstream`, in a stable order: at once when they are known, or known to be missing, else by a
    /// look-up that all who wait share.
    ///
    /// # Errors
    ///
    /// When the name does not resolve.
    pub async fn endpoints(&self, upstream: &Arc<Upstream>) -> Result<Rc<[Address]>, DnsError> {
        let entry = self.entry(upstream);
        loop {
            if let Some(answer) = entry.memory.borrow().answer() {
                return answer;
            }
            entry.news.notified().await;
        }
    }

    /// The endpoints of `upstream`, if they are known; else they are looked up, and [`endpoints`](Self::endpoints) waits for
    /// them.
    #[must_use]
    pub fn known(&self, upstream: &Arc<Upstream>) -> Option<Result<Rc<[Address]>, DnsError>> {
        self.entry(upstream).memory.borrow().answer()
    }

    /// The endpoints of `upstream` by a look-up that begins now, for after a failed connection. Those who ask at the same
    /// time share one, a name is looked up at most every 100 ms, and after half a second without news the answer there is
    /// has to do.
    ///
    /// # Errors
    ///
    /// When the name does not resolve and no earlier answer serves.
    pub async fn refresh(&self, upstream: &Arc<Upstream>) -> Result<Rc<[Address]>, DnsError> {
        let entry = self.entry(upstream);
        if upstream.address().is_none() {
            // One that is under way may have asked before whatever made the connection fail.
            let too_early = entry.begun.get();
            entry.is_wanted.set(true);
            entry.wanted.notify_one();
            let news = async {
                while entry.ended.get() <= too_early {
                    entry.news.notified().await;
                }
            };
            // The answer is asked for whether or not there is news.
            let _ = timeout(REFRESH_WAIT, news).await;
        }
        self.endpoints(upstream).await
    }

    /// Forgets the names that nobody is to ask for any more, and has their connections dropped.
    pub fn keep_only(&self, wanted: impl Fn(&Upstream) -> bool) {
        let forgotten: Vec<_> =
            self.0.entries.borrow_mut().extract_if(|upstream, _| !wanted(upstream)).collect();
        for (upstream, entry) in forgotten {
            let endpoints = entry.memory.borrow().answer();
            if let Some(Ok(endpoints)) = endpoints {
                let gone: Vec<_> = endpoints.iter().map(|address| address.socket).collect();
                (self.0.on_gone)(&upstream, &gone);
            }
            self.0.last_answers.let_go(&upstream);
            // Its task sees that the name is gone.
            entry.is_wanted.set(true);
            entry.wanted.notify_one();
        }
    }

    fn entry(&self, upstream: &Arc<Upstream>) -> Rc<Entry> {
        if let Some(entry) = self.0.entries.borrow().get(upstream) {
            entry.used.set(true);
            return Rc::clone(entry);
        }
        let literal = upstream.address().and_then(|address| Some(SocketAddr::new(address, upstream.port?)));
        let mut memory = Memory::new(&self.0.config, literal);
        if let Some((found, at)) = self.0.last_answers.get(upstream) {
            memory.begin_with(found, at, Instant::now());
        }
        let entry = Rc::new(Entry {
            memory: RefCell::new(memory),
            used: Cell::new(true),
            begun: Cell::new(0),
            ended: Cell::new(0),
            news: Notify::new(),
            is_wanted: Cell::new(false),
            wanted: Notify::new(),
        });
        self.0.entries.borrow_mut().insert(Arc::clone(upstream), Rc::clone(&entry));
        if literal.is_none() {
            tokio::task::spawn_local(keep_fresh(
                Rc::downgrade(&self.0),
                Arc::clone(upstream),
                Rc::clone(&entry),
            ));
        }
        entry
    }
}

impl Shared {
    /// Whether `entry` is still what is known of `upstream`.
    fn has(&self, upstream: &Arc<Upstream>, entry: &Rc<Entry>) -> bool {
        self.entries.borrow().get(upstream).is_some_and(|known| Rc::ptr_eq(known, entry))
    }

    /// Takes what a look-up came to, or what it has come to so far, and tells all whom it concerns. Returns how long until
    /// the next one.
    fn settle(&self, upstream: &Arc<Upstream>, entry: &Entry, outcome: Result<Found, Miss>) -> Duration {
        let now = Instant::now();
        self.last_answers.count(&outcome);
        if let Ok(found) = &outcome {
            self.last_answers.note(upstream, found.clone(), now);
        }
        let Settled { gone, pause, failure } = entry.memory.borrow_mut().settle(upstream, now, outcome);
        if entry.memory.borrow().is_missing() {
            self.last_answers.forget(upstream);
        }
        entry.ended.set(entry.begun.get());
        entry.news.notify_waiters();
        if let Some(failure) = failure {
            self.last_answers.log(upstream, &failure);
        }
        if !gone.is_empty() {
            debug!(upstream = upstream.authority, ?gone, "addresses left the answer");
            (self.on_gone)(upstream, &gone);
        }
        pause
    }
}

impl Entry {
    /// Ends when a new look-up is wanted and the one under way has come to something, so that what it still waits for can
    /// be left.
    async fn cut_short(&self) {
        while !self.is_wanted.get() || self.ended.get() != self.begun.get() {
            self.wanted.notified().await;
        }
    }
}

/// Looks `upstream` up again and again, until nobody asks for it any more.
async fn keep_fresh(view: Weak<Shared>, upstream: Arc<Upstream>, entry: Rc<Entry>) {
    let mut last_used = Instant::now();
    loop {
        let Some(resolver) = view.upgrade().map(|shared| Rc::clone(&shared.resolver)) else { return };
        let started = Instant::now();
        entry.begun.update(|count| count + 1);
        entry.is_wanted.set(false);
        let early = |found| {
            if let Some(shared) = view.upgrade() {
                shared.settle(&upstream, &entry, Ok(found));
                entry.wanted.notify_one();
            }
        };
        let outcome = tokio::select! {
            outcome = resolver.look_up(&upstream, early) => Some(outcome),
            () = entry.cut_short() => None,
        };

        let Some(shared) = view.upgrade() else { return };
        let pause = outcome.map_or(Duration::ZERO, |outcome| shared.settle(&upstream, &entry, outcome));
        if !shared.has(&upstream, &entry) {
            shared.last_answers.let_go(&upstream);
            return;
        }
        if entry.used.take() {
            last_used = Instant::now();
        } else if last_used.elapsed() > FORGET_AFTER {
            shared.entries.borrow_mut().remove(&upstream);
            return;
        }
        drop(shared);
        tokio::select! {
            () = sleep_until(started + pause) => {}
            () = entry.cut_short() => {}
        }
        if view.upgrade().is_none_or(|shared| !shared.has(&upstream, &entry)) {
            return;
        }
        sleep_until(started + LOOK_UP_SPACING).await;
    }
}
