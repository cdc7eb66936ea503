//! Routes by the labels of containers: what is known of them, and what became of it.
//!
//! Here is what needs no Podman: reading labels, and arranging what they ask for beside the configuration's routes.

#![forbid(unsafe_code)]

pub mod claim;
mod routes;
mod terms;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use self::claim::Claim;
use super::config::Config;
use super::metrics::{Kind, Series, labelled};
use super::route::Route;

/// What labels ask for. Written by the main thread, and read when routes are arranged and by the admin listener.
#[derive(Debug, Default)]
pub struct Labels {
    known: Mutex<Known>,
    done: AtomicI64,
    failed: AtomicI64,
}

#[derive(Debug, Default)]
struct Known {
    claims: Vec<Claim>,
    /// What is wrong with labels.
    malformed: BTreeSet<String>,
    /// What was said in the log of claims that have no route: once is enough.
    refused: BTreeSet<String>,
    /// How many containers have a label, well-formed or not.
    containers: usize,
    /// When all were last looked at; by two clocks, as one may be set.
    synced_at: Option<(Instant, SystemTime)>,
    error: Option<String>,
}

/// All labelled containers, as they were at one time.
#[derive(Debug, Default)]
pub struct Census {
    /// What they ask for.
    pub claims: Vec<Claim>,
    /// What is wrong with the labels of others.
    pub malformed: BTreeSet<String>,
    /// How many they are.
    pub containers: usize,
}

/// The state of things, for operators.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many containers have a label that asks for a route.
    containers: usize,
    /// Why some of them have none.
    refused: Vec<String>,
    /// When all were last looked at, in seconds since 1970.
    synced_at: Option<u64>,
    /// Why what is known may be old.
    error: Option<String>,
}

impl Labels {
    /// Takes note of a census; whether it asks for other routes than the one before.
    pub fn note(&self, census: Census) -> bool {
        self.done.fetch_add(1, Relaxed);
        let mut known = self.lock();
        for mistake in census.malformed.difference(&known.malformed) {
            tracing::warn!("{mistake}");
        }
        known.malformed = census.malformed;
        known.containers = census.containers;
        known.synced_at = Some((Instant::now(), SystemTime::now()));
        let is_news = known.claims != census.claims;
        known.claims = census.claims;
        is_news
    }

    /// Takes note that Podman did not answer as it should; whether that is news.
    pub fn failed(&self, error: &str) -> bool {
        self.failed.fetch_add(1, Relaxed);
        self.lock().error.replace(error.to_owned()).is_none()
    }

    /// Takes note that Podman can be followed; whether that is news.
    pub fn recovered(&self) -> bool {
        self.lock().error.take().is_some()
    }

    /// How long ago all containers were last looked at.
    pub fn age(&self) -> Option<Duration> {
        self.lock().synced_at.map(|(at, _)| at.elapsed())
    }

    /// Forgets all that is known; whether that was anything.
    pub fn forget(&self) -> bool {
        let mut known = self.lock();
        let error = known.error.take();
        let before = std::mem::replace(&mut *known, Known { error, ..Known::default() });
        !before.claims.is_empty()
    }

    /// The routes that labels ask for and that may be beside those of `config`. The log is told of the others.
    pub fn routes(&self, config: &Config) -> Vec<Arc<Route>> {
        let claims = self.lock().claims.clone();
        let (routes, refused) = routes::arrange(&claims, config);
        let mut known = self.lock();
        for reason in refused.difference(&known.refused) {
            tracing::warn!("{reason}");
        }
        known.refused = refused;
        routes
    }

    /// The state of things.
    pub fn report(&self) -> Report {
        let known = self.lock();
        let since_1970 =
            |(_, at): (Instant, SystemTime)| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Report {
            containers: known.containers,
            refused: known.malformed.union(&known.refused).cloned().collect(),
            synced_at: known.synced_at.map(since_1970),
            error: known.error.clone(),
        }
    }

    /// As metrics.
    pub fn series(&self) -> [Series; 3] {
        let Report { containers, refused, .. } = self.report();
        let gauge = |name, help, count: usize| Series {
            name,
            help,
            kind: Kind::Gauge,
            values: vec![(
                Vec::new(),
                super::metrics::Value::Number(i64::try_from(count).unwrap_or(i64::MAX)),
            )],
        };
        let results = [("done", &self.done), ("failed", &self.failed)];
        [
            gauge("rprox_labelled_containers", "Containers whose labels ask for a route", containers),
            gauge("rprox_labels_refused", "Labels that can't be understood or have no route", refused.len()),
            Series {
                name: "rprox_label_resyncs",
                help: "Times that all labelled containers were looked at",
                kind: Kind::Counter,
                values: results.map(|(result, count)| labelled("result", result, count.load(Relaxed))).into(),
            },
        ]
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it is held; if it did, each part would still be whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
