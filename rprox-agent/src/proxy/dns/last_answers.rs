//! What the workers tell each other of DNS.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::resolver::Found;
use crate::proxy::upstream::Upstream;

/// The last good answer for each name, of the whole process. A worker that has not met a name yet begins with what another
/// knows of it, so that its first request need not wait, nor fail because DNS does just now. Nothing else is shared: from
/// then on the worker keeps an answer of its own.
#[derive(Debug, Default)]
pub struct LastAnswers(Mutex<HashMap<Arc<Upstream>, (Found, Instant)>>);

impl LastAnswers {
    pub(super) fn get(&self, upstream: &Upstream) -> Option<(Found, Instant)> {
        self.lock().get(upstream).cloned()
    }

    /// Notes an answer that came at `at`.
    pub(super) fn note(&self, upstream: &Arc<Upstream>, found: Found, at: Instant) {
        self.lock().insert(Arc::clone(upstream), (found, at));
    }

    /// Forgets a name that DNS knows no more.
    pub(super) fn forget(&self, upstream: &Upstream) {
        self.lock().remove(upstream);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Upstream>, (Found, Instant)>> {
        // Nothing panics while it is held; if it did, each entry would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
