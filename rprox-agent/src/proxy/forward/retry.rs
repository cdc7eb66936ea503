//! Which requests may be sent again, and how many.

#![forbid(unsafe_code)]

use std::cell::Cell;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Uri};
use tokio::time::Instant;

use super::request::UpstreamRequest;
use crate::proxy::config::Retries;
use crate::proxy::metrics::Metrics;

/// A retry, in parts of it: a request adds this for each percent of the budget.
const RETRY: u64 = 100;

/// What can be saved up: a burst of retries, however long it was quiet before.
const SAVED: u64 = 100 * RETRY;

/// What retries may add to an upstream's requests: a share of them, and a few each ten seconds for routes that have hardly any.
/// When everything fails, requests sent again are what keeps it failing.
#[derive(Debug, Default)]
pub struct Budget {
    /// What requests have saved up.
    saved: Cell<u64>,
    /// The retries of the minimum that are used, and since when.
    used: Cell<u32>,
    since: Cell<Option<Instant>>,
}

impl Budget {
    /// A request, which makes for a part of a retry.
    pub fn deposit(&self, rules: &Retries) {
        self.saved.set((self.saved.get() + u64::from(rules.budget)).min(SAVED));
    }

    /// Takes a retry, if one is left.
    #[must_use]
    pub fn withdraw(&self, rules: &Retries, metrics: &Metrics) -> bool {
        let taken = self.take(rules);
        if taken {
            metrics.retries.increment();
        } else {
            metrics.retries_refused.increment();
        }
        taken
    }

    fn take(&self, rules: &Retries) -> bool {
        let now = Instant::now();
        if self.since.get().is_none_or(|since| now - since >= Retries::WINDOW) {
            self.since.set(Some(now));
            self.used.set(0);
        }
        if self.used.get() < rules.minimum {
            self.used.set(self.used.get() + 1);
            return true;
        }
        let left = self.saved.get().checked_sub(RETRY);
        left.inspect(|left| self.saved.set(*left)).is_some()
    }
}

/// A request without a body, to be sent again. That is hardly ever needed, so its fields are written down in one piece: a copy of
/// the header map costs several times that, as each value's buffer has a count of its owners.
pub(super) struct Copy {
    method: Method,
    uri: Uri,
    /// Name and value of one field after the other.
    fields: Vec<u8>,
    /// Where in `fields` each name and each value ends, and whether the value is sensitive.
    ends: Vec<(usize, usize, bool)>,
}

impl Copy {
    pub(super) fn of(head: &Parts) -> Self {
        let headers = &head.headers;
        let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        let mut fields = Vec::with_capacity(headers.iter().map(length).sum());
        let mut ends = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            fields.extend_from_slice(name.as_str().as_bytes());
            let name_end = fields.len();
            fields.extend_from_slice(value.as_bytes());
            ends.push((name_end, fields.len(), value.is_sensitive()));
        }
        Self { method: head.method.clone(), uri: head.uri.clone(), fields, ends }
    }

    pub(super) fn into_request(self) -> UpstreamRequest {
        let mut request = UpstreamRequest::empty();
        let head = &mut request.head;
        head.method = self.method;
        head.uri = self.uri;
        let fields = Bytes::from(self.fields);
        let mut start = 0;
        for (name_end, end, is_sensitive) in self.ends {
            // Both were valid before.
            if let Ok(name) = HeaderName::from_bytes(&fields[start..name_end])
                && let Ok(mut value) = HeaderValue::from_maybe_shared(fields.slice(name_end..end))
            {
                value.set_sensitive(is_sensitive);
                head.headers.append(name, value);
            }
            start = end;
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few() {
        let rules = Retries { budget: 20, minimum: 3, ..Retries::default() };
        let budget = Budget::default();
        let count = |budget: &Budget| std::iter::from_fn(|| budget.take(&rules).then_some(())).count();
        assert_eq!(count(&budget), 3);
        for _ in 0..50 {
            budget.deposit(&rules);
        }
        assert_eq!(count(&budget), 10);
        for _ in 0..1_000_000 {
            budget.deposit(&rules);
        }
        assert_eq!(count(&budget), 100, "a quiet month is no licence for a storm");
    }

    #[test]
    fn a_copy_has_all_that_the_request_had() {
        let mut head = UpstreamRequest::empty().head;
        head.method = Method::PUT;
        head.uri = Uri::from_static("/a?b");
        let headers = &mut head.headers;
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("x-own", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("cookie", HeaderValue::from_static(""));
        headers.get_mut("x-own").unwrap().set_sensitive(true);
        let copy = Copy::of(&head).into_request().head;
        assert_eq!((copy.method, copy.uri), (head.method, head.uri));
        assert_eq!(copy.headers, head.headers);
        assert!(copy.headers["x-own"].is_sensitive());
    }
}
